/**
 * The elements around the picture, and what the page does to them.
 *
 * @typedef {"empty" | "loading" | "ready" | "error"} Kind
 */
import { el } from "./dom.mjs"
import { addStyle } from "./style.mjs"
import { t } from "./words.mjs"

export class Frame {
  /** @param {string} empty what is said when there is nothing to show */
  constructor(empty) {
    addStyle()
    this.empty = empty
    this.canvas = el("canvas", {
      class: "lgm-canvas",
      tabindex: 0,
      role: "img",
      "aria-label": t(
        "Splat. Arrow keys turn, with Shift they move, plus and minus zoom, F fits, Space swaps A and B.",
      ),
    })
    this.tags = [el("span", { class: "lgm-tag" }), el("span", { class: "lgm-tag" })]
    this.facts = el("div", { class: "lgm-facts" })
    this.message = el("div", { class: "lgm-message", role: "status", text: empty })
    this.stage = el("div", { class: "lgm-stage" }, this.canvas)
    this.element = el("div", {
      class: "lgm-viewer",
      "data-state": "empty",
      "data-drop": t("Drop to view"),
      "data-capture-wheel": "true", // tells ComfyUI's HTML nodes to leave the wheel to us
    })
  }

  /** @param {Element} overlay @param {Element[]} tools above the picture */
  assemble(overlay, ...tools) {
    this.stage.append(overlay, ...this.tags, this.facts, this.message)
    this.element.append(...tools, this.stage)
  }

  /** A message over the picture, or none. @param {string} text @param {Kind} kind */
  say(text, kind) {
    this.message.textContent = text
    this.message.hidden = !text
    this.message.setAttribute("role", kind === "error" ? "alert" : "status")
    this.element.dataset.state = kind
  }

  sayEmpty() {
    this.say(this.empty, "empty")
  }

  /** @param {unknown} error */
  sayFailed(error) {
    console.warn("LGM viewer:", error)
    this.say(error instanceof Error ? error.message : String(error), "error")
  }

  async toggleFullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen()
    else await this.element.requestFullscreen()
  }

  /** @param {string} background transparent, checker or a color */
  setBackground(background) {
    const isColor = background.startsWith("#")
    this.stage.dataset.background = isColor ? "color" : background
    this.stage.style.setProperty("--lgm-background", isColor ? background : "")
  }

  /** Names of A and B, from left to right. @param {[string, string] | null} names */
  setTags(names) {
    this.tags.forEach((tag, index) => {
      tag.hidden = !names
      if (names) tag.textContent = names[index]
    })
  }

  /** One more picture is on the canvas. */
  count() {
    this.element.dataset.frames = String(Number(this.element.dataset.frames ?? 0) + 1)
  }

  /**
   * Follows the page around the viewer.
   * @param {{
   *   sight: (inSight: boolean) => void,
   *   resized: () => void,
   *   zoomed: () => void,
   *   shown: () => void,
   *   drop: (files: FileList | undefined) => boolean,
   * }} on
   *   sight: the viewer has come into sight or left it; zoomed: the same element may need other
   *   pixels; shown: the browser's tab is in front again; drop: returns whether it took a file
   * @returns {() => void} what ends that
   */
  listen({ sight, resized, zoomed, shown, drop }) {
    const { element, stage } = this
    for (const name of ["pointerdown", "wheel", "contextmenu", "dblclick"])
      element.addEventListener(name, (event) => event.stopPropagation())
    const seen = new IntersectionObserver((entries) => sight(!!entries.at(-1)?.isIntersecting))
    seen.observe(stage)
    const sizes = new ResizeObserver(resized)
    sizes.observe(stage)
    stage.addEventListener("pointerenter", zoomed) // the graph may have been zoomed
    window.addEventListener("resize", zoomed) // and the browser, too
    const onShown = () => !document.hidden && shown()
    document.addEventListener("visibilitychange", onShown)
    element.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return
      event.preventDefault()
      event.stopPropagation()
      element.classList.add("lgm-drop")
    })
    element.addEventListener("dragleave", () => element.classList.remove("lgm-drop"))
    element.addEventListener("drop", (event) => {
      element.classList.remove("lgm-drop")
      if (drop(event.dataTransfer?.files)) {
        event.preventDefault()
        event.stopPropagation()
      }
    })
    return () => {
      seen.disconnect()
      sizes.disconnect()
      window.removeEventListener("resize", zoomed)
      document.removeEventListener("visibilitychange", onShown)
    }
  }
}
