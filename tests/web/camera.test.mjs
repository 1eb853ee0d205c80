import assert from "node:assert/strict"
import { test } from "node:test"
import {
  AXIS_VIEWS,
  MODEL_VIEWS,
  axesOf,
  corners,
  depthsOf,
  dot,
  fitTo,
  frontOf,
  infoOf,
  length,
  modelView,
  orbitBy,
  orbitOf,
  panBy,
  poseOf,
  poseOfInfo,
  project,
  rayThrough,
  subtract,
  times,
  turned,
  verticalFov,
  zoomBy,
} from "../../web/viewer/camera.mjs"

const near = (a, b, tolerance = 1e-9) =>
  [a]
    .flat()
    .forEach((x, i) => assert.ok(Math.abs(x - [b].flat()[i]) < tolerance, `${a} is not ${b}`))

const orbits = [0, 37, 90, 181, 270, 359].flatMap((azimuth) =>
  [-90, -40, 0, 12, 89.9, 90].map((elevation) => ({
    target: [0.1, -0.2, 0.3],
    azimuth,
    elevation,
    distance: 1.7,
    fov: 40,
  })),
)

test("azimuth 0 stands on +z, 90 on +x, elevation 90 on +y", () => {
  const at = (azimuth, elevation) =>
    poseOf({ target: [0, 0, 0], azimuth, elevation, distance: 2, fov: 40 }).position
  near(at(0, 0), [0, 0, 2])
  near(at(90, 0), [2, 0, 0])
  near(at(0, 90), [0, 2, 0])
})

test("a camera looks at its target with its right hand level", () => {
  for (const orbit of orbits) {
    const { position, quaternion } = poseOf(orbit)
    const [x, , z] = axesOf(quaternion)
    near(subtract(position, orbit.target), times(z, orbit.distance))
    near(x[1], 0)
  }
})

test("an orbit comes back from LOAD3D_CAMERA, the poles included", () => {
  for (const orbit of orbits) {
    const back = orbitOf(infoOf(orbit))
    near(poseOf(back).position, poseOf(orbit).position, 1e-6)
    const same = dot4(poseOf(back).quaternion, poseOf(orbit).quaternion)
    near(Math.abs(same), 1, 1e-6)
    near(poseOfInfo(infoOf(orbit)).position, poseOf(orbit).position)
  }
})

const dot4 = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0)

test("a camera without a quaternion looks at its target", () => {
  const pose = poseOfInfo({ position: { x: 3, y: 4, z: 0 }, target: { x: 0, y: 0, z: 0 } })
  near(turned([0, 0, -1], pose.quaternion), [-0.6, -0.8, 0])
})

test("zoom is a narrower angle", () => {
  const info = infoOf(orbits[0])
  const half = (degrees) => Math.tan((degrees * Math.PI) / 360)
  near(half(poseOfInfo({ ...info, zoom: 2 }).fov), half(info.fov) / 2)
})

test("an orthographic camera shows its target as large as a perspective one, and no depth", () => {
  const info = infoOf(orbits[9])
  const flat = poseOfInfo({ ...info, cameraType: "orthographic" })
  const [x, , z] = axesOf(flat.quaternion)
  const { target } = orbits[9]
  const beside = (away, depth) => target.map((t, i) => t + away * x[i] + depth * z[i])
  const at = (pose, point) => project(pose, point, 100, 100).x - 50
  near(at(flat, beside(0.1, 0)), at(poseOfInfo(info), beside(0.1, 0)), 1e-6)
  near(at(flat, beside(0.1, 0.5)), at(flat, beside(0.1, -0.5)), 0.05)
})

test("turning goes around and never over a pole", () => {
  const orbit = orbits[0]
  near(orbitBy(orbit, 360, 0).azimuth, orbit.azimuth)
  assert.equal(orbitBy(orbit, 0, 500).elevation, 90)
  near(orbitBy(orbitBy(orbit, 50, 20), -50, -20).azimuth, orbit.azimuth)
})

test("what is panned follows the pointer", () => {
  for (const orbit of orbits.slice(0, 4)) {
    const before = project(poseOf(orbit), orbit.target, 300, 200)
    const after = project(poseOf(panBy(orbit, 0.1, 0.2)), orbit.target, 300, 200)
    near([after.x - before.x, after.y - before.y], [20, 40], 1e-6) // parts of the shorter side
  }
})

test("zooming in and out again leads back", () => {
  near(zoomBy(zoomBy(orbits[3], 1.7), 1 / 1.7).distance, orbits[3].distance)
})

test("a ray goes through the pixel that its points are drawn at", () => {
  for (const orbit of orbits) {
    const pose = poseOf(orbit)
    const ray = rayThrough(pose, 30, 170, 400, 200)
    near(length(ray), 1)
    const point = pose.position.map((p, axis) => p + 2 * ray[axis])
    const { x, y, depth } = project(pose, point, 400, 200)
    near([x, y], [30, 170], 1e-6)
    assert.ok(depth > 0)
  }
})

test("what is made to fit lies inside every shape of picture, and nearly fills it", () => {
  const box = { center: [1, 2, 3], size: [0.3, 2, 0.7] }
  for (const orbit of orbits) {
    for (const [width, height] of [
      [200, 200],
      [400, 200],
      [200, 500],
    ]) {
      const fitted = fitTo(orbit, box)
      near(fitted.target, box.center)
      const side = Math.min(width, height)
      const aside = corners(box).map((corner) => {
        const { x, y } = project(poseOf(fitted), corner, width, height)
        return Math.max(Math.abs(x - width / 2), Math.abs(y - height / 2)) / (side / 2)
      })
      assert.ok(Math.max(...aside) < 1 && Math.max(...aside) > 0.85, String(aside))
    }
  }
})

test("fitting again changes nothing", () => {
  const once = frontOf({ center: [0, 1, 0], size: [1, 2, 1] })
  near(fitTo(once, { center: [0, 1, 0], size: [1, 2, 1] }).distance, once.distance)
  assert.deepEqual([once.azimuth, once.elevation], [0, 0])
})

test("named views stand where their names say", () => {
  const back = (azimuth, elevation) =>
    axesOf(poseOf({ target: [0, 0, 0], azimuth, elevation, distance: 1, fov: 40 }).quaternion)[2]
  for (const [name, [azimuth, elevation]] of Object.entries(AXIS_VIEWS)) {
    const axis = "XYZ".indexOf(name[1])
    near(back(azimuth, elevation)[axis], name[0] === "+" ? 1 : -1)
  }
  near(poseOf(modelView("Left")).position, [1.5, 0, 0])
  assert.deepEqual(Object.values(MODEL_VIEWS), [0, 90, 180, 270])
})

test("depths enclose the box and don't go behind the camera", () => {
  const box = { center: [0, 0, 0], size: [1, 1, 4] }
  const pose = poseOf({ target: [0, 0, 0], azimuth: 0, elevation: 0, distance: 5, fov: 40 })
  near(depthsOf(pose, box), [3, 7])
  assert.equal(depthsOf({ ...pose, position: [0, 0, 0] }, box)[0], 0)
})

test("the angle spans the shorter side", () => {
  assert.equal(verticalFov(40, 300, 200), 40)
  assert.ok(verticalFov(40, 200, 300) > 40)
  near(verticalFov(90, 100, 200), (2 * Math.atan(2) * 180) / Math.PI)
})
