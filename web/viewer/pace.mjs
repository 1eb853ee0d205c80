/**
 * How sharp to draw while the camera moves: with fewer pixels, as long as pictures take too long.
 * Pictures of a camera that stands are always sharp, and their times don't count.
 */
export const SCALES = [1, 0.75, 0.5] // of the pixels a side
const SLOW = 50 // milliseconds a picture may take
const DIRE = 500 // milliseconds: one picture as slow as this is enough to draw less sharp
const EASY = 30 // milliseconds that a picture of a sharper scale may be expected to take
const PATIENCE = 8 // easy pictures in a row before the sharper scale is taken
const GAIN = 0.85 // a coarser scale has to need less than this part of the time, to be worth it

export class Pace {
  constructor() {
    this.scale = SCALES[0]
    this.useless = false // fewer pixels are no faster: the Gaussians themselves are too many
    this.sharper = { scale: this.scale, time: Infinity } // what the scale was lowered from
    this.seen = 0 // pictures at this scale
    this.easy = 0 // of them in a row, that a sharper scale could have been drawn as fast
    /** @type {number[]} milliseconds of slow pictures in a row */
    this.slow = []
  }

  /** @param {number} scale to draw at from now on */
  begin(scale) {
    this.scale = scale
    this.seen = 0
    this.easy = 0
    this.slow = []
  }

  /**
   * A picture of the movement is done.
   * @param {number} time milliseconds it took
   * @param {number} scale it was drawn at: one from before the last change tells nothing
   */
  took(time, scale) {
    if (scale !== this.scale || this.useless) return
    if (time > DIRE) return this.lower(time)
    this.seen += 1
    if (this.seen === 1) return // makes buffers of this size
    this.easy = this.reachable(time, EASY) > this.scale ? this.easy + 1 : 0
    this.slow = time > SLOW ? [...this.slow, time] : []
    if (this.slow.length === 2) this.lower(Math.min(...this.slow))
    else if (this.easy === PATIENCE) this.begin(this.reachable(time, EASY))
  }

  /** @param {number} time milliseconds at this scale, too many */
  lower(time) {
    if (this.scale < this.sharper.scale && time > GAIN * this.sharper.time) {
      this.useless = true
      return this.begin(SCALES[0])
    }
    const scale = this.reachable(time, SLOW)
    if (scale === this.scale) return // as coarse as it gets
    this.sharper = { scale: this.scale, time }
    this.begin(scale)
  }

  /**
   * The sharpest scale whose pictures should take at most so long; else the coarsest. As if all the
   * time went by the count of pixels.
   * @param {number} time milliseconds at this scale @param {number} most
   */
  reachable(time, most) {
    const fits = (/** @type {number} */ scale) => time * (scale / this.scale) ** 2 <= most
    return SCALES.find(fits) ?? SCALES[SCALES.length - 1]
  }
}
