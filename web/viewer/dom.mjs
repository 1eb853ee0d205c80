/** Short ways to make elements. */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [attributes] with `class`, `on<event>` functions, `text`, `html`
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "html")
      element.innerHTML = value // only of our own drawings
    else if (name === "text") element.textContent = value
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
    else if (value === true) element.setAttribute(name, "")
    else if (value !== false && value !== undefined) element.setAttribute(name, String(value))
  }
  element.append(...children)
  return element
}

const SVG = "http://www.w3.org/2000/svg"

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, any>} [attributes] @param {Node[]} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag)
  set(element, attributes)
  element.append(...children)
  return element
}

/** @param {Element} element @param {Record<string, any>} attributes */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value))
}

/**
 * A labelled slider with its value beside it.
 * @param {{ label: string, title: string, min: number, max: number, step: number,
 *   text: (value: number) => string, change: (value: number) => void }} options
 */
export function slider({ label, title, min, max, step, text, change }) {
  const input = el("input", { type: "range", min, max, step, "aria-label": label, title })
  const output = el("output", { class: "lgm-value" })
  const show = () => {
    output.textContent = text(input.valueAsNumber)
    const part = (input.valueAsNumber - min) / (max - min)
    input.style.setProperty("--lgm-part", `${100 * part}%`)
  }
  input.addEventListener("input", () => {
    show()
    change(input.valueAsNumber)
  })
  const row = el("label", { class: "lgm-row", title }, el("span", { text: label }), input, output)
  return {
    row,
    /** @param {number} value */
    set(value) {
      input.value = String(value)
      show()
    },
  }
}

/**
 * Buttons of which one is pressed.
 * @template {string} Value
 * @param {string} label @param {Record<Value, string>} choices value -> text
 * @param {(value: Value) => void} change
 */
export function choice(label, choices, change) {
  const entries = /** @type {[Value, string][]} */ (Object.entries(choices))
  const buttons = entries.map(([value, text]) =>
    el("button", { type: "button", "data-value": value, text, onclick: () => change(value) }),
  )
  const group = el("div", { class: "lgm-choice", role: "group", "aria-label": label }, ...buttons)
  return {
    group,
    /** @param {Value} value */
    set(value) {
      for (const button of buttons)
        button.setAttribute("aria-pressed", String(button.dataset.value === value))
    },
  }
}

/** -1 and 1 for the arrow keys to the left and to the right, else 0. @param {string} key */
export const arrowStep = (key) => (key === "ArrowLeft" ? -1 : key === "ArrowRight" ? 1 : 0)
