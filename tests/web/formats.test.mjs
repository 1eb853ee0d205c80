import assert from "node:assert/strict"
import { test } from "node:test"
import { SH_C0, isSplatGlb, readSplatGlb, writePly } from "../../web/viewer/formats.mjs"

const KHR = "KHR_gaussian_splatting"

/** A .glb with one Gaussian, y-up, as the Python library lays it out. */
function glb({ extension = KHR, node = {} } = {}) {
  const values = [
    ["POSITION", [1, 2, 3]],
    [`${KHR}:ROTATION`, [0.1, 0.2, 0.3, 0.9]],
    [`${KHR}:SCALE`, [0.1, 0.2, 0.3]],
    [`${KHR}:OPACITY`, [0.75]],
    [`${KHR}:SH_DEGREE_0_COEF_0`, [0, 1, -1]],
  ]
  const data = new Float32Array(values.flatMap(([, numbers]) => numbers))
  let offset = 0
  const bufferViews = values.map(([, numbers]) => {
    const view = { buffer: 0, byteOffset: offset, byteLength: 4 * numbers.length }
    offset += view.byteLength
    return view
  })
  const document = {
    extensionsUsed: [extension],
    nodes: [{ mesh: 0, ...node }],
    meshes: [
      {
        primitives: [
          {
            attributes: Object.fromEntries(values.map(([name], index) => [name, index])),
            extensions: { [extension]: {} },
          },
        ],
      },
    ],
    accessors: values.map((_, index) => ({ bufferView: index, componentType: 5126, count: 1 })),
    bufferViews,
  }
  let text = JSON.stringify(document)
  text += " ".repeat((4 - (text.length % 4)) % 4)
  const json = new TextEncoder().encode(text)
  const binary = new Uint8Array(data.buffer)
  const chunk = (kind, bytes) => [
    new Uint8Array(new Uint32Array([bytes.length, kind]).buffer),
    bytes,
  ]
  const parts = [...chunk(0x4e4f534a, json), ...chunk(0x004e4942, binary)]
  const length = 12 + parts.reduce((sum, part) => sum + part.length, 0)
  const out = new Uint8Array(length)
  out.set(new Uint8Array(new Uint32Array([0x46546c67, 2, length]).buffer))
  let at = 12
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out.buffer
}

test("a .glb is a splat if it says so", () => {
  assert.ok(isSplatGlb(glb()))
  assert.ok(!isSplatGlb(glb({ extension: "KHR_materials_unlit" })))
  assert.ok(!isSplatGlb(new TextEncoder().encode("ply\nformat ascii 1.0\nend_header\n").buffer))
  assert.ok(!isSplatGlb(new ArrayBuffer(0)))
})

test("Gaussians of a .glb are turned upside down, as PLY has them", () => {
  const { count, positions, rotations, scales, opacities, colors } = readSplatGlb(glb())
  const close = (a, b) => a.forEach((x, i) => assert.ok(Math.abs(x - b[i]) < 1e-6, `${a} not ${b}`))
  assert.equal(count, 1)
  close(positions, [1, -2, -3])
  close(rotations, [-0.1, 0.9, -0.3, 0.2]) // (0, 1, 0, 0) * (w, x, y, z)
  close(scales, [0.1, 0.2, 0.3])
  close(opacities, [0.75])
  close(colors, [0.5, 0.5 + SH_C0, 0.5 - SH_C0])
})

test("a .glb whose node moves the splat is refused with a sentence", () => {
  assert.throws(() => readSplatGlb(glb({ node: { translation: [1, 0, 0] } })), /run the graph/)
})

test("a PLY holds what was put into it", () => {
  const columns = readSplatGlb(glb())
  const bytes = writePly(columns)
  const end = "end_header\n"
  const header = new TextDecoder().decode(bytes).split(end)[0] + end
  assert.match(
    header,
    /^ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n/,
  )
  assert.equal(bytes.length, header.length + 14 * 4)
  const view = new DataView(bytes.buffer, header.length)
  const row = Array.from({ length: 14 }, (_, i) => view.getFloat32(4 * i, true))
  const expected = [
    ...[1, -2, -3, 0, 1, -1, Math.log(3)],
    ...[Math.log(0.1), Math.log(0.2), Math.log(0.3), -0.1, 0.9, -0.3, 0.2],
  ]
  row.forEach((x, i) => assert.ok(Math.abs(x - expected[i]) < 1e-5, `${i}: ${x}`))
})

test("full and no opacity stay finite in a PLY", () => {
  const columns = { ...readSplatGlb(glb()), opacities: new Float32Array([1]) }
  for (const opacity of [0, 1]) {
    columns.opacities[0] = opacity
    const bytes = writePly(columns)
    const rows = new DataView(bytes.buffer, bytes.length - 56)
    assert.ok(Number.isFinite(rows.getFloat32(24, true)))
  }
})
