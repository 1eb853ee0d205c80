/**
 * As much of a browser's page as a viewer needs to be made in, and an engine that draws nothing. Is
 * to be imported before web/viewer/viewer.mjs.
 */

/** An element that keeps what it is given. */
class StubElement extends EventTarget {
  clientWidth = 400
  clientHeight = 300
  isConnected = true
  hidden = false
  dataset = {}
  attributes = {}
  children = []
  style = { setProperty() {} }
  classList = { add() {}, remove() {}, toggle() {} }

  setAttribute(name, value) {
    this.attributes[name] = value
    const [, data] = name.match(/^data-(.+)$/) ?? []
    if (data) this.dataset[data] = value
  }

  getAttribute(name) {
    return this.attributes[name] ?? null
  }

  append(...children) {
    this.children.push(...children)
  }

  replaceChildren(...children) {
    this.children = children
  }

  getBoundingClientRect() {
    return { left: 0, top: 0, width: this.clientWidth, height: this.clientHeight }
  }

  /** Of a canvas: remembers what was drawn since it was cleared, and where from the left. */
  getContext() {
    const clearRect = () => (this.drawn = [])
    const drawImage = (image, x) => this.drawn.push([image, x])
    return { canvas: this, clearRect, drawImage }
  }

  toBlob(done) {
    done(new Blob([`${this.width} x ${this.height}`]))
  }
}

class StubObserver {
  observe() {}
  disconnect() {}
}

const make = () => new StubElement()
Object.assign(globalThis, {
  document: Object.assign(new EventTarget(), {
    hidden: false,
    head: make(),
    createElement: make,
    createElementNS: make,
  }),
  window: new EventTarget(),
  devicePixelRatio: 1,
  matchMedia: () => ({ matches: false }),
  requestAnimationFrame: () => 1, // frames never come
  cancelAnimationFrame() {},
  IntersectionObserver: StubObserver,
  ResizeObserver: StubObserver,
  Image: class {
    naturalWidth = 10
    naturalHeight = 10
    async decode() {}
  },
})

class Camera {
  position = { set() {} }
  quaternion = { set() {} }
  updateMatrixWorld() {}
}

/** Draws nothing, and remembers what it was to draw. */
export class StubEngine {
  lib = { PerspectiveCamera: Camera }
  lost = false
  views = new Set()
  panes = []
  time = 10 // milliseconds that a picture takes
  asked = 0 // redraws

  add(view) {
    this.views.add(view)
  }

  invalidate() {
    this.asked += 1
  }

  enqueue(job) {
    return job()
  }

  async drawPane(pane, _slot, _view, copy) {
    this.panes.push(pane)
    if (!this.lost) copy(make())
  }

  async timeOf() {
    return this.time
  }
}

/** A splat of one Gaussian in the origin. */
export const splat = (key = "splat") => ({
  key,
  item: {
    count: 1,
    bytes: 56,
    positions: new Float32Array(3),
    opacities: new Float32Array([1]),
    longest: new Float32Array([0.1]),
    mesh: {},
    uniforms: new Proxy({}, { get: () => ({ value: { set() {} } }) }),
  },
})
