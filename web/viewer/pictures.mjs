/** What the view shows as a PNG of the node's size: for the user, and for the graph. */
import { el } from "./dom.mjs"
import { t } from "./words.mjs"

export class Pictures {
  /**
   * @param {{
   *   size: () => { width: number, height: number },
   *   paint: (canvas: HTMLCanvasElement, size: [number, number], ghosts: boolean) =>
   *     Promise<boolean>,
   *   ghosts: () => boolean,
   *   depicted: () => unknown,
   *   upload: import("./viewer.mjs").Host["upload"],
   *   frame: Pick<import("./frame.mjs").Frame, "sayFailed">,
   * }} inputs
   *   paint: draws the view, and returns whether it could; ghosts: whether the view hints at what
   *   is cropped; depicted: everything that a picture depends on, as JSON can hold it
   */
  constructor({ size, paint, ghosts, depicted, upload, frame }) {
    this.size = size
    this.paint = paint
    this.ghosts = ghosts
    this.depicted = depicted
    this.upload = upload
    this.frame = frame
    /** @type {{ of: string, file: import("./state.mjs").SavedFile } | null} */
    this.sent = null
  }

  /** As the view shows it, with alpha. @returns {Promise<Blob>} */
  async picture(ghosts = this.ghosts()) {
    const { width, height } = this.size()
    const canvas = document.createElement("canvas")
    if (!(await this.paint(canvas, [width, height], ghosts)))
      throw new Error(t("The graphics context is gone: try again when the picture is back."))
    return new Promise((done) => canvas.toBlob((blob) => done(/** @type {Blob} */ (blob))))
  }

  /** As a file of the user's. */
  async save() {
    try {
      const address = URL.createObjectURL(await this.picture())
      el("a", { href: address, download: "splat.png" }).click()
      setTimeout(() => URL.revokeObjectURL(address), 10_000)
    } catch (error) {
      this.frame.sayFailed(error)
    }
  }

  /** To the server, without ghosts; once, as long as nothing changes. */
  async send() {
    const { width, height } = this.size()
    const of = JSON.stringify([width, height, this.depicted()])
    if (this.sent?.of !== of) {
      const blob = await this.picture(false)
      const name = `${fingerprint(await blob.arrayBuffer())}.png`
      this.sent = { of, file: await this.upload(blob, name, "lgm", "temp") }
    }
    return this.sent.file
  }
}

/**
 * FNV-1a over 32-bit words, twice: browsers have a better hash on encrypted pages only.
 * @param {ArrayBuffer} buffer
 */
export function fingerprint(buffer) {
  const bytes = new Uint8Array(buffer)
  const hash = (/** @type {number} */ seed) => {
    let value = seed
    for (const byte of bytes) value = Math.imul(value ^ byte, 0x01000193)
    return (value >>> 0).toString(16).padStart(8, "0")
  }
  return hash(0x811c9dc5) + hash(0x1b873593) + bytes.length.toString(16)
}
