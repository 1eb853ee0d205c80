/**
 * One viewer: its state, its scenes, its element. Knows nothing of ComfyUI; whoever makes one says
 * how to get files and where they go.
 *
 * @typedef {import("./state.mjs").SavedFile} SavedFile
 * @typedef {import("./state.mjs").CameraInfo} CameraInfo
 * @typedef {{ splat: SavedFile | null, splat_b?: SavedFile | null, mesh?: SavedFile | null,
 *   images?: SavedFile[], count?: number, count_kept?: number, extent?: import("./state.mjs").Box,
 *   bytes?: number, camera?: CameraInfo | null, default_camera?: CameraInfo | null,
 *   notes?: string[] }} Payload
 *   what a run of the node has to show
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
 *   alone: there is no graph that gets the results
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
import { Contents } from "./contents.mjs"
import { attachControls } from "./controls.mjs"
import { wholeBox } from "./crop.mjs"
import { el } from "./dom.mjs"
import { compose, drawParts, fingerprint, pixels } from "./drawing.mjs"
import { sharedEngine } from "./engine.mjs"
import { columnsOf, isSplatGlb, writePly } from "./formats.mjs"
import { makeOverlay } from "./overlay.mjs"
import { Pace } from "./pace.mjs"
import { pick } from "./splats.mjs"
import { defaultState, promptValue, readState, roundAll } from "./state.mjs"
import { addStyle } from "./style.mjs"
import { makeToolbar } from "./toolbar.mjs"
import { learn, t, wordsOf } from "./words.mjs"

export const DROPPABLE = /\.(ply|splat|spz|ksplat|sog|glb)$/i
const READABLE = /\.(ply|splat|spz|glb)$/i // by the graph; others go there as .ply
const TURNTABLE = 30 // degrees a second
const REST = 250 // milliseconds without a change, after which a held camera stands still

const still = matchMedia("(prefers-reduced-motion: reduce)")

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
    this.state = defaultState()
    /** @type {Payload | null} */ this.payload = null
    this.contents = new Contents(host)
    /** @type {HTMLCanvasElement[]} pictures of A and B */ this.scratch = []
    /** @type {SavedFile | null} a splat that was dropped since the last run */ this.dropped = null
    /** @type {SavedFile | null} */ this.droppedMesh = null
    /** @type {import("./state.mjs").Box} */ this.extent = { center: [0, 0, 0], size: [1, 1, 1] }
    this.revision = 0 // counts what the sorted splats depend on, beside the camera
    this.spin = 0 // degrees that the turntable has gone
    this.tool = "" // the open panel
    this.step = 0 // the turntable's next frame
    this.moving = false // a pointer holds the picture
    this.gliding = false // the wheel turns
    this.rested = false // nothing has changed for a while, held or not
    this.sharpening = 0 // the timer of that
    this.pace = new Pace()
    this.timed = Promise.resolve() // the last picture of a movement is on the screen
    this.flipped = false
    this.stale = true
    this.inSight = false
    this.disposed = false
    this.settled = Promise.resolve() // of loading; drawing is waited for with idle()
    this.build()
  }

  build() {
    this.canvas = /** @type {HTMLCanvasElement} */ (
      el("canvas", {
        ...{ class: "lgm-canvas", tabindex: 0, role: "img" },
        "aria-label": t(
          "Splat. Arrow keys turn, with Shift they move, plus and minus zoom, F fits, Space swaps A and B.",
        ),
      })
    )
    this.tags = [el("span", { class: "lgm-tag" }), el("span", { class: "lgm-tag" })]
    this.facts = el("div", { class: "lgm-facts" })
    this.message = el("div", { class: "lgm-message", role: "status", text: this.words.empty })
    this.stage = el("div", { class: "lgm-stage" }, this.canvas)
    this.toolbar = makeToolbar(this)
    this.overlay = makeOverlay(this)
    const { bar, panel } = this.toolbar
    this.stage.append(this.overlay.root, ...this.tags, this.facts, this.message)
    this.element = el(
      "div",
      {
        ...{ class: "lgm-viewer", "data-state": "empty", "data-drop": t("Drop to view") },
        "data-capture-wheel": "true", // tells ComfyUI's HTML nodes to leave the wheel to us
      },
      bar,
      panel,
      this.stage,
    )
    addStyle()
    attachControls(this.canvas, this)
    for (const name of ["pointerdown", "wheel", "contextmenu", "dblclick"])
      this.element.addEventListener(name, (event) => event.stopPropagation())
    this.listen()
    this.refresh()
  }

  listen() {
    this.sight = new IntersectionObserver((entries) => {
      this.inSight = entries.at(-1).isIntersecting
      if (this.inSight && this.stale) this.invalidate()
      this.turn()
    })
    this.sight.observe(this.stage)
    this.sizes = new ResizeObserver(() => this.invalidate())
    this.sizes.observe(this.stage)
    // The graph may have been zoomed: then the same element needs other pixels.
    this.onZoom = () => {
      if (pixels(this).some((side, axis) => side !== this.fullSize?.[axis])) this.invalidate()
    }
    this.stage.addEventListener("pointerenter", this.onZoom)
    window.addEventListener("resize", this.onZoom) // and the browser, too
    this.onShown = () => !document.hidden && (this.stale ? this.invalidate() : this.turn())
    document.addEventListener("visibilitychange", this.onShown)
    this.element.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return
      event.preventDefault()
      event.stopPropagation()
      this.element.classList.add("lgm-drop")
    })
    this.element.addEventListener("dragleave", () => this.element.classList.remove("lgm-drop"))
    this.element.addEventListener("drop", (event) => {
      this.element.classList.remove("lgm-drop")
      if (this.drop(event.dataTransfer?.files)) {
        event.preventDefault()
        event.stopPropagation()
      }
    })
  }

  // State ----------------------------------------------------------------------------------------

  /** What the workflow keeps. */
  saved() {
    return roundAll(this.state)
  }

  /** @param {any} saved what the workflow kept */
  restore(saved) {
    this.state = readState(saved)
    this.changedLook(false)
    if (this.state.file && !this.payload) this.settled = this.showFile()
  }

  /** What the graph gets. With "as seen" the picture goes to the server first. */
  async promptValue() {
    const wanted = this.host.sendsSeen() && this.isFilled()
    const seen = wanted ? await this.sendPicture() : null
    return promptValue({ ...this.state, seen })
  }

  /** After any change that the user made. */
  changedLook(tell = true) {
    this.revision += 1
    this.refresh()
    this.invalidate()
    if (tell) this.host.changed()
  }

  /** @param {Partial<import("./state.mjs").Look>} look */
  setLook(look) {
    if (look.turntable === false) this.takeSpin()
    Object.assign(this.state.look, look)
    this.changedLook()
    this.turn()
  }

  /** @param {Partial<import("./state.mjs").Edit>} edit */
  setEdit(edit) {
    Object.assign(this.state.edit, edit)
    this.changedLook()
  }

  /** @param {import("./state.mjs").Box | null} crop */
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
    const dropped = this.state.file || this.dropped || this.droppedMesh
    this.state = defaultState()
    this.spin = 0
    this.flipped = false
    this.tool = ""
    this.dropped = this.droppedMesh = null
    if (dropped && this.payload) this.settled = this.show(this.payload)
    else if (dropped) this.clear()
    this.changedLook()
    this.turn()
  }

  /** @param {string} tool panel to open; the open one is closed */
  open(tool) {
    this.tool = this.tool === tool ? "" : tool
    this.changedLook(false) // ghosts come and go with the crop tool
  }

  // Camera ---------------------------------------------------------------------------------------

  /** @returns {CameraInfo} */
  info() {
    const { camera, default_camera } = this.dropped ? {} : (this.payload ?? {})
    return this.state.camera ?? camera ?? default_camera ?? infoOf(frontOf(this.extent))
  }

  orbit() {
    return orbitBy(orbitOf(this.info()), this.spin, 0)
  }

  pose() {
    return this.spin ? poseOf(this.orbit()) : poseOfInfo(this.info())
  }

  /** The user looks from elsewhere. @param {import("./camera.mjs").Orbit} orbit */
  move(orbit) {
    this.spin = 0
    this.state.camera = roundAll(infoOf(orbit))
    this.refresh()
    this.invalidate()
    this.host.changed()
  }

  /** Makes where the turntable stands the camera. */
  takeSpin() {
    if (this.spin) this.move(this.orbit())
  }

  fit() {
    const { crop } = this.state.edit
    this.move(fitTo(this.orbit(), crop && this.tool !== "crop" ? crop : this.extent))
  }

  /** @param {[number, number]} angles azimuth and elevation */
  lookFrom([azimuth, elevation]) {
    this.move(fitTo({ ...this.orbit(), azimuth, elevation }, this.extent))
  }

  /** @param {string} name of one of LGM's cameras */
  lookAsModel(name) {
    this.move(modelView(/** @type {any} */ (name)))
  }

  /** @param {number} fov degrees, with the subject as large as it was */
  setFov(fov) {
    const orbit = this.orbit()
    const half = (degrees) => Math.tan((degrees * Math.PI) / 360)
    this.move({ ...orbit, fov, distance: (orbit.distance * half(orbit.fov)) / half(fov) })
  }

  /** Turns around what is at a place of the picture from now on. */
  pivot(x, y) {
    const splat = this.loaded.splat ?? this.loaded.splat_b
    const { clientWidth, clientHeight } = this.stage
    const pose = this.pose()
    const ray = rayThrough(pose, x, y, clientWidth, clientHeight)
    const hit = splat && pick(splat.item, pose.position, ray)
    if (!hit) return
    const { azimuth, elevation } = this.orbit()
    const distance = length(subtract(pose.position, hit))
    this.move({ target: hit, azimuth, elevation, distance, fov: pose.fov })
  }

  /** @param {boolean} moving whether a pointer holds the picture */
  setMoving(moving) {
    if (moving) this.takeSpin()
    this.moving = moving
    if (!moving) this.invalidate()
    this.turn()
  }

  /** By the wheel: more may follow. @param {import("./camera.mjs").Orbit} orbit */
  glide(orbit) {
    this.gliding = true
    this.move(orbit)
  }

  /** Whether pictures have to come fast rather than be perfect. */
  inMotion() {
    return this.turning() || (!this.rested && (this.moving || this.gliding))
  }

  /** Whether the turntable is to move. */
  turning() {
    const { turntable } = this.state.look
    return turntable && !this.moving && !still.matches && this.visible() && this.isFilled()
  }

  /** Starts or stops the turntable. A step waits for the picture before, however long that takes. */
  turn() {
    if (!this.turning()) {
      cancelAnimationFrame(this.step)
      this.step = 0
      return
    }
    if (this.step) return
    let before = performance.now()
    const step = (now) => {
      this.spin = (this.spin + (TURNTABLE * Math.min(now - before, 100)) / 1000) % 360
      before = now
      this.invalidate()
      this.step = -1 // on its way, but not as a frame
      this.idle().then(() => {
        // Another chain of steps may have begun since.
        if (this.step === -1) this.step = this.turning() ? requestAnimationFrame(step) : 0
      })
    }
    this.step = requestAnimationFrame(step)
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

  get loaded() {
    return this.contents.loaded
  }

  get engine() {
    return this.contents.engine
  }

  /** Shows the results of a run; what is shown already stays until the new is there. */
  async show(/** @type {Payload} */ payload) {
    const { splat, splat_b = null, mesh } = payload
    await this.fill({ splat, splat_b, mesh: mesh ?? this.droppedMesh }, () => {
      this.payload = payload
      this.dropped = null
    })
  }

  /** Shows the result that a workflow was saved with, unless the server has forgotten it since. */
  async showLast(/** @type {Payload} */ payload) {
    await this.show(payload)
    const failed = this.element.dataset.state === "error" && !this.isFilled()
    if (failed) this.say(this.words.empty, "empty")
  }

  /** The file that was dropped in an earlier session. */
  async showFile() {
    const [, subfolder = "", filename] = this.state.file.match(/^(?:(.*)\/)?([^/]+)$/)
    const file = { filename, subfolder, type: "input" }
    await this.fill({ splat: file, mesh: this.droppedMesh }, () => (this.dropped = file))
  }

  /**
   * @param {Record<string, SavedFile | null>} files
   * @param {() => void} then what changes together with the contents
   * @param {string} [given] @param {ArrayBuffer} [buffer] see Contents.fill
   */
  async fill(files, then, given, buffer) {
    if (!this.isFilled()) this.say(t("Loading…"), "loading")
    try {
      if (!(await this.contents.fill(files, given, buffer))) return
    } catch (error) {
      if (!this.disposed) this.fail(error)
      return
    }
    if (this.disposed) return this.contents.clear()
    then()
    this.pace = new Pace()
    this.engine.add(this)
    const told = this.dropped ? null : this.payload?.extent
    this.extent = told ?? this.contents.extent() ?? this.extent
    this.say("", "ready")
    this.changedLook(false)
    this.turn()
  }

  clear() {
    this.contents.clear()
    this.say(this.words.empty, "empty")
    this.invalidate()
  }

  /** @param {FileList | undefined} files @returns {boolean} whether one of them is shown */
  drop(files) {
    const file = [...(files ?? [])].find(({ name }) => DROPPABLE.test(name))
    if (file) this.settled = this.take(file).catch((error) => this.fail(error))
    return !!file
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
    if (this.dropped !== local) return // it could not be read, or another one was faster
    const readable = READABLE.test(file.name)
    const blob = readable ? file : new Blob([writePly(columnsOf(this.loaded.splat.item.mesh))])
    const name = readable ? file.name : file.name.replace(/\.\w+$/, ".ply")
    const saved = await this.host.upload(blob, name, "3d", "input")
    this.state.file = [saved.subfolder, saved.filename].filter(Boolean).join("/")
    this.changedLook()
  }

  // Comparing ------------------------------------------------------------------------------------

  /** What A can be compared with: [value, name]. @returns {[string, string][]} */
  rivals() {
    const pictures = this.dropped ? [] : (this.payload?.images ?? [])
    return [
      ...(this.loaded.splat_b ? [["splat", t("Splat B")]] : []),
      ...(this.loaded.mesh && this.loaded.splat ? [["mesh", t("Mesh")]] : []),
      ...pictures.map((_, index) => [String(index), t("Picture {number}", { number: index + 1 })]),
    ]
  }

  /** What B is; a picture only when it was asked for. */
  rival() {
    const values = this.rivals().map(([value]) => value)
    const { against } = this.state.look
    return values.includes(against) ? against : values.find((value) => !/^\d/.test(value))
  }

  /** @returns {import("./state.mjs").Compare} */
  comparing() {
    return this.rival() === undefined ? "off" : this.state.look.compare
  }

  /** Whether splat and mesh are apart, as A and B; else they are in one picture. */
  againstMesh() {
    return this.comparing() !== "off" && this.rival() === "mesh"
  }

  /** @param {import("./state.mjs").Compare} compare */
  setCompare(compare) {
    if (compare === "off" || this.rival() !== undefined) this.setLook({ compare })
    else this.setRival(this.rivals()[0][0], compare)
  }

  /** @param {string} rival @param {import("./state.mjs").Compare} [compare] */
  setRival(rival, compare = this.state.look.compare) {
    const model = ["Front", "Left", "Back", "Right"][Number(rival)]
    // Of four pictures each is what LGM saw from there.
    if (model && this.payload?.images?.length === 4) this.lookAsModel(model)
    this.setLook({ against: rival, compare: compare === "off" ? "wipe" : compare })
  }

  /** Swaps A and B where they stand. */
  flip() {
    if (this.comparing() === "off") return
    this.flipped = !this.flipped
    this.changedLook(false)
  }

  // Drawing --------------------------------------------------------------------------------------

  visible() {
    return this.inSight && this.element.isConnected && !document.hidden && !this.disposed
  }

  invalidate() {
    this.stale = true
    this.rested = false
    this.refreshOverlay()
    this.engine?.invalidate(this)
  }

  /** On a slow GPU pictures would queue up, and the view lag behind the hand. */
  async ready() {
    if (this.inMotion()) await this.timed
  }

  /** Called by the engine, alone. */
  async draw() {
    if (!this.stage.clientWidth || this.disposed || this.engine.lost) return // later, then
    this.stale = false
    this.clearSharpening()
    if (!this.contents.scenes.length) return
    const start = performance.now()
    const full = pixels(this)
    if (full.some((side, axis) => side !== this.fullSize?.[axis])) this.pace = new Pace()
    this.fullSize = full
    const [moving, { pace }] = [this.inMotion(), this]
    const scale = moving ? pace.scale : 1
    const size = full.map((side) => Math.max(1, Math.round(side * scale)))
    const parts = await drawParts(this, size, moving)
    if (!parts || this.disposed) return
    const { canvas } = this
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size
    compose(this, canvas.getContext("2d"), parts, size)
    this.element.dataset.frames = String(Number(this.element.dataset.frames ?? 0) + 1)
    if (!moving) return
    this.timed = this.engine.timeOf(start).then((time) => pace.took(time, scale))
    // The turntable goes on by itself; a hand may stop.
    if ((scale < 1 || this.gliding) && !this.turning())
      this.sharpening = window.setTimeout(() => this.sharpen(), REST)
  }

  /** The camera stands, though a pointer may still hold it: draws as well as can be. */
  sharpen() {
    this.sharpening = 0
    this.rested = true
    this.gliding = false
    this.stale = true
    this.engine?.invalidate(this)
  }

  clearSharpening() {
    clearTimeout(this.sharpening)
    this.sharpening = 0
  }

  /** Returns when the newest picture is there and nothing is on its way. */
  async idle() {
    await this.settled
    const waits = () => this.stale || this.sharpening
    while (waits() && this.visible() && this.contents.scenes.length && !this.engine.lost)
      await new Promise((done) => setTimeout(done, 16))
    await this.engine?.line
    await Promise.all((this.engine?.passes ?? []).map((pass) => pass?.busy))
  }

  /** The picture of the node's size, as the view shows it, with alpha. @returns {Promise<Blob>} */
  async picture() {
    const { width, height } = this.host.pictureSize()
    return this.engine.enqueue(async () => {
      const canvas = document.createElement("canvas")
      ;[canvas.width, canvas.height] = [width, height]
      const parts = await drawParts(this, [width, height], false)
      if (!parts)
        throw new Error(t("The graphics context is gone: try again when the picture is back."))
      compose(this, canvas.getContext("2d"), parts, [width, height])
      return new Promise((done) => canvas.toBlob(done, "image/png"))
    })
  }

  /** As a file of the user's. */
  async savePicture() {
    try {
      const address = URL.createObjectURL(await this.picture())
      el("a", { href: address, download: "splat.png" }).click()
      setTimeout(() => URL.revokeObjectURL(address), 10_000)
    } catch (error) {
      this.fail(error)
    }
  }

  /** To the server; once, as long as nothing changes. @returns {Promise<SavedFile>} */
  async sendPicture() {
    const { width, height } = this.host.pictureSize()
    const keys = Object.values(this.loaded).map(({ key }) => key)
    const { background: _, turntable: __, ...look } = this.state.look // not in the picture
    const of = JSON.stringify([
      keys,
      width,
      height,
      this.pose(),
      this.state.edit,
      look,
      this.flipped,
    ])
    if (this.sent?.of !== of) {
      const tool = this.tool
      this.tool = "" // no ghosts of what is cropped
      const blob = await this.picture().finally(() => (this.tool = tool))
      const name = `${fingerprint(await blob.arrayBuffer())}.png`
      this.sent = { of, file: await this.host.upload(blob, name, "lgm", "temp") }
    }
    return this.sent.file
  }

  // The rest -------------------------------------------------------------------------------------

  /** Everything beside the picture shows the state. */
  refresh() {
    const { background } = this.state.look
    this.stage.dataset.background = background.startsWith("#") ? "color" : background
    this.stage.style.setProperty("--lgm-background", background.startsWith("#") ? background : "")
    this.toolbar.update()
    this.element.dataset.tool = this.tool
    const comparing = this.comparing()
    const first = this.rival() === "splat" ? "A" : t("Splat")
    const names = [first, this.rivals().find(([value]) => value === this.rival())?.[1] ?? "B"]
    if (this.flipped) names.reverse()
    this.tags.forEach((tag, index) => {
      tag.hidden = comparing === "off"
      tag.textContent = names[index]
    })
    this.refreshOverlay()
  }

  refreshOverlay() {
    this.overlay?.update()
  }

  /** @param {string} text @param {"empty" | "loading" | "ready" | "error"} kind */
  say(text, kind) {
    this.message.textContent = text
    this.message.hidden = !text
    this.message.setAttribute("role", kind === "error" ? "alert" : "status")
    this.element.dataset.state = kind
  }

  /** @param {Error} error */
  failed(error) {
    this.fail(error)
  }

  fail(error) {
    console.warn("LGM viewer:", error)
    this.say(error.message, "error")
  }

  /** @param {boolean} gone whether the graphics context is away */
  lost(gone) {
    if (gone) this.say(t("The graphics context was lost; waiting for it to come back."), "error")
    else this.say(this.isFilled() ? "" : this.words.empty, this.isFilled() ? "ready" : "empty")
  }

  async fullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen()
    else await this.element.requestFullscreen()
  }

  dispose() {
    this.disposed = true
    cancelAnimationFrame(this.step)
    this.clearSharpening()
    this.sight.disconnect()
    this.sizes.disconnect()
    window.removeEventListener("resize", this.onZoom)
    document.removeEventListener("visibilitychange", this.onShown)
    const { engine, contents } = this
    // A picture that is being drawn is finished first.
    engine?.enqueue(async () => {
      engine.remove(this, contents.scenes)
      contents.clear()
    })
  }
}
