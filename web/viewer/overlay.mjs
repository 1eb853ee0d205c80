/** What lies over the picture: crop box with handles, wipe line, the frame of the node's picture. */
import { corners, project } from "./camera.mjs"
import { EDGES, SIDES, dragged, faceAt, faceCenter, moveFace } from "./crop.mjs"
import { set, svg } from "./dom.mjs"
import { round } from "./state.mjs"
import { t } from "./words.mjs"

const AXES = "XYZ"
const COLORS = ["#f0605d", "#62c462", "#5b9cf5"] // of the axes, as everywhere

/**
 * @typedef {{
 *   stage: HTMLElement,
 *   state: import("./state.mjs").State,
 *   camera: import("./view-camera.mjs").ViewCamera,
 *   comparison: import("./comparison.mjs").Comparison,
 *   motion: import("./motion.mjs").Motion,
 *   pictureSize: () => { width: number, height: number },
 *   tool: () => string,
 *   extent: () => Box,
 *   box: () => Box,
 *   setCrop: (crop: Box) => void,
 *   setWipe: (part: number) => void,
 * }} Inputs
 *   tool: the open panel; extent: of what is shown; box: the crop box, or the one to begin with
 * @typedef {import("./state.mjs").Box} Box
 * @typedef {import("./crop.mjs").Side} Side
 */

/** @param {Inputs} inputs */
export function makeOverlay(inputs) {
  const { stage, state, camera, comparison, pictureSize, tool } = inputs
  const frame = svg("path", { class: "lgm-frame", "fill-rule": "evenodd" })
  const edges = EDGES.map(() => svg("line", { class: "lgm-edge" }))
  const handles = SIDES.map((side) => makeHandle(side, inputs))
  const wipe = makeWipe(inputs)
  const box = svg("g", {}, ...edges, ...handles)
  const root = svg("svg", { class: "lgm-overlay" }, frame, box, wipe)

  function update() {
    const { clientWidth: width, clientHeight: height } = stage
    const crop = tool() === "crop" && width ? inputs.box() : null
    const pose = camera.pose()
    drawFrame(frame, tool() === "picture" ? pictureSize() : null, width, height)
    box.style.display = crop ? "" : "none"
    box.classList.toggle("lgm-proposed", !state.edit.crop)
    if (crop) {
      const points = corners(crop).map((corner) => project(pose, corner, width, height))
      EDGES.forEach(([a, b], index) => {
        const [from, to] = [points[a], points[b]]
        const behind = from.depth <= 0 || to.depth <= 0
        edges[index].style.display = behind ? "none" : ""
        if (!behind) set(edges[index], { x1: from.x, y1: from.y, x2: to.x, y2: to.y })
      })
      SIDES.forEach((side, index) => {
        const { x, y, depth } = project(pose, faceCenter(crop, side), width, height)
        const usable = dragged(pose, crop, side, [1, 1], [width, height]) !== 0
        const handle = handles[index]
        handle.style.display = depth > 0 ? "" : "none"
        handle.classList.toggle("lgm-faint", !usable)
        if (depth > 0) set(handle, { cx: x, cy: y, "aria-valuenow": round(faceAt(crop, side)) })
      })
    }
    const wiping = comparison.comparing() === "wipe"
    wipe.style.display = wiping ? "" : "none"
    if (wiping) {
      const part = state.look.wipe
      set(wipe, {
        transform: `translate(${part * width} 0)`,
        "aria-valuenow": Math.round(100 * part),
      })
      const [line, knob, arrows] = wipe.children
      set(line, { y2: height })
      set(knob, { cy: height / 2 })
      set(arrows, { transform: `translate(0 ${height / 2})` })
    }
  }
  return { root, update }
}

/**
 * Darkens what is not in the node's picture, which need not have the view's shape.
 * @param {SVGElement} path
 * @param {{ width: number, height: number } | null} size of the node's picture; null: no frame
 * @param {number} width @param {number} height of the view
 */
