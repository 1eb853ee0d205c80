/** The viewer and its parts, in a page and with an engine that draw nothing. */
import assert from "node:assert/strict"
import { beforeEach, test } from "node:test"
import { StubEngine, splat } from "./page.mjs"

const { Viewer } = await import("../../web/viewer/viewer.mjs")
const { SCALES } = await import("../../web/viewer/pace.mjs")

const SIDES = ["Front", "Left", "Back", "Right"] // of the four pictures; azimuth 0, 90, 180, 270
const pictures = (count) =>
  Array.from({ length: count }, (_, index) => ({
    filename: `${index}.png`,
    subfolder: "",
    type: "temp",
  }))

let engine
let viewer
let uploads
let asSeen

/** A viewer that shows a splat, as after a run with so many input pictures. */
function shown({ images = pictures(4), ...loaded } = {}) {
  viewer.source.payload = { splat: null, images, extent: { center: [0, 0, 0], size: [1, 1, 1] } }
  viewer.contents.loaded = { splat: splat(), ...loaded }
  viewer.filled()
}

const button = (text) => {
  const found = []
  const look = (element) => {
    if (element.textContent === text) found.push(element)
    element.children?.forEach(look)
  }
  look(viewer.element)
  assert.equal(found.length, 1, text)
  return found[0]
}
const press = (text) => button(text).dispatchEvent(new Event("click"))
const tags = () => viewer.frame.tags.map(({ hidden, textContent }) => (hidden ? null : textContent))

beforeEach(() => {
  uploads = []
  asSeen = false
  viewer = new Viewer({
    address: ({ filename }) => filename,
    pictureSize: () => ({ width: 64, height: 32 }),
    sendsSeen: () => asSeen,
    changed: () => undefined,
    upload: async (_, filename, subfolder, type) => {
      uploads.push(filename)
      return { filename, subfolder, type }
    },
  })
  engine = new StubEngine()
  viewer.contents.engine = engine
  viewer.contents.scenes = [{}, {}]
  viewer.screen.inSight = true
})

test("B can be what is there beside the splat", () => {
  const values = () => viewer.comparison.rivals().map(([value]) => value)
  shown({ images: [] })
  assert.deepEqual(values(), [])
  assert.equal(viewer.comparing(), "off")
  shown({ splat_b: splat("b"), mesh: { key: "mesh", item: {} }, images: pictures(2) })
  assert.deepEqual(values(), ["splat", "mesh", "0", "1"])
  assert.equal(viewer.comparison.rival(), "splat")
  shown({ splat: undefined, mesh: { key: "mesh", item: {} }, images: [] }) // nothing to compare it with
  assert.deepEqual(values(), [])
})

test("a picture is compared only when it was asked for", () => {
  shown()
  assert.equal(viewer.comparison.rival(), undefined)
  assert.equal(viewer.comparing(), "off")
  viewer.comparison.setCompare("side") // of all there is, the first
  assert.equal(viewer.comparison.rival(), "0")
  assert.equal(viewer.comparing(), "side")
})

test("a picture of four is seen from where LGM saw it", () => {
  SIDES.forEach((side, index) => {
    shown()
    press(`Picture ${index + 1}`)
    assert.equal(viewer.comparing(), "wipe")
    assert.deepEqual(tags(), ["Splat", `Picture ${index + 1}`])
    const [, { image }] = viewer.comparison.sides()
    assert.equal(image.filename, `${index}.png`)
    const compared = viewer.info()
    assert.ok(
      Math.abs(viewer.orbit().azimuth - 90 * index) < 0.01,
      `${side}: ${viewer.orbit().azimuth}`,
    )
    viewer.lookFrom([33, 11])
    press(side) // the button of the camera's panel
    assert.deepEqual(viewer.info(), compared, side)
  })
})

test("who chooses a B wants to see it", () => {
  shown({ splat_b: splat("b") })
  viewer.comparison.setCompare("off")
  viewer.comparison.setRival("1")
  assert.equal(viewer.comparing(), "wipe")
  viewer.comparison.setCompare("side")
  viewer.comparison.setRival("splat")
  assert.equal(viewer.comparing(), "side")
})

