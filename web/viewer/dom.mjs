/** Short ways to make elements. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [attributes] with `class`, `on<event>` functions, `text`, `html`
 * @param {(Node | string)[]} children
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

/** @param {string} tag @param {Record<string, any>} [attributes] */
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
  const input = /** @type {HTMLInputElement} */ (
    el("input", { type: "range", min, max, step, "aria-label": label, title })
  )
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
 * @param {string} label @param {Record<string, string>} choices value -> text
 * @param {(value: string) => void} change
 */
export function choice(label, choices, change) {
  const buttons = Object.entries(choices).map(([value, text]) =>
    el("button", { type: "button", "data-value": value, text, onclick: () => change(value) }),
  )
  const group = el("div", { class: "lgm-choice", role: "group", "aria-label": label }, ...buttons)
  return {
    group,
    /** @param {string} value */
    set(value) {
      for (const button of buttons)
        button.setAttribute("aria-pressed", String(button.dataset.value === value))
    },
  }
}
