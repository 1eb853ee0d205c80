/**
 * One viewer: its state and its element, and how its parts work together. Knows nothing of ComfyUI;
 * whoever makes one says how to get files and where they go.
 *
 * @typedef {import("./state.mjs").SavedFile} SavedFile
 * @typedef {import("./state.mjs").Box} Box
 * @typedef {import("./source.mjs").Payload} Payload
 * @typedef {{
 *   read: (file: SavedFile) => Promise<ArrayBuffer>,
 *   address: (file: SavedFile) => string,
 *   upload: (blob: Blob, name: string, subfolder: string, type: string) => Promise<SavedFile>,
 *   pictureSize: () => { width: number, height: number },
 *   sendsSeen: () => boolean,
 *   changed: () => void,
 *   alone?: boolean,
 *   locale?: string,
 * }} Host
 *   sendsSeen: whether the graph gets the picture as the view shows it; alone: there is no graph
 *   that gets the results
 */
import { Comparison } from "./comparison.mjs"
import { Contents } from "./contents.mjs"
import { attachControls } from "./controls.mjs"
import { wholeBox } from "./crop.mjs"
import { Drawing } from "./drawing.mjs"
import { sharedEngine } from "./engine.mjs"
import { Frame } from "./frame.mjs"
import { Motion } from "./motion.mjs"
import { makeOverlay } from "./overlay.mjs"
import { Pictures } from "./pictures.mjs"
import { Screen } from "./screen.mjs"
import { Source } from "./source.mjs"
import { defaultState, promptValue, readState, roundAll } from "./state.mjs"
import { makeToolbar } from "./toolbar.mjs"
import { ViewCamera } from "./view-camera.mjs"
import { learn, t, wordsOf } from "./words.mjs"

export const DROPPABLE = /\.(ply|splat|spz|ksplat|sog|glb)$/i

/** A viewer that speaks the page's language, if there is a table of it. @param {Host} host */
export async function makeViewer(host) {
  await learn(host.locale)
  return new Viewer(host)
}

export class Viewer {
  /** @param {Host} host */
  constructor(host) {
    this.host = host
    this.words = wordsOf(host)
    this.state = defaultState() // always the same object: the parts have it too
    this.contents = new Contents(host)
    /** @type {Box} */ this.extent = { center: [0, 0, 0], size: [1, 1, 1] }
    this.tool = "" // the open panel
    this.revision = 0 // counts what the sorted splats depend on, beside the camera
    this.settled = Promise.resolve() // of loading; drawing is waited for with idle()
    this.frame = new Frame(this.words.empty)

    const { state, contents, frame } = this
    /** @type {Source} */ this.source = new Source({
      state,
      contents,
      upload: host.upload,
      frame,
      filled: () => this.filled(),
      changed: () => this.changed(),
      disposed: () => this.screen.disposed,
    })
    const { source } = this
    this.camera = new ViewCamera({
      state,
      given: () => source.about().camera ?? source.about().default_camera,
      extent: () => this.extent,
      splat: () => (this.loaded.splat ?? this.loaded.splat_b)?.item,
      moved: () => this.moved(),
    })
    this.motion = new Motion({
      camera: this.camera,
      turntable: () => state.look.turntable && this.screen.visible() && this.isFilled(),
      redraw: () => this.invalidate(),
      sharpen: () => this.screen.request(),
      idle: () => this.idle(),
    })
    this.comparison = new Comparison({
      state,
      contents,
      images: () => source.about().images ?? [],
      setLook: (look) => this.setLook(look),
      lookAsModel: (name) => this.camera.lookAsModel(name),
      redraw: () => this.redraw(),
    })
    /** @type {Screen} */ this.screen = new Screen({
      frame,
      contents,
      motion: this.motion,
      paint: (canvas, size, moving) => this.drawing.paint(canvas, this.subject(), size, moving),
    })
    this.drawing = new Drawing({ contents, view: this.screen, address: host.address })
    this.pictures = new Pictures({
      size: host.pictureSize,
      paint: (canvas, size, ghosts) => this.paint(canvas, size, ghosts),
      ghosts: () => this.ghosts(),
      depicted: () => this.depicted(),
      upload: host.upload,
      frame,
    })
    this.toolbar = this.makeToolbar()
    this.overlay = this.makeOverlay()
    frame.assemble(this.overlay.root, this.toolbar.bar, this.toolbar.panel)
    attachControls(this.canvas, {
      camera: this.camera,
      motion: this.motion,
      fit: () => this.fit(),
      flip: () => this.flip(),
    })
    this.stopListening = frame.listen({
      sight: (inSight) => this.screen.setInSight(inSight),
      resized: () => this.invalidate(),
      zoomed: () => this.screen.isOfOtherSize() && this.invalidate(),
      shown: () => this.screen.shown(),
      drop: (files) => this.drop(files),
    })
    this.refresh()
  }

