/**
 * The view in motion: by a hand, by the wheel or by the turntable. Pictures then have to come fast
 * rather than be perfect; when the motion ends, or a hand holds still, one is drawn as well as can
 * be ("sharpening").
 */
import { Pace } from "./pace.mjs"

const TURNTABLE = 30 // degrees a second
const REST = 250 // milliseconds without a change, after which a held camera stands still

export class Motion {
  /**
   * @param {{
   *   camera: import("./view-camera.mjs").ViewCamera,
   *   turntable: () => boolean,
   *   redraw: () => void,
   *   sharpen: () => void,
   *   idle: () => Promise<void>,
   * }} inputs
   *   turntable: whether it is on, and can be seen; redraw: for a change; sharpen: for none;
   *   idle: returns when the newest picture is on the screen
   */
  constructor({ camera, turntable, redraw, sharpen, idle }) {
    this.camera = camera
    this.turntable = turntable
    this.redraw = redraw
    this.sharpen = sharpen
    this.idle = idle
    this.still = matchMedia("(prefers-reduced-motion: reduce)")
    this.step = 0 // the turntable's next frame; -1 while its picture is drawn
    this.moving = false // a pointer holds the picture
    this.gliding = false // the wheel turns
    this.rested = false // nothing has changed for REST, held or not
    this.sharpening = 0 // the timer of that
    this.pace = new Pace()
    this.timed = Promise.resolve() // the last picture of a movement is on the screen
  }

  /** @param {boolean} moving whether a pointer holds the picture */
  setMoving(moving) {
    if (moving) this.camera.takeSpin()
    this.moving = moving
    if (!moving) this.redraw()
    this.turn()
  }

  /** By the wheel: more may follow. @param {import("./camera.mjs").Orbit} orbit */
  glide(orbit) {
    this.gliding = true
    this.camera.move(orbit)
  }

  /** Whether pictures have to come fast rather than be perfect. */
  inMotion() {
    return this.turning() || (!this.rested && (this.moving || this.gliding))
  }

  /** Whether the turntable is to move. */
  turning() {
    return !this.moving && !this.still.matches && this.turntable()
  }

  /** Starts or stops the turntable. A step waits for the picture of the step before. */
  turn() {
    if (!this.turning()) return this.stop()
    if (this.step) return
    let before = performance.now()
    const step = (/** @type {number} */ now) => {
      const elapsed = Math.min(now - before, 100) // milliseconds: a late frame makes no jump
      this.camera.spin = (this.camera.spin + (TURNTABLE * elapsed) / 1000) % 360
      before = now
      this.redraw()
      this.step = -1
      this.idle().then(() => {
        // Another chain of steps may have begun since.
        if (this.step === -1) this.step = this.turning() ? requestAnimationFrame(step) : 0
      })
    }
    this.step = requestAnimationFrame(step)
  }

  /** Stops the turntable. */
  stop() {
    cancelAnimationFrame(this.step)
    this.step = 0
  }

  /** Other contents, or a canvas of another size: times of the pictures before tell nothing. */
  forgetTimes() {
    this.pace = new Pace()
  }

  /** On a slow GPU pictures would queue up, and the view lag behind the hand. */
  async ready() {
    if (this.inMotion()) await this.timed
  }

  /**
   * A picture of a movement was drawn.
   * @param {Pace} pace that its scale is of @param {number} scale
   * @param {Promise<number>} time milliseconds it takes the GPU
   */
  drawn(pace, scale, time) {
    this.timed = time.then((milliseconds) => pace.took(milliseconds, scale))
    // The turntable goes on by itself; a hand may stop.
    if ((scale < 1 || this.gliding) && !this.turning())
      this.sharpening = setTimeout(() => this.rest(), REST)
  }

  /** The camera stands, though a pointer may still hold it: draws as well as can be. */
  rest() {
    this.sharpening = 0
    this.rested = true
    this.gliding = false
    this.sharpen()
  }

  clearSharpening() {
    clearTimeout(this.sharpening)
    this.sharpening = 0
  }
}
