/** The row of buttons, and the panels that they open. */
import { AXIS_VIEWS } from "./camera.mjs"
import { arrowStep, choice, el, slider } from "./dom.mjs"
import { ICONS } from "./icons.mjs"
import { countKept } from "./splats.mjs"
import { isUnedited, toggled } from "./state.mjs"
import { t } from "./words.mjs"

/**
 * @typedef {import("./state.mjs").Look} Look
 * @typedef {import("./state.mjs").Edit} Edit
 * @typedef {{
 *   state: import("./state.mjs").State,
 *   words: import("./words.mjs").Words,
 *   contents: import("./contents.mjs").Contents,
 *   camera: import("./view-camera.mjs").ViewCamera,
 *   comparison: import("./comparison.mjs").Comparison,
 *   facts: HTMLElement,
 *   pictureSize: () => { width: number, height: number },
 *   sendsSeen: () => boolean,
 *   tool: () => string,
 *   extent: () => import("./state.mjs").Box,
 *   about: () => Partial<import("./source.mjs").Payload>,
 *   connected: () => boolean,
 *   open: (tool: string) => void,
 *   setLook: (look: Partial<Look>) => void,
 *   setEdit: (edit: Partial<Edit>) => void,
 *   toggleCrop: () => void,
 *   fit: () => void,
 *   reset: () => void,
 *   savePicture: () => void,
 *   fullScreen: () => void,
 * }} Inputs
 *   facts: gets count, extent and file size; tool: the open panel; extent: of what is shown;
 *   about: what came with it; connected: whether a camera did
 */

const colors = () => ({ "#ffffff": t("White"), "#808080": t("Gray"), "#1b1b1b": t("Black") })
const modes = () => ({
  splat: t("Splat"),
  points: t("Points"),
  ellipsoids: t("Ellipsoids"),
  depth: t("Depth"),
  normal: t("Normals"),
})
const models = () => ({
  Front: t("Front"),
  Left: t("Left"),
  Back: t("Back"),
  Right: t("Right"),
})
const percent = (/** @type {number} */ value) => `${Math.round(100 * value)} %`

/** @param {Inputs} inputs */
export function makeToolbar(inputs) {
  const { state, words, comparison } = inputs
  const tools = Object.entries({
    look: [t("Look"), t("View mode, splat size, opacity cut, background")],
    camera: [t("Camera"), words.camera],
    crop: [t("Crop"), words.crop],
    compare: [t("Compare"), t("Splat against splat, mesh or picture")],
    picture: [t("Picture"), words.picture],
  }).map(([name, [text, title]]) => toolButton(name, text, title, inputs.open))
  const turntable = action("turntable", t("Turntable: let it turn by itself"), () =>
    inputs.setLook({ turntable: !state.look.turntable }),
  )
  const bar = el(
    "div",
    { class: "lgm-bar", role: "toolbar", "aria-label": t("Splat viewer") },
    ...tools,
    el("span", { class: "lgm-gap" }),
    turntable,
    action("fit", t("Fit the splat into the view (F)"), inputs.fit),
    action("reset", t("Reset camera, crop, filters and look"), inputs.reset),
    action("full", t("Full screen"), inputs.fullScreen),
  )
  bar.addEventListener("keydown", moveFocus)

  /** @type {Record<string, { element: HTMLElement, update: () => void }>} */
  const panels = {
    look: lookPanel(inputs),
    camera: cameraPanel(inputs),
    crop: cropPanel(inputs),
    compare: comparePanel(inputs),
    picture: picturePanel(inputs),
  }
  const panel = el("div", { class: "lgm-panel" }, ...Object.values(panels).map((p) => p.element))
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const opener = tools.find((button) => button.dataset.tool === inputs.tool())
      inputs.open("")
      opener?.focus()
    }
    event.stopPropagation() // digits and Delete are not for the graph
  })

  function update() {
    const open = inputs.tool()
    for (const button of tools) {
      const name = button.dataset.tool ?? ""
      button.setAttribute("aria-expanded", String(open === name))
      panels[name].element.hidden = open !== name
      panels[name].update()
    }
    const [lookTool, , cropTool, compareTool] = tools
    mark(lookTool, state.look.mode !== "splat")
    mark(cropTool, !isUnedited(state.edit))
    mark(compareTool, comparison.comparing() !== "off")
    compareTool.hidden = !comparison.rivals().length
    panel.hidden = !open
    turntable.setAttribute("aria-pressed", String(state.look.turntable))
    inputs.facts.replaceChildren(...facts(inputs))
  }
  return { bar, panel, update }
}

