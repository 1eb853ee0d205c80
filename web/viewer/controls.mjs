/** Pointer, wheel, touch and keys on a view. */
import { orbitBy, panBy, zoomBy } from "./camera.mjs"

const TURN = 180 // degrees for a drag over the shorter side
const KEY_TURN = 15 // degrees of an arrow key
const KEY_PAN = 0.05 // of the shorter side

/**
 * @typedef {{
 *   camera: import("./view-camera.mjs").ViewCamera,
 *   motion: import("./motion.mjs").Motion,
 *   fit: () => void,
 *   flip: () => void,
 * }} Inputs
 *   fit: makes what is shown fill the view; flip: swaps A and B
 */

/** @param {HTMLElement} surface that is dragged on @param {Inputs} inputs */
export function attachControls(surface, { camera, motion, fit, flip }) {
  /** @type {Map<number, { x: number, y: number }>} */
  const pointers = new Map()
  let panning = false

  /** Pixels of the surface itself, which the graph may show scaled. */
  const place = (/** @type {MouseEvent} */ event) => {
    const { left, top, width } = surface.getBoundingClientRect()
    const scale = surface.clientWidth / (width || 1)
    return { x: (event.clientX - left) * scale, y: (event.clientY - top) * scale }
  }
  const side = () => Math.min(surface.clientWidth, surface.clientHeight) || 1

  surface.addEventListener("pointerdown", (event) => {
    event.stopPropagation() // else the graph drags the node
    surface.focus({ preventScroll: true })
    surface.setPointerCapture(event.pointerId)
    pointers.set(event.pointerId, place(event))
    panning = event.button > 0 || event.shiftKey
    motion.setMoving(true)
  })
  surface.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId)
    if (!before) return
    event.stopPropagation()
    const now = place(event)
    const [dx, dy] = [(now.x - before.x) / side(), (now.y - before.y) / side()]
    if (!dx && !dy) return
    if (pointers.size === 2) {
      const [[, other]] = [...pointers].filter(([id]) => id !== event.pointerId)
      const spread = (/** @type {{ x: number, y: number }} */ p) =>
        Math.hypot(p.x - other.x, p.y - other.y) || 1
      camera.move(panBy(zoomBy(camera.orbit(), spread(before) / spread(now)), dx / 2, dy / 2))
    } else if (panning) camera.move(panBy(camera.orbit(), dx, dy))
    else camera.move(orbitBy(camera.orbit(), -dx * TURN, dy * TURN))
    pointers.set(event.pointerId, now)
  })
  for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
    surface.addEventListener(name, (event) => {
      if (pointers.delete(event.pointerId) && !pointers.size) motion.setMoving(false)
    })
  }
  surface.addEventListener("contextmenu", (event) => {
    event.preventDefault()
    event.stopPropagation()
  })
  surface.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault()
      event.stopPropagation()
      const pixels = event.deltaY * (event.deltaMode ? 33 : 1)
      motion.glide(zoomBy(camera.orbit(), Math.exp(Math.min(Math.max(pixels, -200), 200) / 700)))
    },
    { passive: false },
  )
  surface.addEventListener("dblclick", (event) => {
    event.stopPropagation()
    const { x, y } = place(event)
    camera.pivot(x, y, [surface.clientWidth, surface.clientHeight])
  })
  surface.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    // The graph would delete the selected node, which need not be this one.
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation()
    const action = keyAction(event)
    if (!action) return
    event.preventDefault()
    event.stopPropagation()
    action({ camera, motion, fit, flip })
  })
}

/**
 * @param {KeyboardEvent} event
 * @returns {((inputs: Inputs) => void) | undefined}
 */
function keyAction({ key, shiftKey }) {
  /** @type {Record<string, [number, number]>} right, up */
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }
  const arrow = arrows[key]
  if (arrow && shiftKey)
    return ({ camera }) =>
      camera.move(panBy(camera.orbit(), -arrow[0] * KEY_PAN, arrow[1] * KEY_PAN))
  if (arrow)
    return ({ camera }) =>
      camera.move(orbitBy(camera.orbit(), arrow[0] * KEY_TURN, arrow[1] * KEY_TURN))
  switch (key) {
    case "+":
    case "=":
      return ({ camera }) => camera.move(zoomBy(camera.orbit(), 1 / 1.2))
    case "-":
      return ({ camera }) => camera.move(zoomBy(camera.orbit(), 1.2))
    case "f":
    case "F":
      return ({ fit }) => fit()
    case " ":
      return ({ flip }) => flip()
  }
}
