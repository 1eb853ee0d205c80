/**
 * Turns splats into 3DGS PLY: those of .glb files, which Spark does not read, and those of formats
 * that only Spark reads, for the graph.
 *
 * @typedef {{ count: number, positions: Float32Array, scales: Float32Array,
 *   rotations: Float32Array, opacities: Float32Array, colors: Float32Array }} Columns
 *   y-down, as PLY: positions [3 * count], scales [3 * count] of one standard deviation, rotations
 *   [4 * count] wxyz, opacities [count] and colors [3 * count] in 0..1
 * @typedef {{ x: number, y: number, z: number }} Vector three's
 * @typedef {(i: number, center: Vector, scales: Vector, rotation: Vector & { w: number },
 *   opacity: number, color: { r: number, g: number, b: number }) => void} EachSplat
 *   what Spark calls for each Gaussian
 */

export const SH_C0 = 0.28209479177387814 // the spherical harmonic of degree 0
const EXTENSION = "KHR_gaussian_splatting"
const FIELDS =
  "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split(" ")
const [JSON_CHUNK, BINARY_CHUNK] = [0x4e4f534a, 0x004e4942]
const FLOAT = 5126
const OPAQUE = 1 - 1e-6 // largest opacity that is written: the logit of 1 is infinite

/** @param {Columns} columns @returns {Uint8Array<ArrayBuffer>} */
export function writePly({ count, positions, scales, rotations, opacities, colors }) {
  const header = [
    "ply",
    "format binary_little_endian 1.0",
    `element vertex ${count}`,
    ...FIELDS.map((name) => `property float ${name}`),
    "end_header",
    "",
  ].join("\n")
  const rows = new DataView(new ArrayBuffer(4 * FIELDS.length * count))
  let at = 0
  const put = (/** @type {number} */ value) => {
    rows.setFloat32(at, value, true)
    at += 4
  }
  for (let i = 0; i < count; i++) {
    for (const axis of [0, 1, 2]) put(positions[3 * i + axis])
    for (const axis of [0, 1, 2]) put((colors[3 * i + axis] - 0.5) / SH_C0)
    const opacity = Math.min(Math.max(opacities[i], 1e-6), OPAQUE)
    put(Math.log(opacity / (1 - opacity)))
    for (const axis of [0, 1, 2]) put(Math.log(Math.max(scales[3 * i + axis], 1e-12)))
    for (const axis of [0, 1, 2, 3]) put(rotations[4 * i + axis])
  }
  const text = new TextEncoder().encode(header)
  const bytes = new Uint8Array(text.length + rows.byteLength)
  bytes.set(text)
  bytes.set(new Uint8Array(rows.buffer), text.length)
  return bytes
}

/** The two parts of a .glb, or null. @param {ArrayBuffer} buffer */
function chunksOf(buffer) {
  const view = new DataView(buffer)
  if (buffer.byteLength < 20 || view.getUint32(0, true) !== 0x46546c67) return null // "glTF"
  let document = null
  let binary = null
  for (let at = 12; at + 8 <= buffer.byteLength;) {
    const [length, kind] = [view.getUint32(at, true), view.getUint32(at + 4, true)]
    const chunk = new Uint8Array(buffer, at + 8, Math.min(length, buffer.byteLength - at - 8))
    if (kind === JSON_CHUNK) document = JSON.parse(new TextDecoder().decode(chunk))
    if (kind === BINARY_CHUNK) binary ??= chunk
    at += 8 + length
  }
  return document && { document, binary }
}

/** Whether a .glb holds Gaussians. @param {ArrayBuffer} buffer */
export const isSplatGlb = (buffer) =>
  !!chunksOf(buffer)?.document.extensionsUsed?.includes(EXTENSION)

/**
 * The Gaussians of a .glb, without the higher bands of their colors.
 * @param {ArrayBuffer} buffer
 * @returns {Columns}
 */
export function readSplatGlb(buffer) {
  const { document, binary } = chunksOf(buffer)
  const moved = (document.nodes ?? []).some(
    (/** @type {any} */ n) => n.matrix || n.translation || n.rotation || n.scale,
  )
  /** @type {any[]} */
  const primitives = (document.meshes ?? []).flatMap((/** @type {any} */ mesh) => mesh.primitives)
  const splats = primitives.filter(({ extensions }) => extensions?.[EXTENSION])
  const linear = splats.some((s) => s.extensions[EXTENSION].colorSpace === "lin_rec709_display")
  if (moved || linear || splats.length !== 1)
    throw new Error(
      "Of .glb splats the viewer shows single ones that are not moved, with sRGB colors: " +
        "run the graph to see this one.",
    )
  const read = (/** @type {string} */ name, /** @type {number} */ width) =>
    floats(document, binary, splats[0].attributes[name], width)
  const positions = read("POSITION", 3)
  const xyzw = read(`${EXTENSION}:ROTATION`, 4)
  const count = positions.length / 3
  const rotations = new Float32Array(4 * count)
  for (let i = 0; i < count; i++) {
    // Half a turn about x, from y-up to y-down.
    for (const axis of [1, 2]) positions[3 * i + axis] *= -1
    const [x, y, z, w] = xyzw.subarray(4 * i, 4 * i + 4)
    rotations.set([-x, w, -z, y], 4 * i)
  }
  return {
    count,
    positions,
    rotations,
    scales: read(`${EXTENSION}:SCALE`, 3),
    opacities: read(`${EXTENSION}:OPACITY`, 1),
    colors: read(`${EXTENSION}:SH_DEGREE_0_COEF_0`, 3).map((value) => value * SH_C0 + 0.5),
  }
}

/**
 * An accessor's values; a copy.
 * @param {any} document @param {Uint8Array | null} binary
 * @param {number} index of the accessor @param {number} width numbers a row
 * @returns {Float32Array}
 */
function floats({ accessors, bufferViews }, binary, index, width) {
  const accessor = accessors?.[index]
  const { byteOffset = 0, byteStride = 4 * width } = bufferViews?.[accessor?.bufferView] ?? {}
  if (!binary || !accessor || accessor.componentType !== FLOAT)
    throw new Error(
      "A .glb splat with uncompressed floats is needed: run the graph to see this one.",
    )
  const from = binary.byteOffset + byteOffset + (accessor.byteOffset ?? 0)
  const view = new DataView(binary.buffer)
  const values = new Float32Array(width * accessor.count)
  for (let i = 0; i < accessor.count; i++)
    for (let axis = 0; axis < width; axis++)
      values[width * i + axis] = view.getFloat32(from + i * byteStride + 4 * axis, true)
  return values
}

/** What Spark read from a file. @param {any} mesh a SplatMesh @returns {Columns} */
export function columnsOf(mesh) {
  const count = mesh.splats.getNumSplats()
  const columns = {
    count,
    positions: new Float32Array(3 * count),
    scales: new Float32Array(3 * count),
    rotations: new Float32Array(4 * count),
    opacities: new Float32Array(count),
    colors: new Float32Array(3 * count),
  }
  /** @type {EachSplat} */
  const read = (i, center, scales, { x, y, z, w }, opacity, { r, g, b }) => {
    columns.positions.set([center.x, center.y, center.z], 3 * i)
    columns.scales.set([scales.x, scales.y, scales.z], 3 * i)
    columns.rotations.set([w, x, y, z], 4 * i)
    columns.opacities[i] = opacity
    columns.colors.set([r, g, b], 3 * i)
  }
  mesh.forEachSplat(read)
  return columns
}