/** @param {HTMLElement} button @param {boolean} on */
const mark = (button, on) => button.classList.toggle("lgm-on", on)

/**
 * A button that opens a panel.
 * @param {string} name @param {string} text @param {string} title
 * @param {(name: string) => void} open
 */
function toolButton(name, text, title, open) {
  return el("button", {
    type: "button",
    class: "lgm-tool",
    "data-tool": name,
    "aria-expanded": false,
    title,
    html: `${ICONS[name]}<span>${text}</span>`,
    onclick: () => open(name),
  })
}

/**
 * A button that does something.
 * @param {string} icon @param {string} title @param {() => void} act
 */
function action(icon, title, act) {
  return el("button", {
    type: "button",
    class: "lgm-tool",
    "data-tool": icon,
    "aria-label": title,
    title,
    html: ICONS[icon],
    onclick: () => act(),
  })
}

/** As toolbars do: arrow keys go from button to button. @param {KeyboardEvent} event */
function moveFocus(event) {
  const step = arrowStep(event.key)
  if (!step) return
  const bar = /** @type {HTMLElement} */ (event.currentTarget)
  const buttons = [...bar.querySelectorAll("button")].filter(({ hidden }) => !hidden)
  const focused = buttons.findIndex((button) => button === document.activeElement)
  buttons.at((focused + step) % buttons.length)?.focus()
  event.preventDefault()
  event.stopPropagation()
}

/** @param {Inputs} inputs */
function lookPanel({ state, words, contents, comparison, setLook }) {
  const mode = choice(t("View mode"), modes(), (value) => setLook({ mode: value }))
  const size = slider({
    label: t("Splat size"),
    title: t("Size of every Gaussian; small shows how they lie"),
    min: 0.05,
    max: 2,
    step: 0.05,
    text: percent,
    change: (scale) => setLook({ scale }),
  })
  const cut = slider({
    label: t("Hide faint"),
    title: words.faint,
    min: 0,
    max: 1,
    step: 0.01,
    text: percent,
    change: (opacity_cut) => setLook({ opacity_cut }),
  })
  const set = (/** @type {string} */ background) => setLook({ background })
  const swatch = (/** @type {string} */ value, /** @type {string} */ title) =>
    el("button", {
      type: "button",
      class: "lgm-swatch",
      "data-value": value,
      title,
      "aria-label": title,
      style: value.startsWith("#") ? `--lgm-color: ${value}` : "",
      onclick: () => set(value),
    })
  const swatches = [
    ...Object.entries(colors()).map(([value, title]) => swatch(value, title)),
    swatch("checker", t("Checkerboard")),
    swatch("transparent", t("Transparent")),
  ]
  const own = el("input", {
    type: "color",
    title: t("Any color"),
    "aria-label": t("Background color"),
  })
  own.addEventListener("input", () => set(own.value))
  /** @param {"show_splat" | "show_mesh"} name @param {string} text @param {string} title */
  const toggle = (name, text, title) =>
    el("button", {
      type: "button",
      class: "lgm-toggle",
      "data-toggle": name,
      text,
      title,
      onclick: () => setLook(toggled(state.look, name, comparison.againstMesh())),
    })
  const splat = toggle("show_splat", t("Splat"), t("Shows or hides the splat"))
  const mesh = toggle("show_mesh", t("Mesh"), t("Shows or hides the mesh"))
  const show = row(t("Show"), splat, mesh)
  const element = el(
    "div",
    { role: "group", "aria-label": t("Look") },
    show,
    mode.group,
    size.row,
    cut.row,
    row(t("Background"), ...swatches, own),
  )
  const update = () => {
    const { look } = state
    mode.set(look.mode)
    size.set(look.scale)
    cut.set(look.opacity_cut)
    for (const button of swatches)
      button.setAttribute("aria-pressed", String(button.dataset.value === look.background))
    if (look.background.startsWith("#")) own.value = look.background
    show.hidden = !(contents.loaded.mesh && contents.loaded.splat)
    const apart = comparison.againstMesh()
    splat.setAttribute("aria-pressed", String(look.show_splat || apart))
    mesh.setAttribute("aria-pressed", String(look.show_mesh || apart))
  }
  return { element, update }
}

