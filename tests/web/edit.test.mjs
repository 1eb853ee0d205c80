import assert from "node:assert/strict"
import { test } from "node:test"
import { poseOf } from "../../web/viewer/camera.mjs"
import {
  EDGES,
  SIDES,
  dragged,
  faceAt,
  faceCenter,
  moveFace,
  wholeBox,
} from "../../web/viewer/crop.mjs"
import { countKept, extentOf, pick } from "../../web/viewer/splats.mjs"

const box = { center: [0, 0.5, 0], size: [1, 2, 3] }
const unit = { center: [0, 0, 0], size: [1, 1, 1] }
const close = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`)

test("a box has six sides and twelve edges", () => {
  assert.equal(SIDES.length, 6)
  assert.equal(EDGES.length, 12)
  assert.equal(new Set(EDGES.map(String)).size, 12)
})

test("a moved face lies where it was put, the others stay", () => {
  for (const side of SIDES) {
    const place = faceAt(box, side) + 0.2 * side.sign
    const moved = moveFace(box, side, place, unit)
    close(faceAt(moved, side), place)
    for (const other of SIDES) if (other !== side) close(faceAt(moved, other), faceAt(box, other))
  }
})

test("a face never passes the opposite one", () => {
  for (const side of SIDES) {
    const moved = moveFace(box, side, faceAt(box, side) - 100 * side.sign, unit)
    assert.ok(moved.size[side.axis] > 0)
    close(faceAt(moved, { ...side, sign: -side.sign }), faceAt(box, { ...side, sign: -side.sign }))
  }
})

test("a face follows the pointer that drags it", () => {
  const pose = poseOf({ target: box.center, azimuth: 40, elevation: 25, distance: 9, fov: 40 })
  const size = [300, 200]
  for (const side of SIDES) {
    const there = dragged(pose, box, side, [8, 3], size)
    const back = dragged(pose, box, side, [-8, -3], size)
    assert.ok(Math.abs(there) > 0 && Math.abs(there) < 1)
    close(there, -back)
  }
})

test("a face that is looked at straight on can't be dragged", () => {
  const pose = poseOf({ target: box.center, azimuth: 0, elevation: 0, distance: 900, fov: 1 })
  assert.equal(dragged(pose, box, { axis: 2, sign: 1 }, [5, 5], [200, 200]), 0)
  assert.notEqual(dragged(pose, box, { axis: 0, sign: 1 }, [5, 5], [200, 200]), 0)
})

test("the first box holds the whole extent", () => {
  for (const side of SIDES)
    assert.ok(side.sign * (faceAt(wholeBox(box), side) - faceAt(box, side)) > 0)
  assert.deepEqual(faceCenter(box, { axis: 1, sign: 1 }), [0, 1.5, 0])
})

const splat = {
  count: 4,
  positions: new Float32Array([0, 0, 0, 1, 0, 0, 0, 0, -3, 5, 5, 5]),
  opacities: new Float32Array([0.9, 0.5, 0.8, 0.1]),
  longest: new Float32Array([0.1, 0.2, 0.3, 0.4]),
}
const keep = (edit) => countKept(splat, { crop: null, min_opacity: 0, max_scale: 0, ...edit })

test("an edit keeps what the graph keeps: bounds included", () => {
  assert.equal(keep({}), 4)
  assert.equal(keep({ min_opacity: 0.5 }), 3)
  assert.equal(keep({ max_scale: Math.fround(0.2) }), 2)
  assert.equal(keep({ crop: { center: [0.5, 0, 0], size: [1, 1, 1] } }), 2)
  assert.equal(keep({ crop: { center: [0.5, 0, 0], size: [1, 1, 1] }, min_opacity: 0.6 }), 1)
})

test("a ray picks the first it meets, and nothing faint", () => {
  assert.deepEqual(pick(splat, [0, 0, 4], [0, 0, -1]), [0, 0, 0])
  assert.deepEqual(pick(splat, [0, 0, -9], [0, 0, 1]), [0, 0, -3])
  assert.equal(pick(splat, [0, 9, 4], [0, 0, -1]), null)
  assert.equal(pick(splat, [5, 5, 9], [0, 0, -1]), null)
})

test("the extent leaves out what is stray or faint", () => {
  const count = 3000
  const at = (i, axis) => Math.cos(i * (axis + 1.3)) * [1, 2, 3][axis]
  const many = {
    count,
    positions: Float32Array.from({ length: 3 * count }, (_, i) => at(Math.floor(i / 3), i % 3)),
    opacities: new Float32Array(count).fill(1),
  }
  const before = extentOf(many)
  many.positions.set([1000, 1000, 1000], 30) // one flew away
  many.opacities[5] = 0
  many.positions.set([-1000, 0, 0], 15)
  const after = extentOf(many)
  for (const axis of [0, 1, 2]) {
    assert.ok(Math.abs(after.size[axis] - before.size[axis]) < 0.05)
    assert.ok(Math.abs(before.size[axis] - 2 * [1, 2, 3][axis]) < 0.1 * before.size[axis])
  }
})
