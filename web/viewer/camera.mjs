/**
 * Arithmetic of cameras, without a renderer. World: y up. Angles in degrees, azimuth 0 stands on +z
 * and 90 on +x, elevation is positive above the horizon: as in the Python library.
 *
 * @typedef {import("./state.mjs").Vec3} Vec3
 * @typedef {import("./state.mjs").CameraInfo} CameraInfo
 * @typedef {[number, number, number, number]} Quaternion xyzw
 * @typedef {{ target: Vec3, azimuth: number, elevation: number, distance: number,
 *   fov: number }} Orbit
 * @typedef {{ position: Vec3, quaternion: Quaternion, fov: number }} Pose
 *   fov: full angle over the shorter side of the picture
 */

export const FOV = 49.1 // degrees, what LGM was trained with
export const RADIUS = 1.5 // of the circle that LGM's four cameras stand on
const DEFAULT_FOV = 35 // of a camera that does not say, as ComfyUI's own nodes take it
const PARALLEL = 400 // orthographic cameras are drawn in perspective, from so many times as far
const MARGIN = 1.1 // the view is this many times as large as what is fitted into it

/** Azimuths of the four cameras LGM looks from, in their order; the sides are the object's own. */
export const MODEL_VIEWS = { Front: 0, Left: 90, Back: 180, Right: 270 }

/**
 * Where a camera stands that looks along an axis: [azimuth, elevation].
 * @type {Record<string, [number, number]>}
 */
export const AXIS_VIEWS = {
  "+X": [90, 0],
  "−X": [270, 0],
  "+Y": [0, 90],
  "−Y": [0, -90],
  "+Z": [0, 0],
  "−Z": [180, 0],
}

const rad = (/** @type {number} */ degrees) => (degrees * Math.PI) / 180
const deg = (/** @type {number} */ radians) => (radians * 180) / Math.PI

/** @param {Vec3} a @param {Vec3} b @returns {Vec3} */
export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
/** @param {Vec3} a @param {Vec3} b @returns {Vec3} */
export const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
/** @param {Vec3} a @param {number} factor @returns {Vec3} */
export const times = (a, factor) => [a[0] * factor, a[1] * factor, a[2] * factor]
/** @param {Vec3} a @param {Vec3} b */
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
/** @param {Vec3} a */
export const length = (a) => Math.hypot(...a)

/** The vector turned by a quaternion. @param {Vec3} v @param {Quaternion} q @returns {Vec3} */
export function turned(v, [x, y, z, w]) {
  /** @param {Vec3} a @param {Vec3} b @returns {Vec3} */
  const cross = (a, b) => [
    a[1] * b[2] - a[2] * b[1],
    a[2] * b[0] - a[0] * b[2],
    a[0] * b[1] - a[1] * b[0],
  ]
  const axis = /** @type {Vec3} */ ([x, y, z])
  const t = times(cross(axis, v), 2)
  return add(add(v, times(t, w)), cross(axis, t))
}

/**
 * Right, up and back of a camera in the world.
 * @param {Quaternion} q @returns {[Vec3, Vec3, Vec3]}
 */
export const axesOf = (q) => [turned([1, 0, 0], q), turned([0, 1, 0], q), turned([0, 0, 1], q)]

/** @param {Orbit} orbit @returns {Pose} */
export function poseOf({ target, azimuth, elevation, distance, fov }) {
  const [yaw, pitch] = [rad(azimuth) / 2, -rad(elevation) / 2]
  // Turned about y, and before that about x: defined at the poles too, unlike a look-at.
  const quaternion = /** @type {Quaternion} */ ([
    Math.cos(yaw) * Math.sin(pitch),
    Math.sin(yaw) * Math.cos(pitch),
    -Math.sin(yaw) * Math.sin(pitch),
    Math.cos(yaw) * Math.cos(pitch),
  ])
  const position = add(target, times(turned([0, 0, 1], quaternion), distance))
  return { position, quaternion, fov }
}

const xyz = (/** @type {import("./state.mjs").Point} */ point) =>
  /** @type {Vec3} */ ([point.x, point.y, point.z])
