/**
 * The viewer's texts. The English text is the key; each other language has a table of translations.
 * The page's language is set once, before the first viewer is made.
 */

/** ComfyUI's name of a language -> its table, loaded when it is needed. */
const TABLES = new Map([["zh", () => import(new URL("./words.zh.mjs", import.meta.url).href)]])

/** @type {Record<string, string>} English -> the page's language */
let table = {}

/** @param {string | undefined} locale */
export async function learn(locale) {
  table = (await TABLES.get(locale ?? "")?.())?.default ?? {}
}

/**
 * @param {string} text in English, with {names} for values
 * @param {Record<string, string | number>} [values]
 */
export const t = (text, values = {}) =>
  (table[text] ?? text).replace(/\{(\w+)\}/g, (_, name) => String(values[name]))

const ofGraph = () => ({
  empty: t(
    "Run the graph to see the splat, or drop a .ply, .splat, .spz, .ksplat, .sog or .glb here.",
  ),
  camera: t("Named views and lens. The camera goes out of the node"),
  crop: t("Cut the splat with a box, by opacity or by size. The rest goes out of the node"),
  picture: t("Save what you see, and what the node's picture will show"),
  faint: t("Hides what is less opaque, here only: see Crop for the graph"),
  moved: t("This camera goes out of the node when the graph runs."),
  connected: t("The connected camera goes out of the node, until you move the view."),
  unmoved: t("A camera from which all can be seen goes out of the node, until you move the view."),
  uncropped: t("Drag a colored handle, or a slider. The graph gets what stays."),
  cropped: (/** @type {Record<string, string>} */ values) =>
    t("{kept} of {count} stay, for the graph's next run.", values),
  save: t("Downloads what you see, with alpha, in the node's width and height"),
  seen: t("As seen: this picture goes out of the node when the graph runs."),
  drawn: t("The node's picture is drawn exactly from this camera when the graph runs."),
})

/** Where there is no graph that gets the results. @type {typeof ofGraph} */
const alone = () => ({
  empty: t("Drop a .ply, .splat, .spz, .ksplat, .sog or .glb here."),
  camera: t("Named views and lens"),
  crop: t("Cut the splat with a box, by opacity or by size"),
  picture: t("Save what you see"),
  faint: t("Hides what is less opaque"),
  moved: "",
  connected: "",
  unmoved: "",
  uncropped: t("Drag a colored handle, or a slider. The files stay as they are."),
  cropped: (/** @type {Record<string, string>} */ values) =>
    t("{kept} of {count} stay; the files stay as they are.", values),
  save: t("Downloads what you see, with alpha"),
  seen: "",
  drawn: t("With alpha where nothing is."),
})

/** @typedef {ReturnType<typeof ofGraph>} Words */

/** The texts that depend on whether a graph gets the results. @param {import("./viewer.mjs").Host} host */
export const wordsOf = (host) => (host.alone ? alone() : ofGraph())
