/** A viewer's picture on the screen: when it is drawn anew, and how sharp. */
import { pixels } from "./drawing.mjs"
import { t } from "./words.mjs"

/**
 * The engine's view of it: see View in engine.mjs.
 * @typedef {import("./engine.mjs").View} View
 * @implements {View}
 */
export class Screen {
  /**
   * @param {{
   *   frame: import("./frame.mjs").Frame,
   *   contents: import("./contents.mjs").Contents,
   *   motion: import("./motion.mjs").Motion,
   *   paint: (canvas: HTMLCanvasElement, size: [number, number], moving: boolean) =>
   *     Promise<boolean>,
   * }} inputs
   *   paint: draws the view, and returns whether it could
   */
  constructor({ frame, contents, motion, paint }) {
    this.frame = frame
    this.contents = contents
    this.motion = motion
    this.paint = paint
    this.stale = true // the canvas does not show the state yet
    this.inSight = false
    this.disposed = false
    /** @type {[number, number] | undefined} pixels of the canvas when it is sharp */
    this.fullSize = undefined
  }

  visible() {
    return this.inSight && this.frame.element.isConnected && !document.hidden && !this.disposed
  }

  /** What is to be seen has changed. */
  invalidate() {
    this.motion.rested = false
    this.request()
  }

  /** Asks the engine for a picture. */
  request() {
    this.stale = true
    this.contents.engine?.invalidate(this)
  }

  /** @param {boolean} inSight whether the page has the viewer where it can be seen */
  setInSight(inSight) {
    this.inSight = inSight
    if (inSight) this.shown()
    else this.motion.turn()
  }

  /** It can be seen again. */
  shown() {
    if (this.stale) this.invalidate()
    this.motion.turn()
  }

  /** Whether the canvas needs other pixels, as when the graph was zoomed. */
  isOfOtherSize(full = pixels(this.frame.stage)) {
    return full.some((side, axis) => side !== this.fullSize?.[axis])
  }

  /** What the engine waits for. */
  ready() {
    return this.motion.ready()
  }

  /** Called by the engine, alone. */
  async draw() {
    const { motion, frame, contents } = this
    const { engine } = contents
    if (!frame.stage.clientWidth || this.disposed || !engine || engine.lost) return // later, then
    this.stale = false
    motion.clearSharpening()
    if (!contents.scenes.length) return
    const start = performance.now()
    const full = pixels(frame.stage)
    if (this.isOfOtherSize(full)) motion.forgetTimes()
    this.fullSize = full
    const moving = motion.inMotion()
    const { pace } = motion // may be another one when this picture is done
    const scale = moving ? pace.scale : 1
    const [width, height] = full.map((side) => Math.max(1, Math.round(side * scale)))
    if (!(await this.paint(frame.canvas, [width, height], moving)) || this.disposed) return
    frame.count()
    if (moving) motion.drawn(pace, scale, engine.timeOf(start))
  }

  /** @param {Error} error */
  failed(error) {
    this.frame.sayFailed(error)
  }

  /** @param {boolean} gone whether the graphics context is away */
  lost(gone) {
    const { frame, contents } = this
    if (gone) frame.say(t("The graphics context was lost; waiting for it to come back."), "error")
    else if (contents.isFilled()) frame.say("", "ready")
    else frame.sayEmpty()
  }

  /** Returns when the newest picture is there and nothing is on its way. */
  async idle() {
    const { contents } = this
    const waits = () => this.stale || this.motion.sharpening
    while (waits() && this.visible() && contents.scenes.length && !contents.engine?.lost)
      await new Promise((done) => setTimeout(done, 16))
    await contents.engine?.line
    await Promise.all((contents.engine?.passes ?? []).map((pass) => pass?.busy))
  }

  /** For good; the scenes are freed when a picture that is being drawn is finished. */
  dispose() {
    this.disposed = true
    const { engine } = this.contents
    engine?.enqueue(async () => {
      engine.remove(this, this.contents.scenes)
      this.contents.clear()
    })
  }
}
