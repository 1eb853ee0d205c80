import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

/**
 * @typedef {{ filename: string, subfolder: string, type: string }} SavedFile
 * @typedef {import("./viewer/viewer.mjs").Viewer} Viewer
 * @typedef {import("./viewer/source.mjs").Payload} Payload
 * @typedef {any} Node of litegraph
 * @typedef {any} Widget
 */

/** Address of a file ComfyUI keeps, whatever path it is served under. @param {SavedFile} file */
export function fileUrl({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

/**
 * One download link per file.
 * @param {SavedFile[]} files
 */
export function links(files) {
  return files.map((file) => {
    const link = document.createElement("a")
    link.href = fileUrl(file)
    link.download = file.filename
    link.textContent = file.filename
    link.title = "Download"
    link.style.cssText = "display: block; color: var(--p-primary-color, #6bf); font-size: 12px;"
    // The graph would take the press for the start of a drag.
    link.addEventListener("pointerdown", (event) => event.stopPropagation())
    return link
  })
}

/**
 * Adds to what a node does in a callback.
 * @param {Node} node @param {string} name of the callback
 * @param {(...args: any[]) => void} added
 */
function chain(node, name, added) {
  const before = node[name]
  node[name] = function (/** @type {any[]} */ ...args) {
    const result = before?.apply(this, args)
    added(...args)
    return result
  }
}

/**
 * Undo replaces every node by a new one with the same id. HTML nodes ("Nodes 2.0") then go on
 * showing the old node's element, so the new node's element has to take its place in the page.
 * @param {Node} node @param {Widget} widget
 */
function handOver(node, widget) {
  const take = () => {
    const replacement = app.canvas.graph?.getNodeById(node.id)
    const sameWidget = (/** @type {Widget} */ { name }) => name === widget.name
    const element = replacement?.widgets?.find(sameWidget)?.element
    if (element && !element.isConnected && widget.element.isConnected)
      widget.element.replaceWith(element)
  }
  chain(node, "onRemoved", () => setTimeout(take))
}

const ROW = 20 // pixels, height of a link
const MOST_ROWS = 6 // before the list scrolls

app.registerExtension({
  name: "lgmsplats.SavedFiles",

  nodeCreated(/** @type {Node} */ node) {
    if (node.comfyClass !== "LGM_SaveSplat") return
    const list = document.createElement("div")
    list.style.cssText = "overflow-y: auto; padding: 0 8px; box-sizing: border-box;"
    const height = () => Math.min(Math.max(list.childElementCount, 1), MOST_ROWS) * ROW
    const widget = node.addDOMWidget("lgm_files", "lgm_files", list, {
      getMinHeight: height,
      getMaxHeight: height,
      hideOnZoom: false,
      margin: 0, // the default of 10 pixels all around would leave a row no height
      serialize: false, // of the prompt
    })
    widget.serialize = false // of the workflow
    handOver(node, widget)
    chain(node, "onExecuted", (message) => {
      list.replaceChildren(...links(message?.lgm_files ?? []))
    })
  },
})

// The viewer of LGM_PreviewSplat. Its modules are loaded when the first such node is made, the 3D
// engine when there is something to show: a page without the node pays for this file alone.

const VIEWER = "LGM_PreviewSplat"
const [WIDTH, HEIGHT] = [480, 460] // pixels, of a new node and of the view's least height
const MARGIN = 10 // pixels, that classic nodes leave around an element

/** @type {Set<{ node: Node, show: (payload: Payload) => void, warm: () => void }>} in the graph */
const shown = new Set()

const words = () => import(new URL("./viewer/words.mjs", import.meta.url).href)

/**
 * What a viewer needs of the page.
 * @param {Node} node
 * @returns {import("./viewer/viewer.mjs").Host}
 */
function hostOf(node) {
  const valueOf = (/** @type {string} */ name) =>
    node.widgets?.find((/** @type {Widget} */ widget) => widget.name === name)?.value
  return {
    async read(file) {
      const reply = await fetch(fileUrl(file))
      if (reply.ok) return reply.arrayBuffer()
      const { t } = await words()
      const values = { name: file.filename, status: reply.status }
      throw new Error(
        t("{name} is no longer on the server ({status}): run the graph again.", values),
      )
    },
    address: fileUrl,
    async upload(blob, name, subfolder, type) {
      const body = new FormData()
      body.append("image", blob, name)
      for (const [key, value] of Object.entries({ subfolder, type })) body.append(key, value)
      const reply = await api.fetchApi("/upload/image", { method: "POST", body })
      if (!reply.ok) {
        const { t } = await words()
        const values = { name, status: reply.status }
        throw new Error(t("The server did not take {name} ({status}): try again.", values))
      }
      const saved = await reply.json()
      return { filename: saved.name, subfolder: saved.subfolder, type: saved.type }
    },
    pictureSize: () => ({ width: valueOf("width") ?? 1024, height: valueOf("height") ?? 1024 }),
    sendsSeen: () => valueOf("picture") === "as seen",
    changed: () => node.graph?.setDirtyCanvas?.(true, true),
    locale: app.extensionManager?.setting?.get("Comfy.Locale"),
  }
}

/**
 * The widget is created at once; the viewer is put into it when its modules are loaded.
 * @param {Node} node @param {string} name
 */
function addViewer(node, name) {
  const element = document.createElement("div")
  // HTML nodes ("Nodes 2.0") don't ask for getMinHeight.
  element.style.cssText = `width: 100%; height: 100%; min-height: ${HEIGHT - 2 * MARGIN}px;`
  /** @type {any} what the workflow kept, until the modules are there */
  let saved = null
  /** @type {Viewer | null} */
  let viewer = null
  let removed = false
  const open = async () => {
    const { makeViewer } = await import(new URL("./viewer/viewer.mjs", import.meta.url).href)
    /** @type {Viewer} */
    const made = await makeViewer(hostOf(node))
    if (removed) {
      made.dispose()
      return null
    }
    viewer = widget.viewer = made
    if (saved) made.restore(saved)
    element.replaceChildren(made.element)
    return made
  }
  const opened = open()
  opened.catch((error) => {
    element.textContent = `The viewer did not load (${error.message}): reload the page.`
  })
  const widget = node.addDOMWidget(name, "LGM_VIEWER", element, {
    getValue: () => viewer?.saved() ?? saved,
    setValue(/** @type {any} */ value) {
      saved = value
      viewer?.restore(value)
    },
    getMinHeight: () => HEIGHT,
    margin: MARGIN,
    hideOnZoom: false,
  })
  widget.serializeValue = async () => (await opened)?.promptValue()
  handOver(node, widget)

  const show = (/** @type {Payload} */ payload) => {
    node.properties.lgm_preview = payload // a workflow that is opened again shows its last result
    opened.then((it) => it && (it.settled = it.show(payload)))
  }
  const warm = () => opened.then((it) => it?.warm())
  const entry = { node, show, warm }
  shown.add(entry)
  chain(node, "onExecuted", (message) => message?.lgm_preview && show(message.lgm_preview[0]))
  chain(node, "onConfigure", () => {
    const last = node.properties.lgm_preview
    if (last) opened.then((it) => it && (it.settled = it.showLast(last)))
  })
  chain(node, "onRemoved", () => {
    removed = true
    shown.delete(entry)
    viewer?.dispose()
  })
  node.onDragOver = (/** @type {DragEvent} */ event) =>
    !!event.dataTransfer?.types.includes("Files")
  node.onDragDrop = (/** @type {DragEvent} */ event) => !!viewer?.drop(event.dataTransfer?.files)
  return { widget }
}

/**
 * The key of a node among the page's results: in a subgraph with the subgraph's own id.
 * @param {Node} node
 */
const locator = ({ id, graph }) =>
  !graph || graph === graph.rootGraph || graph.isRootGraph ? String(id) : `${graph.id}:${id}`

/** @param {Event} event */
function keepTouch(event) {
  if (event.target instanceof Element && event.target.closest(".lgm-viewer"))
    event.stopPropagation()
}

app.registerExtension({
  name: "lgmsplats.Viewer",

  getCustomWidgets: () => ({ LGM_VIEWER: addViewer }),

  nodeCreated(/** @type {Node} */ node) {
    if (node.comfyClass === VIEWER) node.setSize([Math.max(node.size[0], WIDTH), node.size[1]])
  },

  setup() {
    // The engine loads while the graph runs.
    api.addEventListener("execution_start", () => shown.forEach(({ warm }) => warm()))
    // Two fingers on a view would zoom the graph as well: the page's listener for touches sits
    // above the nodes and gets them first. The view still gets them, as pointer events.
    for (const name of ["touchstart", "touchmove", "touchend", "touchcancel"])
      window.addEventListener(name, keepTouch, { capture: true, passive: true })
  },

  /** For new results, and when a tab is opened again or a result is taken from the history. */
  onNodeOutputsUpdated(/** @type {Record<string, { lgm_preview?: Payload[] }>} */ outputs) {
    for (const { node, show } of shown) {
      const payload = outputs[locator(node)]?.lgm_preview?.[0]
      if (payload) show(payload)
    }
  },
})
