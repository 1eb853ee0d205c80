/**
 * The one WebGL context of the page. Views ask for a redraw; their panes are drawn one after the
 * other and copied into the views' plain 2D canvases, so two dozen nodes cost one context.
 *
 * @typedef {{ scene: any, camera: any, width: number, height: number, key: string, splats: boolean,
 *   moving: boolean, style: { shade: number, falloff: number, low_pass: number } }} Pane
 *   key: changes with everything that changes the pane's splats or how they are sorted
 * @typedef {{ visible: () => boolean, ready: () => Promise<void>, draw: () => Promise<void>,
 *   lost: (gone: boolean) => void, failed: (error: Error) => void }} View
 *   ready: what drawing waits for, so that it shows the newest state
 */
import { t } from "./words.mjs"

const SHADE = "lgmShade" // uniform: 1 gives flat discs the shading of a ball
const VISIBLE = 1 / 255 // alpha below which 3D Gaussian Splatting draws nothing

/** @type {Promise<Engine> | null} */
let shared = null

/** The page's engine. Loads the libraries (3 MB) when it is first needed. */
export function sharedEngine() {
  shared ??= import(new URL("../vendor/viewer-engine.mjs", import.meta.url).href)
    .then((lib) => new Engine(lib))
    .catch((error) => {
      shared = null // a later view may try again
      const values = { reason: error.message }
      throw new Error(
        t("The viewer's 3D engine did not start ({reason}): reload the page.", values),
      )
    })
  return shared
}

export class Engine {
  /** @param {any} lib the exports of tools/web/engine.mjs */
  constructor(lib) {
    this.lib = lib
    this.canvas = document.createElement("canvas")
    // Splats are smooth by themselves; anti-aliasing would only cost.
    this.renderer = new lib.WebGLRenderer({ canvas: this.canvas, alpha: true, antialias: false })
    this.renderer.setClearColor(0, 0)
    this.lost = false
    /** @type {Set<View>} */ this.views = new Set()
    /** @type {Set<View>} */ this.dirty = new Set()
    /** @type {Set<View>} */ this.waiting = new Set() // in line to be drawn
    /** @type {(SplatPass | undefined)[]} */ this.passes = []
    this.line = Promise.resolve()
    /** @type {number | undefined} of the next redraw */ this.frame = undefined
    this.frames = 0 // drawn since the page was opened
    this.through = 0 // when the GPU finished the last picture that was timed
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault() // else it would never come back
      this.lost = true
      for (const view of this.views) view.lost(true)
    })
    this.canvas.addEventListener("webglcontextrestored", () => {
      // three uploads everything again; what Spark has sorted lies in textures that are gone.
      for (const pass of this.passes) pass?.forget()
      this.lost = false
      for (const view of this.views) {
        view.lost(false)
        this.invalidate(view)
      }
    })
  }

  /** Schedules one redraw, however many changes a frame brings. @param {View} view */
  invalidate(view) {
    this.dirty.add(view)
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined
      this.drawDirty()
    })
  }

  drawDirty() {
    for (const view of [...this.dirty]) {
      this.dirty.delete(view)
      // A hidden view asks again when it comes into sight; one in line shows the newest anyway.
      if (!view.visible() || this.waiting.has(view)) continue
      this.waiting.add(view)
      this.enqueue(() => this.drawView(view)).catch((error) => view.failed(error))
    }
  }

  /** @param {View} view */
  async drawView(view) {
    await view.ready()
    this.waiting.delete(view)
    return view.draw()
  }

  /**
   * Runs jobs that draw one after the other: there is one drawing buffer.
   * @template T @param {() => Promise<T>} job @returns {Promise<T>}
   */
  enqueue(job) {
    const done = this.line.then(job)
    this.line = done.then(
      () => undefined,
      () => undefined,
    )
    return done
  }

  /**
   * Draws a pane and gives its picture to `copy` while it is there. Only within `enqueue`.
   * @param {Pane} pane
   * @param {number} index which of a view's panes: each has its own sorting
   * @param {View} view
   * @param {(picture: HTMLCanvasElement) => void} copy
   */
  async drawPane(pane, index, view, copy) {
    if (this.lost) return
    this.resize(pane)
    if (pane.splats) await this.pass(index).prepare(pane, () => this.invalidate(view))
    if (this.lost) return
    for (const pass of this.passes) if (pass) pass.spark.visible = pane.splats
    this.renderer.render(pane.scene, pane.camera)
    this.frames += 1
    copy(this.canvas)
  }

  /**
   * Milliseconds that the GPU takes for a picture, without the time for those before it.
   * @param {number} start of its drawing, by performance.now()
   */
  async timeOf(start) {
    const gl = this.renderer.getContext()
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0)
    gl.flush()
    // In a lost context the state is never UNSIGNALED, so this ends.
    while (fence && gl.getSyncParameter(fence, gl.SYNC_STATUS) === gl.UNSIGNALED)
      await new Promise((next) => setTimeout(next, 4))
    gl.deleteSync(fence)
    const end = performance.now()
    const time = end - Math.max(start, this.through)
    this.through = end
    return time
  }

  /** @param {Pane} pane */
  resize({ width, height }) {
    const { canvas } = this
    if (canvas.width !== width || canvas.height !== height)
      this.renderer.setSize(width, height, false)
  }

  /** @param {number} index @returns {SplatPass} */
  pass(index) {
    this.passes[index] ??= new SplatPass(this.lib, this.renderer)
    return this.passes[index]
  }

  /** @param {View} view */
  add(view) {
    this.views.add(view)
  }

  /** @param {View} view @param {any[]} scenes which nothing may refer to any longer */
  remove(view, scenes) {
    this.views.delete(view)
    this.dirty.delete(view)
    for (const pass of this.passes) if (scenes.includes(pass?.scene)) pass?.forget()
  }
}

