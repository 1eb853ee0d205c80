import assert from "node:assert/strict"
import { test } from "node:test"
import {
  defaultState,
  isUnedited,
  promptValue,
  readState,
  round,
  roundAll,
  toggled,
} from "../../web/viewer/state.mjs"

const camera = {
  position: { x: 1, y: 2, z: 3 },
  target: { x: 0, y: 0, z: 0 },
  fov: 49.1,
  cameraType: "perspective",
}

test("nothing, in any form, is the default state", () => {
  for (const nothing of [undefined, null, "", {}, 0, "text", { look: null, edit: null }])
    assert.deepEqual(readState(nothing), defaultState())
})

test("a state survives JSON", () => {
  const state = defaultState()
  state.camera = camera
  state.edit = {
    crop: { center: [0.1, 0, -0.2], size: [1, 2, 3] },
    min_opacity: 0.2,
    max_scale: 0.1,
  }
  Object.assign(state.look, { mode: "depth", background: "checker", compare: "side", wipe: 0.25 })
  state.file = "3d/a.ply"
  assert.deepEqual(readState(JSON.parse(JSON.stringify(state))), state)
})

test("what cannot be is replaced by what can", () => {
  const { camera, edit, look } = readState({
    camera: { position: { x: 1, y: "2", z: 3 } },
    edit: { crop: { center: [0, 0], size: [1, 1, 1] }, min_opacity: 7, max_scale: NaN },
    look: { mode: "x-ray", background: "javascript:alert(1)", scale: -1, wipe: "half" },
  })
  assert.equal(camera, null)
  assert.deepEqual(edit, { crop: null, min_opacity: 1, max_scale: 0 })
  assert.deepEqual([look.mode, look.background, look.wipe], ["splat", "#ffffff", 0.5])
  assert.ok(look.scale > 0)
})

test("reading twice changes nothing", () => {
  const once = readState({ camera, edit: { crop: { center: [0, 0, 0], size: [-1, 1, 1] } } })
  assert.deepEqual(readState(once), once)
})

test("the prompt does not know how one looks, but for the background", () => {
  const state = defaultState()
  const before = promptValue(state)
  Object.assign(state.look, {
    mode: "normal",
    scale: 0.3,
    opacity_cut: 0.5,
    turntable: true,
    wipe: 0,
  })
  assert.deepEqual(promptValue(state), before)
  state.look.background = "#000000"
  assert.notDeepEqual(promptValue(state), before)
})

test("the prompt knows camera, edit, picture and file", () => {
  const changes = [
    (state) => (state.camera = camera),
    (state) => (state.edit.min_opacity = 0.5),
    (state) => (state.edit.crop = { center: [0, 0, 0], size: [1, 1, 1] }),
    (state) => (state.seen = { filename: "a.png", subfolder: "lgm", type: "temp" }),
    (state) => (state.file = "3d/a.ply"),
  ]
  for (const change of changes) {
    const state = defaultState()
    change(state)
    assert.notDeepEqual(promptValue(state), promptValue(defaultState()), String(change))
  }
})

test("numbers are rounded for good", () => {
  assert.equal(round(0.123456), 0.1235)
  assert.ok(Object.is(round(-1e-9), 0)) // -0 would not survive JSON
  const value = { a: [1 / 3, { b: -2 / 3 }], c: "text", d: null }
  assert.deepEqual(roundAll(roundAll(value)), roundAll(value))
  assert.deepEqual(roundAll(value), { a: [0.3333, { b: -0.6667 }], c: "text", d: null })
})

test("of splat and mesh one is always shown, and what is pressed changes", () => {
  for (const show_splat of [true, false])
    for (const show_mesh of [true, false])
      for (const apart of [true, false])
        for (const name of ["show_splat", "show_mesh"]) {
          if (!show_splat && !show_mesh) continue // never so
          const look = { ...defaultState().look, compare: "wipe", show_splat, show_mesh }
          const next = { ...look, ...toggled(look, name, apart) }
          assert.ok(next.show_splat || next.show_mesh)
          assert.equal(next[name], apart ? false : !look[name]) // apart both are seen
          assert.equal(next.compare, apart ? "off" : "wipe")
        }
})

test("an edit that keeps everything is none", () => {
  assert.ok(isUnedited({ crop: null, min_opacity: 0, max_scale: 0 }))
  assert.ok(!isUnedited({ crop: null, min_opacity: 0.01, max_scale: 0 }))
})
