/**
 * What a viewer remembers. The workflow keeps all of it; the prompt, which the graph is computed
 * from, gets only what changes a result.
 * The world is three.js's: y up, right-handed.
 *
 * @typedef {[number, number, number]} Vec3
 * @typedef {{ x: number, y: number, z: number }} Point
 * @typedef {{ position: Point, target: Point, quaternion?: Point & { w: number }, fov?: number,
 *   zoom?: number, cameraType?: string, aspect?: number, near?: number, far?: number }} CameraInfo
 *   ComfyUI's LOAD3D_CAMERA; `fov` in degrees spans the shorter side of the picture
 * @typedef {{ center: Vec3, size: Vec3 }} Box
 * @typedef {{ crop: Box | null, min_opacity: number, max_scale: number }} Edit
 *   which Gaussians are kept: center inside the box, at least this opaque, and the longest axis at
 *   most max_scale (0: any)
 * @typedef {"splat" | "points" | "ellipsoids" | "depth" | "normal"} Mode
 * @typedef {"off" | "wipe" | "side"} Compare
 * @typedef {{ mode: Mode, background: string, scale: number, opacity_cut: number,
 *   turntable: boolean, compare: Compare, against: string, wipe: number, show_mesh: boolean,
 *   show_splat: boolean }} Look
 *   against: what B is: "splat", "mesh", the index of a picture, or "" for the first splat or mesh
 * @typedef {{ filename: string, subfolder: string, type: string }} SavedFile
 * @typedef {{ version: 1, camera: CameraInfo | null, edit: Edit, look: Look,
 *   seen: SavedFile | null, file: string | null }} State
 */

export const MODES = /** @type {const} */ (["splat", "points", "ellipsoids", "depth", "normal"])
export const COMPARES = /** @type {const} */ (["wipe", "side", "off"])

/** @returns {State} */
export const defaultState = () => ({
  version: 1,
  camera: null, // the whole splat from the front, or the connected camera
  edit: { crop: null, min_opacity: 0, max_scale: 0 },
  look: {
    mode: "splat",
    background: "#ffffff",
    scale: 1,
    opacity_cut: 0,
    turntable: false,
    compare: "wipe",
    against: "",
    wipe: 0.5,
    show_mesh: true,
    show_splat: true,
  },
  seen: null,
  file: null,
})

/**
 * Rounded, so that a value stays the same when it is written to a file and read back.
 * @param {number} x
 */
export const round = (x) => Math.round(x * 1e4) / 1e4 + 0 // + 0: no -0, which JSON would lose

/**
 * A whole state from whatever a workflow holds: older, partial, by hand, null, "".
 * @param {any} saved
 * @returns {State}
 */
export function readState(saved) {
  const state = defaultState()
  if (!saved || typeof saved !== "object") return state
  const { edit = {}, look = {} } = saved
  state.camera = readCamera(saved.camera)
  state.edit.crop = readBox(edit?.crop)
  state.edit.min_opacity = number(edit?.min_opacity, 0, 1, 0)
  state.edit.max_scale = number(edit?.max_scale, 0, Infinity, 0)
  state.look.mode = oneOf(MODES, look?.mode)
  state.look.compare = oneOf(COMPARES, look?.compare)
  if (isBackground(look?.background)) state.look.background = look.background
  state.look.scale = number(look?.scale, 0.05, 2, 1)
  state.look.opacity_cut = number(look?.opacity_cut, 0, 1, 0)
  state.look.wipe = number(look?.wipe, 0, 1, 0.5)
  if (typeof look?.against === "string") state.look.against = look.against
  for (const name of /** @type {const} */ (["turntable", "show_mesh", "show_splat"])) {
    if (typeof look?.[name] === "boolean") state.look[name] = look[name]
  }
  if (typeof saved.seen?.filename === "string") state.seen = saved.seen
  if (typeof saved.file === "string" && saved.file) state.file = saved.file
  return state
}

/**
 * What the graph is computed from. Of the look only the background of the picture is in it, so that
 * looking around in another way computes nothing again.
 * @param {State} state
 */
export const promptValue = ({ version, camera, edit, look, seen, file }) => ({
  version,
  camera: camera && roundAll(camera),
  edit: roundAll(edit),
  look: { background: look.background },
  seen,
  ...(file && { file }),
})

/** Every number of a JSON value rounded. @template T @param {T} value @returns {T} */
export function roundAll(value) {
  if (typeof value === "number") return /** @type {T} */ (round(value))
  if (Array.isArray(value)) return /** @type {T} */ (value.map(roundAll))
  if (!value || typeof value !== "object") return value
  return /** @type {T} */ (
    Object.fromEntries(Object.entries(value).map(([key, item]) => [key, roundAll(item)]))
  )
}

/**
 * The change of a look that shows or hides the splat or the mesh; one of them always stays.
 * @param {Look} look
 * @param {"show_splat" | "show_mesh"} name
 * @param {boolean} apart whether they are being compared: then both are there, whatever the look says
 * @returns {Partial<Look>}
 */
export function toggled(look, name, apart) {
  const other = name === "show_mesh" ? "show_splat" : "show_mesh"
  if (apart) return { compare: "off", [name]: false, [other]: true }
  return look[name] ? { [name]: false, [other]: true } : { [name]: true }
}

/** Whether an edit keeps everything. @param {Edit} edit */
export const isUnedited = (edit) => !edit.crop && edit.min_opacity <= 0 && edit.max_scale <= 0

/** @param {any} text */
const isBackground = (text) =>
  text === "checker" || text === "transparent" || /^#[0-9a-f]{6}$/i.test(text ?? "")

/**
 * @template T
 * @param {readonly T[]} allowed @param {any} value
 * @returns {T}
 */
const oneOf = (allowed, value) => (allowed.includes(value) ? value : allowed[0])

/** @param {any} value @param {number} low @param {number} high @param {number} otherwise */
const number = (value, low, high, otherwise) =>
  Number.isFinite(value) ? Math.min(Math.max(value, low), high) : otherwise

/** @param {any} point */
const isPoint = (point) => [point?.x, point?.y, point?.z].every(Number.isFinite)

/** @param {any} vector */
const isVector = (vector) =>
  Array.isArray(vector) && vector.length === 3 && vector.every(Number.isFinite)

/** @param {any} box @returns {Box | null} */
function readBox(box) {
  if (!isVector(box?.center) || !isVector(box?.size)) return null
  return {
    center: /** @type {Vec3} */ ([...box.center]),
    size: /** @type {Vec3} */ (box.size.map(Math.abs)),
  }
}

/** @param {any} camera @returns {CameraInfo | null} */
export function readCamera(camera) {
  if (!isPoint(camera?.position)) return null
  return { ...camera, target: isPoint(camera.target) ? camera.target : { x: 0, y: 0, z: 0 } }
}
