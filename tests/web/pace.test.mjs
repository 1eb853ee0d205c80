import assert from "node:assert/strict"
import { test } from "node:test"
import { Pace, SCALES } from "../../web/viewer/pace.mjs"

/** Scales of so many pictures that take `fixed` and, in full size, `filling` milliseconds more. */
function scales(pace, count, fixed, filling) {
  return Array.from({ length: count }, () => {
    const { scale } = pace
    pace.took(fixed + filling * scale ** 2, scale)
    return scale
  })
}

const changes = (list) => list.filter((scale, index) => index && scale !== list[index - 1]).length

test("fast pictures stay sharp", () => {
  assert.deepEqual(new Set(scales(new Pace(), 100, 10, 39)), new Set([1]))
})

test("slow pictures become coarser as far as needed, within a few", () => {
  assert.equal(scales(new Pace(), 4, 5, 70).at(-1), 0.75)
  assert.equal(scales(new Pace(), 4, 5, 150).at(-1), 0.5)
  assert.equal(scales(new Pace(), 20, 5, 5000).at(-1), 0.5)
})

test("one late picture changes nothing", () => {
  const pace = new Pace()
  for (let i = 0; i < 50; i++) pace.took(i % 5 ? 20 : 400, pace.scale)
  assert.equal(pace.scale, 1)
})

test("a dire picture is enough", () => {
  assert.equal(scales(new Pace(), 2, 5, 1000).at(-1), 0.5)
})

test("whatever pictures cost, the scale settles after three changes at most", () => {
  for (let fixed = 0; fixed <= 200; fixed += 4) {
    for (let filling = 0; filling <= 600; filling += 6) {
      const list = scales(new Pace(), 200, fixed, filling)
      assert.ok(changes(list) <= 3, `${fixed} + ${filling} ms: ${list}`)
      assert.equal(changes(list.slice(60)), 0, `${fixed} + ${filling} ms: ${list}`)
    }
  }
})

test("what a scale settles at is fast, or as fast as it gets, or sharp because nothing helps", () => {
  for (let fixed = 0; fixed <= 200; fixed += 4) {
    for (let filling = 0; filling <= 600; filling += 6) {
      const scale = scales(new Pace(), 200, fixed, filling).at(-1)
      const time = (at) => fixed + filling * at ** 2
      const sharpInVain = scale === 1 && time(0.75) > 0.8 * time(1)
      assert.ok(time(scale) <= 50 || scale === SCALES.at(-1) || sharpInVain, `${fixed}, ${filling}`)
    }
  }
})

test("where Gaussians, not pixels, take the time, pictures are sharp", () => {
  const pace = new Pace()
  assert.equal(scales(pace, 30, 300, 20).at(-1), 1)
  assert.deepEqual(new Set(scales(pace, 30, 300, 20)), new Set([1])) // it does not try again
})

test("when the work becomes less, pictures become sharp again, but not for one of them", () => {
  const pace = new Pace()
  scales(pace, 10, 5, 150)
  assert.equal(pace.scale, 0.5)
  scales(pace, 5, 2, 20)
  assert.equal(pace.scale, 0.5)
  assert.equal(scales(pace, 30, 2, 20).at(-1), 1)
})

test("times of pictures from before a change are not counted", () => {
  const pace = new Pace()
  scales(pace, 3, 0, 80)
  assert.equal(pace.scale, 0.75)
  for (let i = 0; i < 20; i++) pace.took(500, 1)
  assert.equal(pace.scale, 0.75)
})
