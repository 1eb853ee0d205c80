/**
 * The page of viewer_page.py, which says what is measured: opens a splat in the pack's own viewer,
 * and watches that being dragged.
 */
import { makeViewer } from "/web/viewer/viewer.mjs"

const SIZE = [900, 700] // CSS pixels of the picture

const host = {
  alone: true,
  read: async ({ filename }) => {
    const reply = await fetch("/" + filename)
    if (!reply.ok) throw new Error(`${reply.status} ${filename}`)
    return reply.arrayBuffer()
  },
  pictureSize: () => ({ width: 1024, height: 1024 }),
  sendsSeen: () => false,
  changed: () => undefined,
}

let viewer
let timer = null // the extension; not every browser lets a page time its GPU
let timing = false
let log = null // of the drag, as long as it goes on
let dragged = null // that log, afterwards
let sharp = null // milliseconds, once they are known
const pending = [] // queries that have no result yet

const wait = (ms) => new Promise((done) => setTimeout(done, ms))
const gaps = (times) => times.slice(1).map((time, i) => time - times[i])
const rounded = (x) => Math.round(x * 100) / 100

/** Opens the splat, after a small one that has the engine and its shaders made. */
export async function open(count) {
  viewer = await makeViewer(host)
  const place = document.getElementById("place")
  place.append(viewer.element)
  await fit(place)
  await show("400.ply")
  watch()
  const first_ms = await show(`${count}.ply`)
  watchSorts()
  const { left, top, width, height } = viewer.canvas.getBoundingClientRect()
  return { first_ms: rounded(first_ms), box: [left, top, width, height] }
}

/** Gives the place the size that makes the picture one of SIZE; the bars take what they take. */
async function fit(place) {
  place.style.height = "800px"
  for (let i = 0; i < 5; i++) {
    await wait(60)
    place.style.height = place.clientHeight + SIZE[1] - viewer.stage.clientHeight + "px"
    place.style.width = place.clientWidth + SIZE[0] - viewer.stage.clientWidth + "px"
  }
}

/** Milliseconds from asking for the file to its sorted picture. */
async function show(filename) {
  const before = viewer.element.dataset.frames
  const start = performance.now()
  await viewer.show({ splat: { filename, subfolder: "", type: "page" } })
  if (viewer.element.dataset.state === "error") throw new Error(viewer.message.textContent)
  while (viewer.element.dataset.frames === before) await wait(2)
  await viewer.idle()
  gpuThrough()
  return performance.now() - start
}

/** Waits for all that the GPU was given. */
function gpuThrough() {
  const gl = viewer.engine.renderer.getContext()
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4))
}

/** Notes pictures, and the GPU's time of what is rendered, from outside the viewer. */
function watch() {
  const { renderer } = viewer.engine
  const gl = renderer.getContext()
  timer = gl.getExtension("EXT_disjoint_timer_query_webgl2")
  const render = renderer.render
  renderer.render = function (...args) {
    if (timing || !log || !timer) return render.apply(this, args) // queries can't be nested
    const query = gl.createQuery()
    // Spark renders into targets of its own, to prepare what is sorted.
    const of = renderer.getRenderTarget() ? log.updates : log.draws
    timing = true
    gl.beginQuery(timer.TIME_ELAPSED_EXT, query)
    try {
      return render.apply(this, args)
    } finally {
      gl.endQuery(timer.TIME_ELAPSED_EXT)
      timing = false
      pending.push([query, of])
    }
  }
  const note = () => log?.pictures.push([performance.now(), viewer.canvas.width])
  new MutationObserver(note).observe(viewer.element, { attributeFilter: ["data-frames"] })
}

function watchSorts() {
  const [pass] = viewer.engine.passes
  const sort = pass.sort
  pass.sort = function (pane) {
    const [start, mine] = [performance.now(), log]
    const done = sort.call(this, pane)
    done.then(() => mine?.sorts.push(performance.now() - start))
    return done
  }
}

/** Begins to note pictures and the page's own frames; asking for these keeps them coming. */
export function record() {
  const mine = (log = { pictures: [], frames: [], draws: [], updates: [], sorts: [] })
  const tick = (now) => {
    if (log !== mine) return
    mine.frames.push(now)
    requestAnimationFrame(tick)
  }
  requestAnimationFrame(tick)
}

/** Ends the notes when the pointer is let go, and times the sharp, sorted picture from there. */
export function letGo() {
  sharp = new Promise((done) => {
    const up = async () => {
      const start = performance.now()
      ;[dragged, log] = [log, null]
      await wait(0)
      await viewer.idle()
      gpuThrough()
      done(performance.now() - start)
    }
    window.addEventListener("pointerup", up, { capture: true, once: true })
  })
}

/** What the drag was like, once the sharp picture is there. */
export async function result() {
  const sharp_ms = rounded(await sharp)
  await collect()
  const { pictures, frames, draws, updates, sorts } = dragged
  const { width } = viewer.canvas // the full one again
  return {
    picture_ms: spread(gaps(pictures.map(([time]) => time))),
    page_ms: spread(gaps(frames)),
    gpu_ms: spread(draws),
    gpu_update_ms: spread(updates),
    sort_ms: spread(sorts),
    sharp_ms,
    // The first picture may be one from before the drag.
    scale: Math.min(width, ...pictures.slice(1).map(([, its]) => its)) / width,
  }
}

/** Waits for what the GPU's queries still have to say; two seconds at most. */
async function collect() {
  const gl = viewer.engine.renderer.getContext()
  const until = performance.now() + 2000
  while (pending.length && performance.now() < until) {
    const [query, of] = pending[0]
    if (gl.getQueryParameter(query, gl.QUERY_RESULT_AVAILABLE)) {
      of.push(gl.getQueryParameter(query, gl.QUERY_RESULT) / 1e6)
      gl.deleteQuery(query)
      pending.shift()
    } else await wait(4)
  }
}

/** @param {number[]} values of which there may be none */
function spread(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const n = sorted.length
  const at = (part) => (n ? rounded(sorted[Math.min(n - 1, Math.floor(part * n))]) : null)
  return { n, median: at(0.5), p95: at(0.95), worst: at(1) }
}
