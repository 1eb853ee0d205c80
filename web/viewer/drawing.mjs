/**
 * Draws a view: the pictures of A and B one after the other, then both as one picture.
 *
 * @typedef {import("./comparison.mjs").Side} Side
 * @typedef {import("./comparison.mjs").SceneSide} SceneSide
 * @typedef {import("./camera.mjs").Pose} Pose
 * @typedef {import("./state.mjs").Box} Box
 * @typedef {[number, number]} Size width and height in pixels
 * @typedef {{
 *   sides: Side[], flipped: boolean, compare: import("./state.mjs").Compare,
 *   state: import("./state.mjs").State, pose: Pose, extent: Box, ghosts: boolean, revision: number,
 * }} Subject
 *   flipped: B stands before A; ghosts: what the edit takes away is hinted at; revision: changes
 *   with everything beside the pose that the sorted splats depend on
 */
import { clipRange, depthsOf, length, subtract, verticalFov } from "./camera.mjs"
import { setLook, styleOf } from "./splats.mjs"

const MOST_PIXELS = 2048 // of a view's side: full screens have no need for more

/** Pixels of a canvas that fills an element, as many as are seen. @param {Element} stage */
export function pixels(stage) {
  const { clientWidth, clientHeight } = stage
  const shown = stage.getBoundingClientRect().width / (clientWidth || 1) // zoom of the graph
  const scale = devicePixelRatio * (Math.round(Math.min(Math.max(shown, 0.25), 2) * 4) / 4 || 1)
  const most = MOST_PIXELS / Math.max(clientWidth, clientHeight, 1)
  const side = (/** @type {number} */ length) =>
    Math.max(1, Math.round(length * Math.min(scale, most)))
  return /** @type {Size} */ ([side(clientWidth), side(clientHeight)])
}

export class Drawing {
  /**
   * @param {{
   *   contents: import("./contents.mjs").Contents,
   *   view: import("./engine.mjs").View,
   *   address: import("./viewer.mjs").Host["address"],
   * }} inputs
   *   view: is drawn again when splats are sorted anew; address: of a picture's file
   */
  constructor({ contents, view, address }) {
    this.contents = contents
    this.view = view
    this.address = address
    /** @type {HTMLCanvasElement[]} pictures of A and B */
    this.scratch = []
  }

  /**
   * Only within the engine's `enqueue`.
   * @param {HTMLCanvasElement} canvas that gets the picture, and its size
   * @param {Subject} subject @param {Size} size
   * @param {boolean} moving whether the picture has to come fast
   * @returns {Promise<boolean>} false if the graphics context was lost: the old picture stays
   */
  async paint(canvas, subject, size, moving) {
    const [width, height] = size
    const parts = await this.parts(subject, size, moving)
    if (!parts) return false
    resize(canvas, width, height)
    compose(contextOf(canvas), parts, subject)
    return true
  }

  /**
   * Pictures of A and B, in the order in which they stand.
   * @param {Subject} subject @param {Size} size @param {boolean} moving
   */
  async parts(subject, [width, height], moving) {
    const across = subject.compare === "side" ? Math.max(1, Math.round(width / 2)) : width
    const parts = []
    for (const [index, side] of subject.sides.entries()) {
      const target = (this.scratch[index] ??= document.createElement("canvas"))
      resize(target, across, height)
      if (!(await this.part(target, side, subject, moving))) return null
      parts.push(target)
    }
    return subject.flipped && parts.length > 1 ? parts.reverse() : parts
  }

  /**
   * @param {HTMLCanvasElement} target @param {Side} side
   * @param {Subject} subject @param {boolean} moving
   */
  async part(target, side, subject, moving) {
    const { width, height } = target
    const context = contextOf(target)
    if ("image" in side) {
      await drawContained(context, this.address(side.image))
      return true
    }
    let drawn = false
    const pane = this.pane(side, subject, [width, height], moving)
    await this.engine.drawPane(pane, side.slot, this.view, (picture) => {
      drawn = true
      context.clearRect(0, 0, width, height)
      context.drawImage(picture, 0, 0)
    })
    return drawn
  }

  get engine() {
    const { engine } = this.contents
    if (!engine) throw new Error("nothing was loaded")
    return engine
  }

  /**
   * @param {SceneSide} side @param {Subject} subject @param {Size} size @param {boolean} moving
   * @returns {import("./engine.mjs").Pane}
   */
  pane({ slot, splat, mesh }, { state, pose, extent, ghosts, revision }, [width, height], moving) {
    const { loaded, scenes } = this.contents
    if (loaded.mesh && slot === 0) loaded.mesh.item.visible = mesh
    if (splat) setLook(splat.item, state, pose, depthsOf(pose, extent), ghosts)
    return {
      scene: scenes[slot],
      camera: cameraOf(this.engine.lib, pose, extent, width, height),
      width,
      height,
      key: [revision, ghosts, pose.position, pose.quaternion].join(),
      splats: !!splat,
      moving,
      style: styleOf(state.look),
    }
  }
}

/**
 * three's camera.
 * @param {any} lib @param {Pose} pose @param {Box} extent of what is shown
 * @param {number} width @param {number} height
 */
function cameraOf(lib, pose, extent, width, height) {
  const radius = length(extent.size) / 2
  const distance = length(subtract(pose.position, extent.center))
  // As near as the library's renderer draws, or as precise as depth can be.
  const near = Math.max(distance - 4 * radius, Math.min(0.2, 0.1 * radius))
  const far = Math.max(distance + 4 * radius, clipRange(distance)[1])
  const fov = verticalFov(pose.fov, width, height)
  const camera = new lib.PerspectiveCamera(fov, width / height, near, far)
  camera.position.set(...pose.position)
  camera.quaternion.set(...pose.quaternion)
  camera.updateMatrixWorld()
  return camera
}

/**
 * A and B in one picture.
 * @param {CanvasRenderingContext2D} context @param {HTMLCanvasElement[]} parts
 * @param {Subject} subject
 */
function compose(context, parts, { compare, state }) {
  const { width, height } = context.canvas
  context.clearRect(0, 0, width, height)
  parts.forEach((part, index) => {
    if (compare === "side") return context.drawImage(part, index ? width - part.width : 0, 0)
    if (compare === "off") return context.drawImage(part, 0, 0)
    const line = Math.round(state.look.wipe * width)
    const [from, across] = index ? [line, width - line] : [0, line]
    if (across > 0) context.drawImage(part, from, 0, across, height, from, 0, across, height)
  })
}

/**
 * A picture in the middle, its shorter side as long as the place's: as LGM's cameras see.
 * @param {CanvasRenderingContext2D} context @param {string} address
 */
async function drawContained(context, address) {
  const image = new Image()
  image.src = address
  await image.decode()
  const { width, height } = context.canvas
  const scale = Math.min(width, height) / Math.min(image.naturalWidth, image.naturalHeight)
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale]
  context.clearRect(0, 0, width, height)
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h)
}

/**
 * Setting a side clears a canvas, even to the same value.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height
 */
function resize(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width
  if (canvas.height !== height) canvas.height = height
}

/** @param {HTMLCanvasElement} canvas */
const contextOf = (canvas) => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"))
