/** The row of buttons, and the panels that they open. */
import { AXIS_VIEWS } from "./camera.mjs"
import { choice, el, slider } from "./dom.mjs"
import { ICONS } from "./icons.mjs"
import { countKept } from "./splats.mjs"
import { isUnedited, toggled } from "./state.mjs"
import { t } from "./words.mjs"

const colors = () => ({ "#ffffff": t("White"), "#808080": t("Gray"), "#1b1b1b": t("Black") })
const modes = () => ({
  ...{ splat: t("Splat"), points: t("Points"), ellipsoids: t("Ellipsoids") },
  ...{ depth: t("Depth"), normal: t("Normals") },
})
const models = () => ({
  ...{ Front: t("Front"), Left: t("Left"), Back: t("Back"), Right: t("Right") },
})
const percent = (value) => `${Math.round(100 * value)} %`

/** @param {import("./viewer.mjs").Viewer} viewer */
export function makeToolbar(viewer) {
  const { words } = viewer
  const tools = Object.entries({
    look: [t("Look"), t("View mode, splat size, opacity cut, background")],
    camera: [t("Camera"), words.camera],
    crop: [t("Crop"), words.crop],
    compare: [t("Compare"), t("Splat against splat, mesh or picture")],
    picture: [t("Picture"), words.picture],
  }).map(([name, [text, title]]) => tool(viewer, name, text, title))
  const turntable = action("turntable", t("Turntable: let it turn by itself"), () =>
    viewer.setLook({ turntable: !viewer.state.look.turntable }),
  )
  const fit = action("fit", t("Fit the splat into the view (F)"), () => viewer.fit())
  const reset = action("reset", t("Reset camera, crop, filters and look"), () => viewer.reset())
  const full = action("full", t("Full screen"), () => viewer.fullScreen())
  const bar = el(
    "div",
    { class: "lgm-bar", role: "toolbar", "aria-label": t("Splat viewer") },
    ...tools,
    el("span", { class: "lgm-gap" }),
    ...[turntable, fit, reset, full],
  )
  bar.addEventListener("keydown", moveFocus)

  const panels = {
    look: lookPanel(viewer),
    camera: cameraPanel(viewer),
    crop: cropPanel(viewer),
    compare: comparePanel(viewer),
    picture: picturePanel(viewer),
  }
  const panel = el("div", { class: "lgm-panel" }, ...Object.values(panels).map((p) => p.element))
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      viewer.open("")
      bar.querySelector("[aria-expanded=true]")?.focus()
    }
    event.stopPropagation() // digits and Delete are not for the graph
  })

  function update() {
    for (const button of tools) {
      const name = button.dataset.tool
      button.setAttribute("aria-expanded", String(viewer.tool === name))
      panels[name].element.hidden = viewer.tool !== name
      panels[name].update()
    }
    const [lookTool, , cropTool, compareTool] = tools
    mark(lookTool, viewer.state.look.mode !== "splat")
    mark(cropTool, !isUnedited(viewer.state.edit))
    mark(compareTool, viewer.comparing() !== "off")
    compareTool.hidden = !viewer.rivals().length
    panel.hidden = !viewer.tool
    turntable.setAttribute("aria-pressed", String(viewer.state.look.turntable))
    viewer.facts?.replaceChildren(...facts(viewer))
  }
  return { bar, panel, update }
}

const mark = (button, on) => button.classList.toggle("lgm-on", on)

function tool(viewer, name, text, title) {
  return el("button", {
    ...{ type: "button", class: "lgm-tool", "data-tool": name, "aria-expanded": false, title },
    html: `${ICONS[name]}<span>${text}</span>`,
    onclick: () => viewer.open(name),
  })
}

function action(icon, title, onclick) {
  return el("button", {
    ...{ type: "button", class: "lgm-tool", "data-tool": icon, "aria-label": title, title },
    ...{ html: ICONS[icon], onclick },
  })
}

/** As toolbars do: arrow keys go from button to button. */
function moveFocus(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
  if (!step) return
  const buttons = [...event.currentTarget.querySelectorAll("button:not([hidden])")]
  buttons.at((buttons.indexOf(document.activeElement) + step) % buttons.length)?.focus()
  event.preventDefault()
  event.stopPropagation()
}