test("pictures of another count are not said to be from LGM's cameras", () => {
  shown({ images: pictures(3) })
  viewer.lookFrom([33, 11])
  const before = viewer.info()
  viewer.comparison.setRival("1")
  assert.equal(viewer.comparing(), "wipe")
  assert.deepEqual(viewer.info(), before)
})

test("A and B change places with their names, and what they show is the same", () => {
  shown({ splat_b: splat("b") })
  assert.deepEqual(tags(), ["A", "Splat B"])
  const before = viewer.comparison.sides()
  viewer.flip()
  assert.deepEqual(tags(), ["Splat B", "A"])
  assert.deepEqual(viewer.comparison.sides(), before)
  assert.equal(viewer.subject().flipped, true)
  viewer.comparison.setCompare("off")
  assert.deepEqual(tags(), [null, null])
})

test("side by side, what stands on the left is named there", async () => {
  shown({ splat_b: splat("b") })
  viewer.comparison.setCompare("side")
  const places = async () => {
    await viewer.screen.draw()
    const [a, b] = viewer.drawing.scratch
    return viewer.canvas.drawn.map(([image, x]) => [
      { A: a, "Splat B": b }[tags()[x && 1]],
      image,
      x,
    ])
  }
  for (const flipped of [false, true]) {
    if (flipped) viewer.flip()
    const drawn = await places()
    assert.deepEqual(
      drawn.map(([, , x]) => x),
      [0, 200],
    )
    for (const [named, image] of drawn) assert.equal(named, image)
  }
})

test("splat and mesh are in one picture, or apart as A and B", () => {
  shown({ mesh: { key: "mesh", item: {} }, images: [] })
  const sides = () => viewer.comparison.sides().map(({ splat, mesh }) => [!!splat, mesh])
  assert.deepEqual(sides(), [
    [true, false],
    [false, true],
  ])
  assert.deepEqual(tags(), ["Splat", "Mesh"])
  viewer.comparison.setCompare("off")
  assert.deepEqual(sides(), [[true, true]])
  viewer.setLook({ show_splat: false })
  assert.deepEqual(sides(), [[false, true]])
})

test("a dropped splat has no pictures of the run before", () => {
  shown()
  viewer.source.dropped = { filename: "a.ply", subfolder: "", type: "local" }
  assert.deepEqual(viewer.comparison.rivals(), [])
  assert.deepEqual(viewer.source.about().notes, ["a.ply"])
})

test("while a hand moves the view, slow pictures become coarser, and sharp when it rests", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] })
  shown()
  const width = () => viewer.canvas.width
  engine.timeOf = async () => 160 * viewer.pace.scale ** 2
  await viewer.screen.draw()
  assert.equal(width(), 400)
  assert.equal(engine.panes.at(-1).moving, false)
  viewer.motion.setMoving(true)
  for (let i = 0; i < 10; i++) {
    viewer.invalidate()
    await viewer.screen.ready()
    await viewer.screen.draw()
  }
  assert.equal(engine.panes.at(-1).moving, true)
  assert.equal(viewer.pace.scale, SCALES.at(-1))
  assert.equal(width(), 400 * SCALES.at(-1))
  const asked = engine.asked
  t.mock.timers.tick(1000) // the hand holds still
  assert.equal(engine.asked, asked + 1)
  await viewer.screen.draw()
  assert.equal(width(), 400)
  viewer.lookFrom([33, 11]) // and goes on
  await viewer.screen.draw()
  assert.equal(width(), 400 * SCALES.at(-1))
})

test("after the wheel the view is sharp again, and stays so", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] })
  shown()
  viewer.motion.glide(viewer.orbit())
  await viewer.screen.draw()
  assert.equal(engine.panes.at(-1).moving, true)
  t.mock.timers.tick(1000)
  for (let i = 0; i < 2; i++) {
    await viewer.screen.draw()
    assert.equal(engine.panes.at(-1).moving, false)
    viewer.lookFrom([33, 11]) // by a button
  }
})