const named = (/** @type {Vec3} */ [x, y, z]) => ({ x, y, z })

/** Field of view in degrees, with the zoom taken into account. @param {CameraInfo} info */
const angleOf = (info) =>
  deg(2 * Math.atan(Math.tan(rad(info.fov || DEFAULT_FOV) / 2) / (info.zoom || 1)))

/**
 * The exact pose of a camera from the graph, roll included. As in the Python library an
 * orthographic camera is drawn from far away, and shows at its target what a perspective one of its
 * angle would.
 * @param {CameraInfo} info
 * @returns {Pose}
 */
export function poseOfInfo(info) {
  const pose = perspectivePose(info)
  if (!info.cameraType?.toLowerCase().startsWith("ortho")) return pose
  const distance = length(subtract(xyz(info.position), xyz(info.target))) || 1e-6
  const back = turned([0, 0, 1], pose.quaternion)
  return {
    position: add(pose.position, times(back, (PARALLEL - 1) * distance)),
    quaternion: pose.quaternion,
    fov: deg(2 * Math.atan(Math.tan(rad(pose.fov) / 2) / PARALLEL)),
  }
}

/** @param {CameraInfo} info @returns {Pose} */
function perspectivePose(info) {
  if (!info.quaternion) return poseOf(orbitOf(info))
  const { x, y, z, w } = info.quaternion
  const size = Math.hypot(x, y, z, w) || 1
  return {
    position: xyz(info.position),
    quaternion: /** @type {Quaternion} */ ([x / size, y / size, z / size, w / size]),
    fov: angleOf(info),
  }
}

/**
 * The orbit that stands where a camera does and looks where it does; a roll is lost.
 * @param {CameraInfo} info
 * @returns {Orbit}
 */
export function orbitOf(info) {
  const position = xyz(info.position)
  let back = subtract(position, xyz(info.target))
  const distance = length(back) || 1
  if (info.quaternion) {
    const { x, y, z, w } = info.quaternion
    back = turned([0, 0, 1], [x, y, z, w])
  }
  const size = length(back) || 1
  const elevation = deg(Math.asin(Math.min(Math.max(back[1] / size, -1), 1)))
  let azimuth = deg(Math.atan2(back[0], back[2]))
  if (Math.abs(elevation) > 89.99 && info.quaternion) {
    const { x, y, z, w } = info.quaternion // straight from above: the right-hand side says it
    const right = turned([1, 0, 0], [x, y, z, w])
    azimuth = deg(Math.atan2(-right[2], right[0]))
  }
  const target = subtract(position, times(back, distance / size))
  return { target, azimuth, elevation, distance, fov: angleOf(info) }
}

/** @param {Orbit} orbit @returns {CameraInfo} */
export function infoOf(orbit) {
  const { position, quaternion } = poseOf(orbit)
  const [near, far] = clipRange(orbit.distance)
  const [x, y, z, w] = quaternion
  return {
    position: named(position),
    target: named(orbit.target),
    zoom: 1,
    cameraType: "perspective",
    quaternion: { x, y, z, w },
    fov: orbit.fov,
    aspect: 1, // of a square the shorter side is the vertical one
    near,
    far,
  }
}

/** @param {number} distance to what is looked at @returns {[number, number]} */
export const clipRange = (distance) => [distance / 1000, distance * 1000]

/**
 * Full vertical angle when `fov` spans the shorter side of the picture.
 * @param {number} fov @param {number} width @param {number} height
 */
export const verticalFov = (fov, width, height) =>
  height <= width ? fov : deg(2 * Math.atan((Math.tan(rad(fov) / 2) * height) / width))

/**
 * Moves around the target, never past a pole.
 * @param {Orbit} orbit @param {number} right degrees @param {number} up degrees
 * @returns {Orbit}
 */
export const orbitBy = (orbit, right, up) => ({
  ...orbit,
  azimuth: (((orbit.azimuth + right) % 360) + 360) % 360,
  elevation: Math.min(Math.max(orbit.elevation + up, -90), 90),
})