function lookPanel(viewer) {
  const mode = choice(t("View mode"), modes(), (value) => viewer.setLook({ mode: value }))
  const size = slider({
    ...{ label: t("Splat size"), title: t("Size of every Gaussian; small shows how they lie") },
    ...{ min: 0.05, max: 2, step: 0.05, text: percent },
    change: (scale) => viewer.setLook({ scale }),
  })
  const cut = slider({
    ...{ label: t("Hide faint"), title: viewer.words.faint },
    ...{ min: 0, max: 1, step: 0.01, text: percent },
    change: (opacity_cut) => viewer.setLook({ opacity_cut }),
  })
  const set = (background) => viewer.setLook({ background })
  const swatch = (value, title) =>
    el("button", {
      ...{ type: "button", class: "lgm-swatch", "data-value": value, title, "aria-label": title },
      ...{ style: value.startsWith("#") ? `--lgm-color: ${value}` : "", onclick: () => set(value) },
    })
  const swatches = [
    ...Object.entries(colors()).map(([value, title]) => swatch(value, title)),
    swatch("checker", t("Checkerboard")),
    swatch("transparent", t("Transparent")),
  ]
  const own = /** @type {HTMLInputElement} */ (
    el("input", { type: "color", title: t("Any color"), "aria-label": t("Background color") })
  )
  own.addEventListener("input", () => set(own.value))
  const toggle = (name, text, title) =>
    el("button", {
      ...{ type: "button", class: "lgm-toggle", "data-toggle": name, text, title },
      onclick: () => viewer.setLook(toggled(viewer.state.look, name, viewer.againstMesh())),
    })
  const shown = [
    toggle("show_splat", t("Splat"), t("Shows or hides the splat")),
    toggle("show_mesh", t("Mesh"), t("Shows or hides the mesh")),
  ]
  const show = row(t("Show"), ...shown)
  const element = el(
    "div",
    { role: "group", "aria-label": t("Look") },
    ...[show, mode.group, size.row, cut.row, row(t("Background"), ...swatches, own)],
  )
  const update = () => {
    const { look } = viewer.state
    mode.set(look.mode)
    size.set(look.scale)
    cut.set(look.opacity_cut)
    for (const button of swatches)
      button.setAttribute("aria-pressed", String(button.dataset.value === look.background))
    if (look.background.startsWith("#")) own.value = look.background
    show.hidden = !(viewer.loaded.mesh && viewer.loaded.splat)
    for (const button of shown) {
      const on = look[button.dataset.toggle] || viewer.againstMesh()
      button.setAttribute("aria-pressed", String(on))
    }
  }
  return { element, update }
}