  makeToolbar() {
    const { state, words, contents, camera, comparison, source, frame, host } = this
    return makeToolbar({
      state,
      words,
      contents,
      camera,
      comparison,
      facts: frame.facts,
      pictureSize: host.pictureSize,
      sendsSeen: host.sendsSeen,
      tool: () => this.tool,
      extent: () => this.extent,
      about: () => source.about(),
      connected: () => !!source.payload?.camera,
      open: (tool) => this.open(tool),
      setLook: (look) => this.setLook(look),
      setEdit: (edit) => this.setEdit(edit),
      toggleCrop: () => this.toggleCrop(),
      fit: () => this.fit(),
      reset: () => this.reset(),
      savePicture: () => this.pictures.save(),
      fullScreen: () => frame.toggleFullScreen(),
    })
  }

  makeOverlay() {
    const { state, camera, comparison, motion, frame, host } = this
    return makeOverlay({
      state,
      camera,
      comparison,
      motion,
      stage: frame.stage,
      pictureSize: host.pictureSize,
      tool: () => this.tool,
      extent: () => this.extent,
      box: () => this.box(),
      setCrop: (crop) => this.setCrop(crop),
      setWipe: (wipe) => this.setLook({ wipe }),
    })
  }

  // State ----------------------------------------------------------------------------------------

  /** What the workflow keeps. */
  saved() {
    return roundAll(this.state)
  }

  /** @param {any} saved what the workflow kept */
  restore(saved) {
    Object.assign(this.state, readState(saved))
    this.redraw()
    if (this.state.file && !this.payload) this.settled = this.showFile()
  }

  /** What the graph gets. With "as seen" the picture goes to the server first. */
  async promptValue() {
    const wanted = this.host.sendsSeen() && this.isFilled()
    const seen = wanted ? await this.pictures.send() : null
    return promptValue({ ...this.state, seen })
  }

  /** After any change that the user made. */
  changed() {
    this.redraw()
    this.host.changed()
  }

  /** The user has moved the camera. */
  moved() {
    this.refresh()
    this.invalidate()
    this.host.changed()
  }

  /** @param {Partial<import("./state.mjs").Look>} look */
  setLook(look) {
    if (look.turntable === false) this.camera.takeSpin()
    Object.assign(this.state.look, look)
    this.changed()
    this.motion.turn()
  }

  /** @param {Partial<import("./state.mjs").Edit>} edit */
  setEdit(edit) {
    Object.assign(this.state.edit, edit)
    this.changed()
  }

  /** @param {Box | null} crop */
  setCrop(crop) {
    this.setEdit({ crop: crop && roundAll(crop) })
  }

  /** The crop box, or the one to begin with. */
  box() {
    return this.state.edit.crop ?? wholeBox(this.extent)
  }

  toggleCrop() {
    this.setCrop(this.state.edit.crop ? null : this.box())
  }

  /** Everything as it was in the beginning. */
  reset() {
    const dropped = this.source.forgetDropped() || !!this.state.file
    Object.assign(this.state, defaultState())
    this.camera.spin = 0
    this.comparison.flipped = false
    this.tool = ""
    if (dropped && this.payload) this.settled = this.show(this.payload)
    else if (dropped) {
      this.contents.clear()
      this.frame.sayEmpty()
    }
    this.changed()
    this.motion.turn()
  }

  /** @param {string} tool panel to open; the open one is closed */
  open(tool) {
    this.tool = this.tool === tool ? "" : tool
    this.redraw() // ghosts come and go with the crop tool
  }

  /** Makes the whole splat, or what a finished crop leaves of it, fill the view. */
  fit() {
    const { crop } = this.state.edit
    this.camera.fit(crop && this.tool !== "crop" ? crop : this.extent)
  }

  // What is shown --------------------------------------------------------------------------------

  /** There will be something to show soon. */
  warm() {
    sharedEngine().catch(() => undefined) // whoever needs it then will say so
  }