/**
 * Moves across the picture, so that the point under the pointer stays there.
 * @param {Orbit} orbit
 * @param {number} right of the pointer, as a part of the picture's shorter side
 * @param {number} down
 * @returns {Orbit}
 */
export function panBy(orbit, right, down) {
  const [x, y] = axesOf(poseOf(orbit).quaternion)
  const side = 2 * orbit.distance * Math.tan(rad(orbit.fov) / 2)
  return {
    ...orbit,
    target: add(orbit.target, add(times(x, -right * side), times(y, down * side))),
  }
}

/** @param {Orbit} orbit @param {number} factor of the distance @returns {Orbit} */
export const zoomBy = (orbit, factor) => ({
  ...orbit,
  distance: Math.min(Math.max(orbit.distance * factor, 1e-4), 1e6),
})

/** The eight corners of a box. @param {import("./state.mjs").Box} box @returns {Vec3[]} */
export const corners = ({ center, size }) =>
  [0, 1, 2, 3, 4, 5, 6, 7].map(
    (i) =>
      /** @type {Vec3} */ (
        center.map((c, axis) => c + size[axis] * ((i >> axis) & 1 ? 0.5 : -0.5))
      ),
  )

/**
 * From where, in the same direction, the whole box can be seen in any picture.
 * @param {Orbit} orbit
 * @param {import("./state.mjs").Box} box
 * @returns {Orbit}
 */
export function fitTo(orbit, box) {
  const [x, y, z] = axesOf(poseOf(orbit).quaternion)
  const slope = Math.tan(rad(orbit.fov) / 2) / MARGIN
  const needed = corners(box).map((corner) => {
    const v = subtract(corner, box.center)
    return Math.max(Math.abs(dot(v, x)), Math.abs(dot(v, y))) / slope + dot(v, z)
  })
  const distance = Math.max(...needed, 1e-4)
  return { ...orbit, target: /** @type {Vec3} */ ([...box.center]), distance }
}

/**
 * The first look at something: its front, all of it.
 * @param {import("./state.mjs").Box} box
 * @returns {Orbit}
 */
export const frontOf = (box) =>
  fitTo({ target: [0, 0, 0], azimuth: 0, elevation: 0, distance: RADIUS, fov: FOV }, box)

/** One of LGM's own cameras. @param {keyof typeof MODEL_VIEWS} name @returns {Orbit} */
export const modelView = (name) => ({
  target: [0, 0, 0],
  azimuth: MODEL_VIEWS[name],
  elevation: 0,
  distance: RADIUS,
  fov: FOV,
})

/**
 * Where a point lies in a picture: pixels from its upper left corner, and the distance in front.
 * @param {Pose} pose @param {Vec3} point @param {number} width @param {number} height
 */
export function project(pose, point, width, height) {
  const [x, y, z] = axesOf(pose.quaternion)
  const v = subtract(point, pose.position)
  const depth = -dot(v, z)
  const focal = Math.min(width, height) / 2 / Math.tan(rad(pose.fov) / 2)
  return {
    x: width / 2 + (focal * dot(v, x)) / depth,
    y: height / 2 - (focal * dot(v, y)) / depth,
    depth,
  }
}

/**
 * Distances along the view of the nearest and the farthest corner of a box.
 * @param {Pose} pose @param {import("./state.mjs").Box} box @returns {[number, number]}
 */
export function depthsOf(pose, box) {
  const depths = corners(box).map((corner) => project(pose, corner, 1, 1).depth)
  return [Math.max(Math.min(...depths), 0), Math.max(...depths)]
}

/**
 * Unit direction of the ray through a pixel.
 * @param {Pose} pose @param {number} px @param {number} py
 * @param {number} width of the picture @param {number} height
 * @returns {Vec3}
 */
export function rayThrough(pose, px, py, width, height) {
  const [x, y, z] = axesOf(pose.quaternion)
  const focal = Math.min(width, height) / 2 / Math.tan(rad(pose.fov) / 2)
  const ray = add(
    add(times(x, (px - width / 2) / focal), times(y, (height / 2 - py) / focal)),
    times(z, -1),
  )
  return times(ray, 1 / length(ray))
}
