/** What lies over the picture: crop box with handles, wipe line, the frame of the node's picture. */
import { corners, project } from "./camera.mjs"
import { EDGES, SIDES, dragged, faceAt, faceCenter, moveFace } from "./crop.mjs"
import { set, svg } from "./dom.mjs"
import { round } from "./state.mjs"
import { t } from "./words.mjs"

const AXES = "XYZ"
const COLORS = ["#f0605d", "#62c462", "#5b9cf5"] // of the axes, as everywhere

/** @param {import("./viewer.mjs").Viewer} viewer */
export function makeOverlay(viewer) {
  const frame = svg("path", { class: "lgm-frame", "fill-rule": "evenodd" })
  const edges = EDGES.map(() => svg("line", { class: "lgm-edge" }))
  const handles = SIDES.map((side) => makeHandle(viewer, side))
  const wipe = makeWipe(viewer)
  const box = svg("g", {}, ...edges, ...handles)
  const root = svg("svg", { class: "lgm-overlay" }, frame, box, wipe)

  function update() {
    const { clientWidth: width, clientHeight: height } = viewer.stage
    const crop = viewer.tool === "crop" && viewer.stage.clientWidth ? viewer.box() : null
    const pose = viewer.pose()
    drawFrame(frame, viewer.tool === "picture" ? viewer.host.pictureSize() : null, width, height)
    box.style.display = crop ? "" : "none"
    box.classList.toggle("lgm-proposed", !viewer.state.edit.crop)
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
    const wiping = viewer.comparing() === "wipe"
    wipe.style.display = wiping ? "" : "none"
    if (wiping) {
      const x = viewer.state.look.wipe * width
      set(wipe, {
        transform: `translate(${x} 0)`,
        "aria-valuenow": Math.round(100 * viewer.state.look.wipe),
      })
      set(wipe.firstChild, { y2: height })
      set(wipe.children[1], { cy: height / 2 })
      set(wipe.lastChild, { transform: `translate(0 ${height / 2})` })
    }
  }
  return { root, update }
}

/** Darkens what is not in the node's picture, which need not have the view's shape. */
function drawFrame(path, size, width, height) {
  path.style.display = size ? "" : "none"
  if (!size) return
  const scale = Math.min(width, height) / Math.min(size.width, size.height)
  const [w, h] = [size.width * scale, size.height * scale]
  const [x, y] = [(width - w) / 2, (height - h) / 2]
  set(path, { d: `M0 0H${width}V${height}H0Z M${x} ${y}h${w}v${h}h${-w}Z` })
}

/** Calls `move` with the pixels from where the press began. */
function draggable(element, viewer, begin, move) {
  let from = null
  element.addEventListener("pointerdown", (event) => {
    event.stopPropagation()
    event.preventDefault()
    element.focus()
    element.setPointerCapture(event.pointerId)
    from = { x: event.clientX, y: event.clientY, start: begin() }
    viewer.setMoving(true)
  })
  element.addEventListener("pointermove", (event) => {
    if (!from) return
    event.stopPropagation()
    const { width } = viewer.stage.getBoundingClientRect()
    const scale = viewer.stage.clientWidth / (width || 1) // the graph may show it scaled
    move([(event.clientX - from.x) * scale, (event.clientY - from.y) * scale], from.start)
  })
  for (const name of ["pointerup", "pointercancel"]) {
    element.addEventListener(name, () => {
      if (from) viewer.setMoving(false)
      from = null
    })
  }
}

const stageSize = ({ clientWidth, clientHeight }) =>
  /** @type {[number, number]} */ ([clientWidth, clientHeight])

function makeHandle(viewer, side) {
  const name = `${side.sign > 0 ? "+" : "−"}${AXES[side.axis]}`
  const handle = svg("circle", {
    ...{ class: "lgm-handle", r: 7, fill: COLORS[side.axis], tabindex: 0, role: "slider" },
    "aria-label": t("Crop box, {name} side", { name }),
    "data-side": `${side.sign > 0 ? "+" : "-"}${AXES[side.axis]}`,
  })
  handle.append(svg("title"))
  handle.firstChild.textContent = t("Drag the {name} side of the crop box", { name })
  const moveTo = (box, place) => viewer.setCrop(moveFace(box, side, place, viewer.extent))
  const begin = () => viewer.box()
  draggable(handle, viewer, begin, (moved, box) => {
    const distance = dragged(viewer.pose(), box, side, moved, stageSize(viewer.stage))
    if (distance) moveTo(box, faceAt(box, side) + distance)
  })
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key]
    if (!step) return
    event.preventDefault()
    event.stopPropagation()
    const box = begin()
    moveTo(box, faceAt(box, side) + 0.02 * step * viewer.extent.size[side.axis])
  })
  return handle
}

function makeWipe(viewer) {
  const wipe = svg(
    "g",
    {
      ...{ class: "lgm-wipe", tabindex: 0, role: "slider", "aria-label": t("Line between A and B") },
      ...{ "aria-valuemin": 0, "aria-valuemax": 100 },
    },
    svg("line", { y1: 0 }),
    svg("circle", { r: 11 }),
    svg("path", { d: "M-3-4-7 0l4 4M3-4 7 0 3 4" }),
  )
  const moveTo = (part) => viewer.setLook({ wipe: Math.min(Math.max(part, 0), 1) })
  const begin = () => viewer.state.look.wipe
  draggable(wipe, viewer, begin, ([dx], start) => moveTo(start + dx / viewer.stage.clientWidth))
  wipe.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key]
    if (!step) return
    event.preventDefault()
    event.stopPropagation()
    moveTo(begin() + step)
  })
  return wipe
}
