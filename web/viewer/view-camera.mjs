/**
 * Where one viewer looks from: the camera that the user has moved, else the one that came with the
 * splat, and how far the turntable has turned it. The arithmetic is camera.mjs's.
 *
 * @typedef {import("./camera.mjs").Orbit} Orbit
 * @typedef {import("./camera.mjs").Pose} Pose
 * @typedef {import("./state.mjs").CameraInfo} CameraInfo
 */
import {
  fitTo,
  frontOf,
  infoOf,
  length,
  modelView,
  orbitBy,
  orbitOf,
  poseOf,
  poseOfInfo,
  rayThrough,
  subtract,
} from "./camera.mjs"
import { pick } from "./splats.mjs"
import { roundAll } from "./state.mjs"

export class ViewCamera {
  /**
   * @param {{
   *   state: import("./state.mjs").State,
   *   given: () => CameraInfo | null | undefined,
   *   extent: () => import("./state.mjs").Box,
   *   splat: () => import("./splats.mjs").Splat | undefined,
   *   moved: () => void,
   * }} inputs
   *   given: the camera that came with the splat; extent: of what is shown; splat: what a pivot is
   *   picked in; moved: the user has moved the camera
   */
  constructor({ state, given, extent, splat, moved }) {
    this.state = state
    this.given = given
    this.extent = extent
    this.splat = splat
    this.moved = moved
    this.spin = 0 // degrees that the turntable has gone
  }

  /** The camera without the turntable's part. @returns {CameraInfo} */
  info() {
    return this.state.camera ?? this.given() ?? infoOf(frontOf(this.extent()))
  }

  orbit() {
    return orbitBy(orbitOf(this.info()), this.spin, 0)
  }

  pose() {
    return this.spin ? poseOf(this.orbit()) : poseOfInfo(this.info())
  }

  /** The user looks from elsewhere. @param {Orbit} orbit */
  move(orbit) {
    this.spin = 0
    this.state.camera = roundAll(infoOf(orbit))
    this.moved()
  }

  /** Makes the place that the turntable has reached the camera's own. */
  takeSpin() {
    if (this.spin) this.move(this.orbit())
  }

  /** @param {import("./state.mjs").Box} box that is to fill the view */
  fit(box) {
    this.move(fitTo(this.orbit(), box))
  }

  /** @param {[number, number]} angles azimuth and elevation */
  lookFrom([azimuth, elevation]) {
    this.move(fitTo({ ...this.orbit(), azimuth, elevation }, this.extent()))
  }

  /** @param {keyof typeof import("./camera.mjs").MODEL_VIEWS} name of one of LGM's cameras */
  lookAsModel(name) {
    this.move(modelView(name))
  }

  /** @param {number} fov degrees, with the subject as large as it was */
  setFov(fov) {
    const orbit = this.orbit()
    const half = (/** @type {number} */ degrees) => Math.tan((degrees * Math.PI) / 360)
    this.move({ ...orbit, fov, distance: (orbit.distance * half(orbit.fov)) / half(fov) })
  }

  /**
   * Turns from now on around the Gaussian at a place of the picture; around the same as before if
   * there is none.
   * @param {number} x pixels @param {number} y pixels @param {[number, number]} size of the picture
   */
  pivot(x, y, [width, height]) {
    const splat = this.splat()
    const pose = this.pose()
    const hit = splat && pick(splat, pose.position, rayThrough(pose, x, y, width, height))
    if (!hit) return
    const { azimuth, elevation } = this.orbit()
    const distance = length(subtract(pose.position, hit))
    this.move({ target: hit, azimuth, elevation, distance, fov: pose.fov })
  }
}