test("times of pictures that nobody moved are not counted, and fast ones stay sharp", async () => {
  shown()
  engine.time = 5000
  for (let i = 0; i < 5; i++) await viewer.screen.draw()
  assert.equal(viewer.pace.scale, 1)
  engine.time = 10
  viewer.motion.setMoving(true)
  for (let i = 0; i < 20; i++) await viewer.screen.draw()
  assert.equal(viewer.canvas.width, 400)
})

test("other contents begin with sharp pictures", async () => {
  shown()
  const { pace } = viewer
  pace.took(5000, 1)
  assert.ok(viewer.pace.scale < 1)
  shown()
  assert.equal(viewer.pace.scale, 1)
})

test("the turntable stands for a hand, and where it stood becomes the camera", () => {
  shown()
  viewer.setLook({ turntable: true })
  assert.ok(viewer.motion.turning())
  const { azimuth } = viewer.orbit()
  viewer.camera.spin = 40
  viewer.motion.setMoving(true)
  assert.ok(!viewer.motion.turning())
  assert.equal(viewer.spin, 0)
  assert.ok(Math.abs(viewer.orbit().azimuth - azimuth - 40) < 0.01)
  viewer.motion.setMoving(false)
  assert.ok(viewer.motion.turning())
})

test("the graph gets camera, edit, background and file, and no picture if it draws its own", async () => {
  shown()
  viewer.lookFrom([33, 11])
  viewer.setEdit({ min_opacity: 0.25 })
  viewer.setLook({ background: "#204060", mode: "depth" })
  viewer.state.file = "3d/a.ply"
  const value = await viewer.promptValue()
  const { camera, edit, file } = viewer.saved()
  assert.deepEqual(value, {
    version: 1,
    camera,
    edit,
    look: { background: "#204060" },
    seen: null,
    file,
  })
  assert.equal(edit.min_opacity, 0.25)
  assert.deepEqual(uploads, [])
})

test("as seen the picture is sent, once as long as it stays the same", async () => {
  asSeen = true
  assert.equal((await viewer.promptValue()).seen, null) // nothing to see yet
  shown()
  const first = await viewer.promptValue()
  assert.equal(first.seen.type, "temp")
  assert.equal(first.seen.filename, uploads[0])
  viewer.setLook({ background: "#000000" }) // the node's own
  assert.deepEqual((await viewer.promptValue()).seen, first.seen)
  assert.equal(uploads.length, 1)
  const changes = [
    () => viewer.lookFrom([33, 11]),
    () => viewer.setEdit({ min_opacity: 0.25 }),
    () => viewer.setLook({ mode: "depth" }),
    () => (viewer.contents.loaded = { splat: splat("other") }),
  ]
  for (const [index, change] of changes.entries()) {
    change()
    await viewer.promptValue()
    assert.equal(uploads.length, index + 2, String(change))
  }
})

test("what is sent has no ghosts of what is cropped, though the screen has", async () => {
  asSeen = true
  shown()
  viewer.open("crop")
  await viewer.promptValue()
  assert.equal(engine.panes.at(-1).width, 64)
  assert.match(engine.panes.at(-1).key, /^\d+,false,/)
  await viewer.screen.draw()
  assert.match(engine.panes.at(-1).key, /^\d+,true,/)
})

test("a lost context is said, and no picture of it is sent", async () => {
  asSeen = true
  shown()
  engine.lost = true
  await assert.rejects(viewer.promptValue(), /graphics context is gone/)
  assert.deepEqual(uploads, [])
  viewer.screen.lost(true)
  assert.equal(viewer.element.dataset.state, "error")
  viewer.screen.lost(false)
  assert.equal(viewer.element.dataset.state, "ready")
})

test("what was saved comes back, and Reset leaves nothing of it", () => {
  shown({ splat_b: splat("b") })
  const before = viewer.saved()
  viewer.lookFrom([33, 11])
  viewer.setLook({ mode: "depth" })
  viewer.flip()
  const saved = JSON.parse(JSON.stringify(viewer.saved()))
  viewer.reset()
  assert.deepEqual(viewer.saved(), before)
  assert.deepEqual(tags(), ["A", "Splat B"])
  viewer.restore(saved)
  assert.deepEqual(viewer.saved(), saved)
  assert.ok(Math.abs(viewer.orbit().azimuth - 33) < 0.01)
})
