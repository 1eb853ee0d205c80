/**
 * Arithmetic of the crop box.
 *
 * @typedef {import("./state.mjs").Vec3} Vec3
 * @typedef {import("./state.mjs").Box} Box
 * @typedef {{ axis: 0 | 1 | 2, sign: 1 | -1 }} Side one of the six faces
 */
import { project } from "./camera.mjs"

export const SIDES = [0, 1, 2].flatMap((axis) =>
  [1, -1].map((sign) => /** @type {Side} */ ({ axis, sign })),
)
/** Corners (as numbered in camera.mjs) that an edge joins. */
export const EDGES = [0, 1, 2].flatMap((axis) =>
  [0, 1, 2, 3, 4, 5, 6, 7].filter((i) => !((i >> axis) & 1)).map((i) => [i, i | (1 << axis)]),
)
const THINNEST = 1e-3 // of a box, as a part of the extent

/** The box that a crop begins with: all of what is visible. @param {Box} extent @returns {Box} */
export const wholeBox = ({ center, size }) => ({
  center: /** @type {Vec3} */ ([...center]),
  size: /** @type {Vec3} */ (size.map((side) => 1.04 * side)),
})

/** @param {Box} box @param {Side} side */
export const faceAt = (box, { axis, sign }) => box.center[axis] + (sign * box.size[axis]) / 2

/** @param {Box} box @param {Side} side @returns {Vec3} */
export const faceCenter = (box, side) =>
  /** @type {Vec3} */ (box.center.map((c, axis) => (axis === side.axis ? faceAt(box, side) : c)))

/**
 * The box with one face elsewhere; the opposite face stays, and is never passed.
 * @param {Box} box @param {Side} side @param {number} place on the face's axis
 * @param {Box} extent
 * @returns {Box}
 */
export function moveFace(box, { axis, sign }, place, extent) {
  const opposite = faceAt(box, { axis, sign: /** @type {1 | -1} */ (-sign) })
  const thickness = Math.max(sign * (place - opposite), THINNEST * extent.size[axis])
  const replace = (/** @type {Vec3} */ values, /** @type {number} */ value) =>
    /** @type {Vec3} */ (values.map((old, i) => (i === axis ? value : old)))
  return {
    center: replace(box.center, opposite + (sign * thickness) / 2),
    size: replace(box.size, thickness),
  }
}

/**
 * World units along a face's axis for a movement of the pointer; 0 when the axis points at the eye.
 * @param {import("./camera.mjs").Pose} pose
 * @param {Box} box @param {Side} side
 * @param {[number, number]} moved pixels
 * @param {[number, number]} size of the picture
 */
export function dragged(pose, box, side, moved, size) {
  const from = faceCenter(box, side)
  const step = 1e-3 * Math.max(...box.size)
  const to = /** @type {Vec3} */ (from.map((x, axis) => (axis === side.axis ? x + step : x)))
  const [a, b] = [project(pose, from, ...size), project(pose, to, ...size)]
  const pixels = [(b.x - a.x) / step, (b.y - a.y) / step]
  const squared = pixels[0] ** 2 + pixels[1] ** 2
  const shortest = (0.05 * Math.min(...size)) / Math.max(...box.size)
  if (squared < shortest ** 2) return 0
  return (moved[0] * pixels[0] + moved[1] * pixels[1]) / squared
}
