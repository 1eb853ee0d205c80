/**
 * What a viewer has loaded: up to two splats and a mesh, in the scenes of A and B.
 *
 * @typedef {import("./state.mjs").SavedFile} SavedFile
 * @typedef {"splat" | "splat_b" | "mesh"} Slot
 * @typedef {import("./splats.mjs").Splat} Splat
 * @typedef {{ splat?: Loaded<Splat>, splat_b?: Loaded<Splat>, mesh?: Loaded<any> }} Everything
 *   a mesh is three's object
 */
/**
 * @template Item
 * @typedef {{ key: string, item: Item }} Loaded
 */
import { sharedEngine } from "./engine.mjs"
import { disposeMesh, extentOfMesh, loadMesh } from "./meshes.mjs"
import { extentOf, loadSplat } from "./splats.mjs"
import { t } from "./words.mjs"

const SLOTS = /** @type {const} */ (["splat", "splat_b", "mesh"])

export class Contents {
  /** @param {import("./viewer.mjs").Host} host */
  constructor(host) {
    this.host = host
    /** @type {Everything} */ this.loaded = {}
    /** @type {Partial<Record<Slot, SavedFile | null>>} */ this.files = {}
    /** @type {any[]} of A and of B; none before something was loaded */ this.scenes = []
    /** @type {import("./engine.mjs").Engine | null} */ this.engine = null
    this.loads = 0
  }

  /** Whether there is anything to draw. */
  isFilled() {
    return Object.keys(this.loaded).length > 0
  }

  /**
   * Loads files and puts them in the place of what is there, all at once; what is there stays when
   * one of them can't be loaded.
   * @param {Partial<Record<Slot, SavedFile | null>>} files
   * @param {Slot} [given] the slot whose file need not be fetched
   * @param {ArrayBuffer} [buffer] its content
   * @returns {Promise<boolean>} false if another load was begun meanwhile: then nothing has changed
   */
  async fill(files, given, buffer) {
    const mine = ++this.loads
    const made = /** @type {Everything} */ ({})
    try {
      this.engine ??= await sharedEngine()
      for (const slot of SLOTS) {
        const file = files[slot]
        if (!file) continue
        const key = `${file.type}/${file.subfolder}/${file.filename}`
        const bytes = slot === given ? buffer : undefined
        const there = this.loaded[slot]
        made[slot] =
          there?.key === key && !bytes ? there : { key, item: await this.load(file, slot, bytes) }
      }
    } catch (error) {
      this.discard(made)
      if (mine !== this.loads) return false // nobody waits for it any longer
      throw error
    }
    if (mine !== this.loads) {
      this.discard(made)
      return false
    }
    this.replace(made)
    this.files = files
    return true
  }

  /** @param {SavedFile} file @param {Slot} slot @param {ArrayBuffer} [buffer] its content */
  async load(file, slot, buffer) {
    const bytes = buffer ?? (await this.host.read(file))
    const { lib } = /** @type {import("./engine.mjs").Engine} */ (this.engine)
    try {
      if (slot === "mesh") return await loadMesh(lib, bytes)
      return await loadSplat(lib, bytes, file.filename)
    } catch (error) {
      // Spark's workers send bare texts.
      const reason = error instanceof Error ? error.message : String(error)
      const { filename } = file
      throw new Error(
        t("{filename} can't be shown ({reason}): is it whole, and what its name says?", {
          filename,
          reason,
        }),
      )
    }
  }

  /** Frees what is not shown. @param {Everything} made */
  discard(made) {
    for (const slot of SLOTS) {
      const value = made[slot]
      if (value && this.loaded[slot] !== value) free(slot, value.item)
    }
  }

  /** @param {Everything} made */
  replace(made) {
    const before = this.loaded
    this.loaded = made
    this.discard(before)
    const { lib } = /** @type {import("./engine.mjs").Engine} */ (this.engine)
    if (!this.scenes.length) this.scenes = [new lib.Scene(), new lib.Scene()]
    const { splat, splat_b, mesh } = made
    if (splat) this.scenes[0].add(splat.item.mesh)
    if (splat_b) this.scenes[1].add(splat_b.item.mesh)
    if (mesh) this.scenes[0].add(mesh.item)
  }

  /** Forgets everything, and what is being loaded. */
  clear() {
    this.loads += 1
    if (this.engine) this.replace({})
    this.files = {}
  }

  /** @returns {import("./state.mjs").Box | null} */
  extent() {
    const { splat, mesh } = this.loaded
    if (splat) return extentOf(splat.item)
    return mesh ? extentOfMesh(this.engine?.lib, mesh.item) : null
  }
}

/** @param {Slot} slot @param {any} item */
function free(slot, item) {
  if (slot === "mesh") return disposeMesh(item)
  item.mesh.removeFromParent()
  item.mesh.dispose()
}
