// Builds a graph in ComfyUI's own page, so that ids, sockets and the order of widgets are the page's.
// tools/workflows.py evaluates this file there; it gives an object of functions.
(() => {
  const TITLE = 30 // height of a node's title, above its position
  const GAP = [50, 40 + TITLE] // between columns, and between nodes above each other
  const PADDING = 25 // of a group around its nodes
  const GROUP_TITLE = 45
  const COLORS = { group: "#3f789e", note: { color: "#432", bgcolor: "#653" } }
  const FRAME = [1700, 950] // of the window the saved view fits

  const { graph } = window.app
  const node = (key) => graph.nodes.find((n) => n.properties.key === key)

  const find = (list, name, what) => {
    const index = (list ?? []).findIndex((item) => item.name === name)
    if (index >= 0) return index
    throw new Error(`no ${what} ${name} among ${(list ?? []).map((item) => item.name)}`)
  }

  function add(key, { type, title, widgets, width, models }) {
    const made = LiteGraph.createNode(type)
    if (!made) throw new Error(`the page can't make a ${type}`)
    graph.add(made)
    if (title) made.title = title
    if (type === "MarkdownNote") Object.assign(made, COLORS.note)
    const pack = made.constructor.nodeData?.python_module
    if (pack) made.properties.cnr_id = pack.startsWith("custom_nodes.") ? "lgm-splats" : "comfy-core"
    if (models.length) made.properties.models = models
    made.properties.key = key // how the functions here know it; taken away when saved
    for (const [name, value] of Object.entries(widgets)) {
      const widget = made.widgets[find(made.widgets, name, `widget of ${type}`)]
      widget.value = value
      widget.callback?.(value)
    }
    made.setSize([width, made.computeSize()[1]])
  }

  function link(key, inputs) {
    const target = node(key)
    for (const [name, [source, output]] of Object.entries(inputs)) {
      const from = node(source)
      const made = from.connect(
        find(from.outputs, output, `output of ${source}`),
        target,
        find(target.inputs, name, `input of ${key}`),
      )
      if (!made) throw new Error(`${source}.${output} does not fit ${key}.${name}`)
    }
  }

  const element = ({ id }) => document.querySelector(`[data-node-id="${id}"]`)

  /** Height below the title as HTML ("Nodes 2.0"), which is more than on the canvas. */
  const asHtml = (node) => (element(node)?.offsetHeight ?? 0) - TITLE

  /** Sets nodes below each other; gives where the last one ends. */
  function stack(keys, nodes, x, top) {
    let y = top
    for (const key of keys) {
      const { width, height, room } = nodes[key]
      const own = Math.max(node(key).computeSize()[1], height)
      node(key).setSize([width, own])
      node(key).pos = [x, y]
      y += Math.max(own, asHtml(node(key)), room) + GAP[1]
    }
    return y
  }

  /** Stage after stage from left to right; every stage with a title gets a frame. */
  function arrange({ stages, nodes }) {
    graph.groups.slice().forEach((group) => graph.remove(group))
    let [x, top, bottom] = [0, 0, 0]
    for (const { title, columns, below, new_row } of stages) {
      if (new_row) [x, top] = [0, bottom + 2 * GAP[1]]
      const left = x
      let end = top
      for (const column of columns) {
        end = Math.max(end, stack(column, nodes, x, top))
        x += Math.max(...column.map((key) => nodes[key].width)) + GAP[0]
      }
      end = stack(below, nodes, left, end)
      bottom = Math.max(bottom, end)
      if (!title) continue
      const group = new LiteGraph.LGraphGroup(title)
      group.color = COLORS.group
      group.pos = [left - PADDING, top - TITLE - GROUP_TITLE]
      group.size = [
        x - GAP[0] - left + 2 * PADDING,
        end - GAP[1] - top + TITLE + GROUP_TITLE + PADDING,
      ]
      graph.add(group)
      x += 2 * PADDING
    }
  }

  return {
    build(spec) {
      const { nodes } = spec
      graph.clear()
      for (const [key, node] of Object.entries(nodes)) add(key, node)
      for (const [key, node] of Object.entries(nodes)) link(key, node.inputs)
      arrange(spec)
      window.app.canvas.ds.scale = 0.1 // only what is in view becomes HTML
      window.app.canvas.ds.offset = [2000, 2000]
      window.app.canvas.setDirty(true, true)
    },

    /** Whether the page shows all nodes, and so knows their height. */
    measured: () => graph.nodes.every((node) => element(node)?.offsetHeight > TITLE),

    /** Puts all nodes into one: a blueprint, ready to be saved. */
    fold(spec) {
      const { name, sockets, width } = spec
      arrange(spec)
      const { subgraph, node: folded } = graph.convertToSubgraph(new Set(graph.nodes))
      const inner = (key) => subgraph.nodes.find((n) => n.properties.key === key)
      for (const [direction, add] of [["inputs", "addInput"], ["outputs", "addOutput"]]) {
        for (const [socket, [key, slot]] of Object.entries(sockets[direction])) {
          const slots = inner(key)[direction]
          const found = slots[find(slots, slot, `socket of ${key}`)]
          subgraph[add](socket, found.type).connect(found, inner(key))
        }
      }
      for (const each of subgraph.nodes) delete each.properties.key
      const right = Math.max(...subgraph.nodes.map((n) => n.pos[0] + n.size[0]))
      for (const [end, left] of [[subgraph.inputNode, -260], [subgraph.outputNode, right + 100]]) {
        end.arrange()
        end.pos = [left, 60]
        end.arrange() // the slots go with it
      }
      subgraph.name = folded.title = name
      folded.pos = [0, 0]
      folded.setSize([width, folded.computeSize()[1]])
      return JSON.parse(JSON.stringify(graph.serialize()))
    },

    /** The finished graph; its view shows all of it in a window of common size. */
    save(spec) {
      arrange(spec)
      const far = [0, 1].map((axis) =>
        Math.max(...graph.groups.map((group) => group.pos[axis] + group.size[axis])))
      const near = [0, 1].map((axis) => Math.min(...graph.groups.map((group) => group.pos[axis])))
      const scale = Math.min(1, ...[0, 1].map((axis) => FRAME[axis] / (far[axis] - near[axis])))
      const saved = JSON.parse(JSON.stringify(graph.serialize()))
      for (const each of saved.nodes) delete each.properties.key
      saved.extra = { ds: { scale, offset: near.map((value) => 80 / scale - value) } }
      return saved
    },
  }
})()