/** @param {Inputs} inputs */
function cameraPanel({ state, words, camera, connected }) {
  /** @param {string} text @param {string} title @param {() => void} onclick */
  const button = (text, title, onclick) => el("button", { type: "button", text, title, onclick })
  const named = /** @type {[keyof ReturnType<typeof models>, string][]} */ (
    Object.entries(models())
  )
  const own = named.map(([name, text]) =>
    button(text, t("One of the four cameras that LGM looks from"), () => camera.lookAsModel(name)),
  )
  const axes = Object.entries(AXIS_VIEWS).map(([name, angles]) =>
    button(name, t("From {name}, the whole splat", { name }), () => camera.lookFrom(angles)),
  )
  const lens = slider({
    label: t("Lens"),
    title: t("Field of view, over the shorter side of the picture"),
    min: 10,
    max: 100,
    step: 0.1,
    text: (value) => `${Math.round(value)}°`,
    change: (fov) => camera.setFov(fov),
  })
  const whose = el("p", { class: "lgm-hint" })
  const element = el(
    "div",
    { role: "group", "aria-label": t("Camera") },
    row(t("Model views"), el("div", { class: "lgm-grid" }, ...own)),
    row(t("Axes"), el("div", { class: "lgm-grid" }, ...axes)),
    lens.row,
    whose,
  )
  const update = () => {
    lens.set(camera.orbit().fov)
    const start = connected() ? words.connected : words.unmoved
    whose.textContent = state.camera ? words.moved : start
  }
  return { element, update }
}

/** @param {Inputs} inputs */
function cropPanel({ state, words, contents, extent, setEdit, toggleCrop }) {
  const box = el("button", {
    type: "button",
    class: "lgm-toggle",
    text: t("Box"),
    title: t("Keep only what is inside the box; drag its colored handles"),
    onclick: () => toggleCrop(),
  })
  const opacity = slider({
    label: t("Least opacity"),
    title: t("Removes Gaussians that are fainter"),
    min: 0,
    max: 1,
    step: 0.01,
    text: (value) => (value ? percent(value) : t("off")),
    change: (min_opacity) => setEdit({ min_opacity }),
  })
  // Relative to the extent, since splats come in every size: the square of the slider's value, in
  // quarters of the longest side. Squared, so that most of its way is for small sizes.
  const quarter = () => Math.max(...extent().size) / 4
  const scale = slider({
    label: t("Largest size"),
    title: t("Removes Gaussians whose longest axis is longer"),
    min: 0.01,
    max: 1,
    step: 0.01,
    text: (value) => (value < 1 ? (value * value * quarter()).toPrecision(2) : t("off")),
    change: (value) =>
      setEdit({ max_scale: value < 1 ? Number((value * value * quarter()).toPrecision(3)) : 0 }),
  })
  const all = el("button", {
    type: "button",
    text: t("Keep everything"),
    title: t("Removes box and filters"),
    onclick: () => setEdit({ crop: null, min_opacity: 0, max_scale: 0 }),
  })
  const kept = el("p", { class: "lgm-hint" })
  const element = el(
    "div",
    { role: "group", "aria-label": t("Crop") },
    row(t("Crop"), box, all),
    opacity.row,
    scale.row,
    kept,
  )
  const update = () => {
    const { crop, min_opacity, max_scale } = state.edit
    box.setAttribute("aria-pressed", String(!!crop))
    opacity.set(min_opacity)
    scale.set(max_scale ? Math.min(Math.sqrt(max_scale / quarter()), 0.99) : 1)
    const { count, kept: left } = counts(contents, state)
    all.disabled = isUnedited(state.edit)
    kept.textContent = all.disabled
      ? words.uncropped
      : words.cropped({ kept: left.toLocaleString(), count: count.toLocaleString() })
  }
  return { element, update }
}