/** Draws splats by Spark, of one scene at a time: Spark sorts all splats of the scene it is in. */
class SplatPass {
  /** @param {any} lib @param {any} renderer three's */
  constructor(lib, renderer) {
    this.spark = new lib.SparkRenderer({
      renderer,
      autoUpdate: false,
      // As the model was trained: a low pass without compensation, sorted by depth, nothing cut off
      // that an 8-bit picture would show.
      preBlurAmount: 0.3,
      blurAmount: 0,
      sortRadial: false,
      minAlpha: VISIBLE,
      maxStdDev: Math.sqrt(-2 * Math.log(VISIBLE)),
      accumExtSplats: true, // full precision: 8-bit scales and colors would show
      enableLod: false,
      extraUniforms: { [SHADE]: { value: 0 } },
    })
    shadeDiscs(this.spark.material)
    this.scene = null
    this.key = "" // of what is sorted
    this.busy = Promise.resolve()
    this.sorting = false
  }

  /** What was sorted is not to be drawn again. */
  forget() {
    this.spark.removeFromParent()
    this.scene = null
    this.key = ""
  }

  /**
   * Returns when the pane's splats may be drawn. While the camera moves that is at once, in the
   * order of the view before; `again` is called when the new order is there.
   * @param {Pane} pane @param {() => void} again
   */
  async prepare(pane, again) {
    const { spark } = this
    if (pane.moving && this.scene === pane.scene) {
      this.apply(pane.style)
      if (this.key !== pane.key && !this.sorting) this.sort(pane).then(again)
      return
    }
    await this.busy
    if (this.scene !== pane.scene) {
      this.forget()
      pane.scene.add(spark)
      this.scene = pane.scene
    }
    this.apply(pane.style)
    if (this.key !== pane.key) await this.sort(pane)
  }

  /** @param {Pane["style"]} style */
  apply({ shade, falloff, low_pass }) {
    this.spark.material.uniforms[SHADE].value = shade
    this.spark.falloff = falloff
    this.spark.preBlurAmount = low_pass
  }

  /** @param {Pane} pane */
  sort({ scene, camera, key }) {
    this.sorting = true
    const copy = camera.clone() // the view's own one may move on
    copy.updateMatrixWorld()
    this.busy = this.spark.update({ scene, camera: copy }).finally(() => {
      this.sorting = false
      if (this.scene === scene) this.key = key
    })
    return this.busy
  }
}

/** Lets the uniform `lgmShade` make a ball of each disc that Spark draws. @param {any} material */
function shadeDiscs(material) {
  const [before, after] = ["void main() {", "if (encodeLinear) {"]
  const source = material.fragmentShader
  if (!source.includes(before) || !source.includes(after)) return // another Spark: discs stay flat
  material.fragmentShader = source
    .replace(before, `uniform float ${SHADE};\n${before}`)
    .replace(
      after,
      `rgba.rgb *= mix(1.0, 0.35 + 0.65 * sqrt(max(0.0, 1.0 - z2 / (maxStdDev * maxStdDev))), ` +
        `${SHADE});\n${after}`,
    )
}