function cameraPanel(viewer) {
  const { words } = viewer
  const button = (text, title, onclick) => el("button", { type: "button", text, title, onclick })
  const own = Object.entries(models()).map(([name, text]) =>
    button(text, t("One of the four cameras that LGM looks from"), () => viewer.lookAsModel(name)),
  )
  const axes = Object.entries(AXIS_VIEWS).map(([name, angles]) =>
    button(name, t("From {name}, the whole splat", { name }), () => viewer.lookFrom(angles)),
  )
  const lens = slider({
    ...{ label: t("Lens"), title: t("Field of view, over the shorter side of the picture") },
    ...{ min: 10, max: 100, step: 0.1, text: (value) => `${Math.round(value)}°` },
    change: (fov) => viewer.setFov(fov),
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
    lens.set(viewer.orbit().fov)
    const start = viewer.payload?.camera ? words.connected : words.unmoved
    whose.textContent = viewer.state.camera ? words.moved : start
  }
  return { element, update }
}

function cropPanel(viewer) {
  const { words } = viewer
  const box = el("button", {
    ...{ type: "button", class: "lgm-toggle", text: t("Box") },
    title: t("Keep only what is inside the box; drag its colored handles"),
    onclick: () => viewer.toggleCrop(),
  })
  const opacity = slider({
    ...{ label: t("Least opacity"), title: t("Removes Gaussians that are fainter") },
    ...{ min: 0, max: 1, step: 0.01, text: (value) => (value ? percent(value) : t("off")) },
    change: (min_opacity) => viewer.setEdit({ min_opacity }),
  })
  // In steps of a thousandth of the extent: splats come in every size.
  const longest = () => Math.max(...viewer.extent.size) / 4
  const scale = slider({
    ...{ label: t("Largest size"), title: t("Removes Gaussians whose longest axis is longer") },
    ...{ min: 0.01, max: 1, step: 0.01 },
    text: (value) => (value < 1 ? (value * value * longest()).toPrecision(2) : t("off")),
    change: (value) =>
      viewer.setEdit({
        max_scale: value < 1 ? Number((value * value * longest()).toPrecision(3)) : 0,
      }),
  })
  const all = el("button", {
    ...{ type: "button", text: t("Keep everything"), title: t("Removes box and filters") },
    onclick: () => viewer.setEdit({ crop: null, min_opacity: 0, max_scale: 0 }),
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
    const { crop, min_opacity, max_scale } = viewer.state.edit
    box.setAttribute("aria-pressed", String(!!crop))
    opacity.set(min_opacity)
    scale.set(max_scale ? Math.min(Math.sqrt(max_scale / longest()), 0.99) : 1)
    const { count, kept: left } = counts(viewer)
    all.disabled = isUnedited(viewer.state.edit)
    kept.textContent = all.disabled
      ? words.uncropped
      : words.cropped({ kept: left.toLocaleString(), count: count.toLocaleString() })
  }
  return { element, update }
}

function comparePanel(viewer) {
  const names = { off: t("Off"), wipe: t("Wipe"), side: t("Side by side") }
  const how = choice(t("Comparison"), names, (compare) => viewer.setCompare(compare))
  const rivals = el("div", { class: "lgm-grid" })
  const flip = el("button", {
    ...{ type: "button", text: t("Swap A and B"), title: t("Space, while the picture has the focus") },
    onclick: () => viewer.flip(),
  })
  const element = el(
    "div",
    { role: "group", "aria-label": t("Compare") },
    how.group,
    row(t("B is"), rivals),
    flip,
  )
  const update = () => {
    how.set(viewer.comparing())
    rivals.replaceChildren(
      ...viewer.rivals().map(([value, text]) =>
        el("button", {
          ...{ type: "button", text, "aria-pressed": String(viewer.rival() === value) },
          onclick: () => viewer.setRival(value),
        }),
      ),
    )
    flip.disabled = viewer.comparing() === "off"
  }
  return { element, update }
}

function picturePanel(viewer) {
  const { words } = viewer
  const save = el("button", {
    ...{ type: "button", class: "lgm-primary" },
    title: words.save,
    onclick: () => viewer.savePicture(),
  })
  const hint = el("p", { class: "lgm-hint" })
  const element = el("div", { role: "group", "aria-label": t("Picture") }, save, hint)
  const update = () => {
    const { width, height } = viewer.host.pictureSize()
    save.textContent = t("Save picture, {width} × {height}", { width, height })
    hint.textContent = viewer.host.sendsSeen() ? words.seen : words.drawn
  }
  return { element, update }
}

const row = (label, ...items) =>
  el(
    "div",
    { class: "lgm-row" },
    el("span", { text: label }),
    el("div", { class: "lgm-items" }, ...items),
  )

/** Gaussians there are and Gaussians that the edit keeps. */
function counts(viewer) {
  const splat = viewer.loaded?.splat?.item
  if (!splat) return { count: 0, kept: 0 }
  const { edit } = viewer.state
  const of = JSON.stringify(edit)
  if (splat.kept?.of !== of)
    splat.kept = { of, kept: isUnedited(edit) ? splat.count : countKept(splat, edit) }
  return { count: splat.count, kept: splat.kept.kept }
}

/** @param {number} bytes */
export const fileSize = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`

/** Count, extent and file size. */
function facts(viewer) {
  const { count, kept } = counts(viewer)
  const parts = []
  if (count)
    parts.push(
      kept < count
        ? t("{kept} of {count} Gaussians", {
            ...{ kept: kept.toLocaleString(), count: count.toLocaleString() },
          })
        : t("{count} Gaussians", { count: count.toLocaleString() }),
    )
  if (viewer.isFilled())
    parts.push(
      t("Size {size}", { size: viewer.extent.size.map((side) => side.toPrecision(3)).join(" × ") }),
    )
  const bytes = (!viewer.dropped && viewer.payload?.bytes) || viewer.loaded?.splat?.item.bytes
  if (count && bytes) parts.push(fileSize(bytes))
  const notes = viewer.dropped ? [viewer.dropped.filename] : (viewer.payload?.notes ?? [])
  return [...parts, ...notes].map((text) => el("span", { text }))
}