/** @param {Inputs} inputs */
function comparePanel({ comparison }) {
  const names = { off: t("Off"), wipe: t("Wipe"), side: t("Side by side") }
  const how = choice(t("Comparison"), names, (compare) => comparison.setCompare(compare))
  const rivals = el("div", { class: "lgm-grid" })
  const flip = el("button", {
    type: "button",
    text: t("Swap A and B"),
    title: t("Space, while the picture has the focus"),
    onclick: () => comparison.flip(),
  })
  const element = el(
    "div",
    { role: "group", "aria-label": t("Compare") },
    how.group,
    row(t("B is"), rivals),
    flip,
  )
  const update = () => {
    how.set(comparison.comparing())
    const buttons = comparison.rivals().map(([value, text]) =>
      el("button", {
        type: "button",
        text,
        "aria-pressed": String(comparison.rival() === value),
        onclick: () => comparison.setRival(value),
      }),
    )
    rivals.replaceChildren(...buttons)
    flip.disabled = comparison.comparing() === "off"
  }
  return { element, update }
}

/** @param {Inputs} inputs */
function picturePanel({ words, pictureSize, sendsSeen, savePicture }) {
  const save = el("button", {
    type: "button",
    class: "lgm-primary",
    title: words.save,
    onclick: () => savePicture(),
  })
  const hint = el("p", { class: "lgm-hint" })
  const element = el("div", { role: "group", "aria-label": t("Picture") }, save, hint)
  const update = () => {
    const { width, height } = pictureSize()
    save.textContent = t("Save picture, {width} × {height}", { width, height })
    hint.textContent = sendsSeen() ? words.seen : words.drawn
  }
  return { element, update }
}

/** @param {string} label @param {Node[]} items */
const row = (label, ...items) =>
  el(
    "div",
    { class: "lgm-row" },
    el("span", { text: label }),
    el("div", { class: "lgm-items" }, ...items),
  )

/**
 * How many Gaussians there are, and how many the edit keeps.
 * @param {Inputs["contents"]} contents @param {Inputs["state"]} state
 */
function counts({ loaded }, { edit }) {
  const splat = loaded.splat?.item
  if (!splat) return { count: 0, kept: 0 }
  const of = JSON.stringify(edit)
  if (splat.kept?.of !== of)
    splat.kept = { of, kept: isUnedited(edit) ? splat.count : countKept(splat, edit) }
  return { count: splat.count, kept: splat.kept.kept }
}

/** @param {number} bytes */
export const fileSize = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`

/** Count, extent, file size and notes. @param {Inputs} inputs */
function facts({ state, contents, extent, about }) {
  const numbers = counts(contents, state)
  const [count, kept] = [numbers.count.toLocaleString(), numbers.kept.toLocaleString()]
  const parts = []
  if (numbers.kept < numbers.count) parts.push(t("{kept} of {count} Gaussians", { kept, count }))
  else if (numbers.count) parts.push(t("{count} Gaussians", { count }))
  const sides = extent().size.map((side) => side.toPrecision(3))
  if (contents.isFilled()) parts.push(t("Size {size}", { size: sides.join(" × ") }))
  const { notes = [], bytes } = about()
  const size = bytes || contents.loaded.splat?.item.bytes
  if (numbers.count && size) parts.push(fileSize(size))
  return [...parts, ...notes].map((text) => el("span", { text }))
}
