/**
 * Where what is shown comes from: a run of the node, or files that were dropped since.
 *
 * @typedef {import("./state.mjs").SavedFile} SavedFile
 * @typedef {import("./state.mjs").CameraInfo} CameraInfo
 * @typedef {{ splat: SavedFile | null, splat_b?: SavedFile | null, mesh?: SavedFile | null,
 *   images?: SavedFile[], count?: number, count_kept?: number, extent?: import("./state.mjs").Box,
 *   bytes?: number, camera?: CameraInfo | null, default_camera?: CameraInfo | null,
 *   notes?: string[] }} Payload
 *   what a run of the node has to show
 * @typedef {import("./contents.mjs").Slot} Slot
 */
import { columnsOf, isSplatGlb, writePly } from "./formats.mjs"
import { defaultState } from "./state.mjs"
import { t } from "./words.mjs"

const READABLE = /\.(ply|splat|spz|glb)$/i // by the graph; others go there as .ply

export class Source {
  /**
   * @param {{
   *   state: import("./state.mjs").State,
   *   contents: import("./contents.mjs").Contents,
   *   upload: import("./viewer.mjs").Host["upload"],
   *   frame: Pick<import("./frame.mjs").Frame, "say" | "sayFailed">,
   *   filled: () => void,
   *   changed: () => void,
   *   disposed: () => boolean,
   * }} inputs
   *   filled: there are other contents; changed: the node has another input
   */
  constructor({ state, contents, upload, frame, filled, changed, disposed }) {
    this.state = state
    this.contents = contents
    this.upload = upload
    this.frame = frame
    this.filled = filled
    this.changed = changed
    this.disposed = disposed
    /** @type {Payload | null} */
    this.payload = null
    /** @type {SavedFile | null} a splat that was dropped since the last run */
    this.dropped = null
    /** @type {SavedFile | null} */
    this.droppedMesh = null
  }

  /** What is known about what is shown. @returns {Partial<Payload>} */
  about() {
    return this.dropped ? { notes: [this.dropped.filename] } : (this.payload ?? {})
  }

  /** Shows the results of a run; what is shown already stays until the new is there. */
  async show(/** @type {Payload} */ payload) {
    const { splat, splat_b = null, mesh } = payload
    await this.fill({ splat, splat_b, mesh: mesh ?? this.droppedMesh }, () => {
      this.payload = payload
      this.dropped = null
    })
  }

  /** Shows a file of the server's input folder. @param {string} path */
  async showFile(path) {
    const at = path.lastIndexOf("/")
    const file = {
      filename: path.slice(at + 1),
      subfolder: path.slice(0, Math.max(at, 0)),
      type: "input",
    }
    await this.fill({ splat: file, mesh: this.droppedMesh }, () => (this.dropped = file))
  }

  /** Shows a file of the user's at once, and makes a splat the node's input. */
  async take(/** @type {File} */ file) {
    const buffer = await file.arrayBuffer()
    const local = { filename: file.name, subfolder: "3d", type: "local" }
    if (/\.glb$/i.test(file.name) && !isSplatGlb(buffer)) {
      // A mesh stays beside the splat until Reset.
      const files = { ...this.contents.files, mesh: local }
      return this.fill(files, () => (this.droppedMesh = local), "mesh", buffer)
    }
    const show = () => {
      this.dropped = local
      this.state.camera = null // it was made for something else
      this.state.edit = defaultState().edit
    }
    await this.fill({ splat: local, mesh: this.droppedMesh }, show, "splat", buffer)
    const { splat } = this.contents.loaded
    if (this.dropped !== local || !splat) return // not readable, or another one was faster
    const readable = READABLE.test(file.name)
    const blob = readable ? file : new Blob([writePly(columnsOf(splat.item.mesh))])
    const name = readable ? file.name : file.name.replace(/\.\w+$/, ".ply")
    const saved = await this.upload(blob, name, "3d", "input")
    this.state.file = [saved.subfolder, saved.filename].filter(Boolean).join("/")
    this.changed()
  }

  /** Forgets what was dropped. @returns {boolean} whether there was something */
  forgetDropped() {
    const dropped = !!(this.dropped || this.droppedMesh)
    this.dropped = this.droppedMesh = null
    return dropped
  }

  /**
   * @param {Partial<Record<Slot, SavedFile | null>>} files
   * @param {() => void} then what changes together with the contents
   * @param {Slot} [given] @param {ArrayBuffer} [buffer] see Contents.fill
   */
  async fill(files, then, given, buffer) {
    if (!this.contents.isFilled()) this.frame.say(t("Loading…"), "loading")
    try {
      if (!(await this.contents.fill(files, given, buffer))) return
    } catch (error) {
      if (!this.disposed()) this.frame.sayFailed(error)
      return
    }
    if (this.disposed()) return this.contents.clear()
    then()
    this.filled()
  }
}