  /** Whether there is anything to draw. */
  isFilled() {
    return this.contents.isFilled()
  }

  /** Shows the results of a run. @param {Payload} payload */
  show(payload) {
    return this.source.show(payload)
  }

  /** Shows the result that a workflow was saved with, unless the server has forgotten it since. */
  async showLast(/** @type {Payload} */ payload) {
    await this.show(payload)
    const failed = this.element.dataset.state === "error" && !this.isFilled()
    if (failed) this.frame.sayEmpty()
  }

  /** The file that was dropped in an earlier session. */
  async showFile() {
    if (this.state.file) await this.source.showFile(this.state.file)
  }

  /** Other contents are there. */
  filled() {
    this.motion.forgetTimes()
    this.engine?.add(this.screen)
    this.extent = this.source.about().extent ?? this.contents.extent() ?? this.extent
    this.frame.say("", "ready")
    this.redraw()
    this.motion.turn()
  }

  /** @param {FileList | undefined} files @returns {boolean} whether one of them is shown */
  drop(files) {
    const file = [...(files ?? [])].find(({ name }) => DROPPABLE.test(name))
    if (file) this.settled = this.source.take(file).catch((error) => this.frame.sayFailed(error))
    return !!file
  }

  // Drawing --------------------------------------------------------------------------------------

  /** Everything anew: sorted splats, toolbar, overlay, picture. */
  redraw() {
    this.revision += 1
    this.refresh()
    this.invalidate()
  }

  /** The picture is not what it should be any longer. */
  invalidate() {
    this.overlay.update()
    this.screen.invalidate()
  }

  /** Everything beside the picture shows the state. */
  refresh() {
    this.frame.setBackground(this.state.look.background)
    this.frame.setTags(this.comparing() === "off" ? null : this.comparison.names())
    this.element.dataset.tool = this.tool
    this.toolbar.update()
    this.overlay.update()
  }

  /** What a picture shows. @returns {import("./drawing.mjs").Subject} */
  subject(ghosts = this.ghosts()) {
    return {
      sides: this.comparison.sides(),
      flipped: this.comparison.flipped,
      compare: this.comparing(),
      state: this.state,
      pose: this.camera.pose(),
      extent: this.extent,
      ghosts,
      revision: this.revision,
    }
  }

  /** Whether the view hints at what is cropped. */
  ghosts() {
    return this.tool === "crop"
  }

  /** Everything that a picture without ghosts depends on, beside its size. */
  depicted() {
    const { background: _, turntable: __, ...look } = this.state.look // not in the picture
    const keys = Object.values(this.loaded).map(({ key }) => key)
    return [keys, this.camera.pose(), this.state.edit, look, this.comparison.flipped]
  }

  /**
   * Draws elsewhere, when it is this picture's turn.
   * @param {HTMLCanvasElement} canvas @param {[number, number]} size @param {boolean} ghosts
   */
  async paint(canvas, size, ghosts) {
    const { engine, drawing } = this
    if (!engine) throw new Error(this.words.empty)
    return engine.enqueue(() => drawing.paint(canvas, this.subject(ghosts), size, false))
  }

  /** Returns when the newest picture is there and nothing is on its way. */
  async idle() {
    await this.settled
    await this.screen.idle()
  }

  // What pages ask of a viewer's parts ------------------------------------------------------------

  get element() {
    return this.frame.element
  }

  get stage() {
    return this.frame.stage
  }

  get canvas() {
    return this.frame.canvas
  }

  get message() {
    return this.frame.message
  }

  get facts() {
    return this.frame.facts
  }

  get payload() {
    return this.source.payload
  }

  get loaded() {
    return this.contents.loaded
  }

  get engine() {
    return this.contents.engine
  }

  get spin() {
    return this.camera.spin
  }

  get moving() {
    return this.motion.moving
  }

  get pace() {
    return this.motion.pace
  }

  info() {
    return this.camera.info()
  }

  orbit() {
    return this.camera.orbit()
  }

  /** @param {[number, number]} angles azimuth and elevation */
  lookFrom(angles) {
    this.camera.lookFrom(angles)
  }

  comparing() {
    return this.comparison.comparing()
  }

  flip() {
    this.comparison.flip()
  }

  picture() {
    return this.pictures.picture()
  }

  dispose() {
    this.motion.stop()
    this.motion.clearSharpening()
    this.stopListening()
    this.screen.dispose()
  }
}
