/** From a viewer's state to pixels: which panes there are, and how they become one picture. */
import { clipRange, depthsOf, length, subtract, verticalFov } from "./camera.mjs"
import { setLook, styleOf } from "./splats.mjs"

const MOST_PIXELS = 2048 // of a view's side: full screens have no need for more

/** Pixels of the canvas, as many as are seen. @returns {[number, number]} */
export function pixels(viewer) {
  const { clientWidth, clientHeight } = viewer.stage
  const shown = viewer.stage.getBoundingClientRect().width / (clientWidth || 1) // zoom of the graph
  const scale = devicePixelRatio * (Math.round(Math.min(Math.max(shown, 0.25), 2) * 4) / 4 || 1)
  const most = MOST_PIXELS / Math.max(clientWidth, clientHeight, 1)
  const side = (length) => Math.max(1, Math.round(length * Math.min(scale, most)))
  return [side(clientWidth), side(clientHeight)]
}

/** Pictures of A and, when comparing, of B. */
export async function drawParts(viewer, [width, height], moving) {
  const comparing = viewer.comparing()
  const across = comparing === "side" ? Math.max(1, Math.round(width / 2)) : width
  const parts = []
  for (const [index, content] of contentsOf(viewer).entries()) {
    const target = (viewer.scratch[index] ??= document.createElement("canvas"))
    if (target.width !== across) target.width = across
    if (target.height !== height) target.height = height
    const context = target.getContext("2d")
    if (content.image) await drawContained(context, viewer.host.address(content.image))
    else {
      const pane = paneOf(viewer, content, across, height, moving)
      let drawn = false
      await viewer.engine.drawPane(pane, content.slot, viewer, (picture) => {
        drawn = true
        context.clearRect(0, 0, across, height)
        context.drawImage(picture, 0, 0)
      })
      if (!drawn) return null // the context was lost: the old picture stays
    }
    parts.push(target)
  }
  return viewer.flipped && parts.length > 1 ? parts.reverse() : parts
}

/** What A and B show. */
function contentsOf(viewer) {
  const { look } = viewer.state
  const { splat, splat_b, mesh } = viewer.loaded
  const rival = viewer.comparing() === "off" ? undefined : viewer.rival()
  const apart = rival === "mesh" // A is the splat alone
  const withMesh = !!mesh && !apart && (look.show_mesh || !splat)
  const withSplat = look.show_splat || apart || !mesh
  const shown = [{ slot: 0, splat: withSplat ? splat : null, mesh: withMesh }]
  if (rival === "splat") shown.push({ slot: 1, splat: splat_b, mesh: false })
  else if (rival === "mesh") shown.push({ slot: 0, splat: null, mesh: true })
  else if (rival !== undefined) shown.push({ image: viewer.payload.images[Number(rival)] })
  return shown
}

/** @returns {import("./engine.mjs").Pane} */
function paneOf(viewer, { slot, splat, mesh }, width, height, moving) {
  const pose = viewer.pose()
  const scene = viewer.contents.scenes[slot]
  if (viewer.loaded.mesh && slot === 0) viewer.loaded.mesh.item.visible = mesh
  const ghosts = viewer.tool === "crop"
  if (splat) setLook(splat.item, viewer.state, pose, depthsOf(pose, viewer.extent), ghosts)
  return {
    scene,
    camera: cameraOf(viewer, pose, width, height),
    width,
    height,
    key: [viewer.revision, ghosts, pose.position, pose.quaternion].join(),
    splats: !!splat,
    moving,
    style: styleOf(viewer.state.look),
  }
}

function cameraOf({ engine, extent }, pose, width, height) {
  const { PerspectiveCamera } = engine.lib
  const radius = length(extent.size) / 2
  const distance = length(subtract(pose.position, extent.center))
  // As near as the library's renderer draws, or as precise as depth can be.
  const near = Math.max(distance - 4 * radius, Math.min(0.2, 0.1 * radius))
  const far = Math.max(distance + 4 * radius, clipRange(distance)[1])
  const fov = verticalFov(pose.fov, width, height)
  const camera = new PerspectiveCamera(fov, width / height, near, far)
  camera.position.set(...pose.position)
  camera.quaternion.set(...pose.quaternion)
  camera.updateMatrixWorld()
  return camera
}

/** A and B in one picture. */
export function compose(viewer, context, parts, [width, height]) {
  const comparing = viewer.comparing()
  context.clearRect(0, 0, width, height)
  parts.forEach((part, index) => {
    if (comparing === "side") return context.drawImage(part, index ? width - part.width : 0, 0)
    if (comparing === "off") return context.drawImage(part, 0, 0)
    const line = Math.round(viewer.state.look.wipe * width)
    const [from, across] = index ? [line, width - line] : [0, line]
    if (across > 0) context.drawImage(part, from, 0, across, height, from, 0, across, height)
  })
}

/** A picture in the middle, its shorter side as long as the place's: as LGM's cameras see. */
async function drawContained(context, address) {
  const image = new Image()
  image.src = address
  await image.decode()
  const { width, height } = context.canvas
  const scale = Math.min(width, height) / Math.min(image.naturalWidth, image.naturalHeight)
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale]
  context.clearRect(0, 0, width, height)
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h)
}

/** FNV-1a over 32-bit words, twice: browsers have a better one on encrypted pages only. */
export function fingerprint(buffer) {
  const bytes = new Uint8Array(buffer)
  const hash = (seed) => {
    let value = seed
    for (const byte of bytes) value = Math.imul(value ^ byte, 0x01000193)
    return (value >>> 0).toString(16).padStart(8, "0")
  }
  return hash(0x811c9dc5) + hash(0x1b873593) + bytes.length.toString(16)
}