function drawFrame(path, size, width, height) {
  path.style.display = size ? "" : "none"
  if (!size) return
  const scale = Math.min(width, height) / Math.min(size.width, size.height)
  const [w, h] = [size.width * scale, size.height * scale]
  const [x, y] = [(width - w) / 2, (height - h) / 2]
  set(path, { d: `M0 0H${width}V${height}H0Z M${x} ${y}h${w}v${h}h${-w}Z` })
}

/**
 * Calls `move` with the pixels from where the press began, and with what `begin` returned then.
 * @template T
 * @param {SVGElement} element @param {Inputs} inputs
 * @param {() => T} begin
 * @param {(moved: [number, number], start: T) => void} move
 */
function draggable(element, { stage, motion }, begin, move) {
  /** @type {{ x: number, y: number, start: T } | null} */
  let from = null
  element.addEventListener("pointerdown", (event) => {
    event.stopPropagation()
    event.preventDefault()
    element.focus()
    element.setPointerCapture(event.pointerId)
    from = { x: event.clientX, y: event.clientY, start: begin() }
    motion.setMoving(true)
  })
  element.addEventListener("pointermove", (event) => {
    if (!from) return
    event.stopPropagation()
    const { width } = stage.getBoundingClientRect()
    const scale = stage.clientWidth / (width || 1) // the graph may show it scaled
    move([(event.clientX - from.x) * scale, (event.clientY - from.y) * scale], from.start)
  })
  for (const name of ["pointerup", "pointercancel"]) {
    element.addEventListener(name, () => {
      if (from) motion.setMoving(false)
      from = null
    })
  }
}

/** @param {Side} side @param {Inputs} inputs */
function makeHandle(side, inputs) {
  const { stage, camera, extent, box: begin, setCrop } = inputs
  const name = `${side.sign > 0 ? "+" : "−"}${AXES[side.axis]}`
  const handle = svg("circle", {
    class: "lgm-handle",
    r: 7,
    fill: COLORS[side.axis],
    tabindex: 0,
    role: "slider",
    "aria-label": t("Crop box, {name} side", { name }),
    "data-side": `${side.sign > 0 ? "+" : "-"}${AXES[side.axis]}`,
  })
  const title = svg("title")
  title.textContent = t("Drag the {name} side of the crop box", { name })
  handle.append(title)
  const moveTo = (/** @type {Box} */ box, /** @type {number} */ place) =>
    setCrop(moveFace(box, side, place, extent()))
  draggable(handle, inputs, begin, (moved, box) => {
    const size = /** @type {[number, number]} */ ([stage.clientWidth, stage.clientHeight])
    const distance = dragged(camera.pose(), box, side, moved, size)
    if (distance) moveTo(box, faceAt(box, side) + distance)
  })
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key]
    if (!step) return
    event.preventDefault()
    event.stopPropagation()
    const box = begin()
    moveTo(box, faceAt(box, side) + 0.02 * step * extent().size[side.axis])
  })
  return handle
}

/** @param {Inputs} inputs */
function makeWipe(inputs) {
  const { stage, state, setWipe } = inputs
  const wipe = svg(
    "g",
    {
      class: "lgm-wipe",
      tabindex: 0,
      role: "slider",
      "aria-label": t("Line between A and B"),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    },
    svg("line", { y1: 0 }),
    svg("circle", { r: 11 }),
    svg("path", { d: "M-3-4-7 0l4 4M3-4 7 0 3 4" }),
  )
  const moveTo = (/** @type {number} */ part) => setWipe(Math.min(Math.max(part, 0), 1))
  const begin = () => state.look.wipe
  draggable(wipe, inputs, begin, ([dx], start) => moveTo(start + dx / stage.clientWidth))
  wipe.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key]
    if (!step) return
    event.preventDefault()
    event.stopPropagation()
    moveTo(begin() + step)
  })
  return wipe
}
