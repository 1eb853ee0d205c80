/**
 * What is compared with what. A is the splat; B is a second splat, the mesh, or one of the pictures
 * that the splat was made from.
 *
 * @typedef {import("./state.mjs").SavedFile} SavedFile
 * @typedef {import("./state.mjs").Look} Look
 * @typedef {import("./state.mjs").Compare} Compare
 * @typedef {import("./contents.mjs").Loaded<import("./splats.mjs").Splat>} LoadedSplat
 * @typedef {{ slot: 0 | 1, splat: LoadedSplat | null, mesh: boolean }} SceneSide
 *   slot: which of the two scenes; mesh: whether the scene's mesh is drawn
 * @typedef {{ image: SavedFile }} ImageSide
 * @typedef {SceneSide | ImageSide} Side
 */
import { MODEL_VIEWS } from "./camera.mjs"
import { t } from "./words.mjs"

const MODEL_NAMES = /** @type {(keyof typeof MODEL_VIEWS)[]} */ (Object.keys(MODEL_VIEWS))

export class Comparison {
  /**
   * @param {{
   *   state: import("./state.mjs").State,
   *   contents: Pick<import("./contents.mjs").Contents, "loaded">,
   *   images: () => SavedFile[],
   *   setLook: (look: Partial<Look>) => void,
   *   lookAsModel: (name: keyof typeof MODEL_VIEWS) => void,
   *   redraw: () => void,
   * }} inputs
   *   images: the pictures that the splat was made from; lookAsModel: moves the camera
   */
  constructor({ state, contents, images, setLook, lookAsModel, redraw }) {
    this.state = state
    this.contents = contents
    this.images = images
    this.setLook = setLook
    this.lookAsModel = lookAsModel
    this.redraw = redraw
    this.flipped = false // A and B have changed places
  }

  /** What B can be: [value, name]. @returns {[string, string][]} */
  rivals() {
    const { splat, splat_b, mesh } = this.contents.loaded
    /** @type {[string, string][]} */
    const rivals = []
    if (splat_b) rivals.push(["splat", t("Splat B")])
    if (mesh && splat) rivals.push(["mesh", t("Mesh")])
    this.images().forEach((_, index) =>
      rivals.push([String(index), t("Picture {number}", { number: index + 1 })]),
    )
    return rivals
  }

  /** What B is; a picture only when it was asked for. @returns {string | undefined} */
  rival() {
    const values = this.rivals().map(([value]) => value)
    const { against } = this.state.look
    return values.includes(against) ? against : values.find((value) => !/^\d/.test(value))
  }

  /** How A and B are shown now. @returns {Compare} */
  comparing() {
    return this.rival() === undefined ? "off" : this.state.look.compare
  }

  /** Whether splat and mesh are apart, as A and B; else they are in one picture. */
  againstMesh() {
    return this.comparing() !== "off" && this.rival() === "mesh"
  }

  /** @param {Compare} compare */
  setCompare(compare) {
    if (compare === "off" || this.rival() !== undefined) this.setLook({ compare })
    else this.setRival(this.rivals()[0][0], compare)
  }

  /** @param {string} rival @param {Compare} [compare] */
  setRival(rival, compare = this.state.look.compare) {
    const model = MODEL_NAMES[Number(rival)]
    // Each of four pictures is what LGM saw from one of its four cameras.
    if (model && this.images().length === MODEL_NAMES.length) this.lookAsModel(model)
    this.setLook({ against: rival, compare: compare === "off" ? "wipe" : compare })
  }

  /** A and B change places. */
  flip() {
    if (this.comparing() === "off") return
    this.flipped = !this.flipped
    this.redraw()
  }

  /** Names of A and B as they stand, from left to right. @returns {[string, string]} */
  names() {
    const rival = this.rival()
    const first = rival === "splat" ? "A" : t("Splat")
    const second = this.rivals().find(([value]) => value === rival)?.[1] ?? "B"
    return this.flipped ? [second, first] : [first, second]
  }

  /** What A and, when comparing, B show; always in this order. @returns {Side[]} */
  sides() {
    const { look } = this.state
    const { splat, splat_b, mesh } = this.contents.loaded
    const rival = this.comparing() === "off" ? undefined : this.rival()
    const apart = rival === "mesh" // A is the splat alone
    const withMesh = !!mesh && !apart && (look.show_mesh || !splat)
    const withSplat = look.show_splat || apart || !mesh
    /** @type {Side} */
    const first = { slot: 0, splat: (withSplat && splat) || null, mesh: withMesh }
    if (rival === undefined) return [first]
    if (rival === "splat") return [first, { slot: 1, splat: splat_b ?? null, mesh: false }]
    if (rival === "mesh") return [first, { slot: 0, splat: null, mesh: true }]
    return [first, { image: this.images()[Number(rival)] }]
  }
}
