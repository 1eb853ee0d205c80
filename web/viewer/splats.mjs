/**
 * Splats on the GPU: loading, and what the viewer does to each Gaussian before it is drawn.
 *
 * @typedef {import("./state.mjs").Vec3} Vec3
 * @typedef {import("./state.mjs").Box} Box
 * @typedef {{ mesh: any, uniforms: Record<string, any>, count: number, positions: Float32Array,
 *   opacities: Float32Array, longest: Float32Array, bytes: number,
 *   kept?: { of: string, kept: number } }} Splat
 *   positions [3 * count] in the y-up world; longest: axis of each Gaussian, one standard deviation;
 *   kept: how many Gaussians the edit of which `of` is the JSON keeps
 */
import { isSplatGlb, readSplatGlb, writePly } from "./formats.mjs"
import { MODES } from "./state.mjs"

const FINE = 400_000 // up to so many Gaussians full precision is worth twice the memory

/**
 * @param {any} lib
 * @param {ArrayBuffer} buffer a .ply, .splat, .spz, .ksplat, .sog or .glb file
 * @param {string} name of it: some formats are known by their ending only
 * @returns {Promise<Splat>}
 */
export async function loadSplat(lib, buffer, name) {
  const ours = isSplatGlb(buffer)
  const fileBytes = ours ? writePly(readSplatGlb(buffer)) : new Uint8Array(buffer)
  const mesh = new lib.SplatMesh({
    fileBytes,
    fileName: ours ? "splat.ply" : name,
    extSplats: fileBytes.length < FINE * 56,
  })
  mesh.quaternion.set(1, 0, 0, 0) // the files are y-down: half a turn about x
  const uniforms = makeUniforms(lib)
  mesh.worldModifier = modifier(lib, uniforms)
  await mesh.initialized
  return { mesh, uniforms, bytes: buffer.byteLength, ...columns(mesh) }
}

/** What the viewer needs to count, to pick and to measure. @param {any} mesh Spark's */
function columns(mesh) {
  const count = mesh.splats?.getNumSplats() ?? 0
  const positions = new Float32Array(3 * count)
  const opacities = new Float32Array(count)
  const longest = new Float32Array(count)
  /** @type {import("./formats.mjs").EachSplat} */
  const read = (i, center, scales, _rotation, opacity) => {
    positions[3 * i] = center.x
    positions[3 * i + 1] = -center.y
    positions[3 * i + 2] = -center.z
    opacities[i] = opacity
    longest[i] = Math.max(scales.x, scales.y, scales.z)
  }
  mesh.forEachSplat(read)
  return { count, positions, opacities, longest }
}

/**
 * The box around what is visible: without the stray 0.5 % at either end of each axis.
 * @param {Splat} splat @returns {Box}
 */
export function extentOf({ positions, opacities, count }) {
  const step = Math.max(1, Math.floor(count / 50_000)) // enough for a percentile
  /** @type {[number[], number[], number[]]} */
  const axes = [[], [], []]
  for (let i = 0; i < count; i += step) {
    if (opacities[i] < 0.05) continue
    for (const axis of [0, 1, 2]) axes[axis].push(positions[3 * i + axis])
  }
  if (!axes[0].length) return { center: [0, 0, 0], size: [1, 1, 1] }
  const spans = axes.map((values) => {
    values.sort((a, b) => a - b)
    const at = (/** @type {number} */ part) => values[Math.round(part * (values.length - 1))]
    return [at(0.005), at(0.995)]
  })
  return {
    center: /** @type {Vec3} */ (spans.map(([low, high]) => (low + high) / 2)),
    size: /** @type {Vec3} */ (spans.map(([low, high]) => Math.max(high - low, 1e-3))),
  }
}

/**
 * How many Gaussians an edit keeps: the rule of the graph.
 * @param {Pick<Splat, "count" | "positions" | "opacities" | "longest">} splat
 * @param {import("./state.mjs").Edit} edit
 */
export function countKept({ count, positions, opacities, longest }, edit) {
  const { crop, min_opacity, max_scale } = edit
  let kept = 0
  for (let i = 0; i < count; i++) {
    if (opacities[i] < min_opacity || (max_scale > 0 && longest[i] > max_scale)) continue
    if (crop && !inside(crop, positions, 3 * i)) continue
    kept++
  }
  return kept
}

/** @param {Box} box @param {Float32Array} positions @param {number} at where one begins */
const inside = ({ center, size }, positions, at) =>
  Math.abs(positions[at] - center[0]) <= size[0] / 2 &&
  Math.abs(positions[at + 1] - center[1]) <= size[1] / 2 &&
  Math.abs(positions[at + 2] - center[2]) <= size[2] / 2

/**
 * The center of the first Gaussian that a ray meets, or null.
 * @param {Pick<Splat, "count" | "positions" | "opacities" | "longest">} splat
 * @param {Vec3} origin @param {Vec3} direction unit
 * @returns {Vec3 | null}
 */
export function pick({ count, positions, opacities, longest }, origin, direction) {
  let [best, nearest] = [-1, Infinity]
  for (let i = 0; i < count; i++) {
    if (opacities[i] < 0.3) continue
    const x = positions[3 * i] - origin[0]
    const y = positions[3 * i + 1] - origin[1]
    const z = positions[3 * i + 2] - origin[2]
    const along = x * direction[0] + y * direction[1] + z * direction[2]
    if (along <= 0 || along >= nearest) continue
    const aside = x * x + y * y + z * z - along * along
    const reach = 1.5 * longest[i]
    if (aside < reach * reach) [best, nearest] = [i, along]
  }
  if (best < 0) return null
  return [positions[3 * best], positions[3 * best + 1], positions[3 * best + 2]]
}

/** @param {any} lib @returns {Splat["uniforms"]} */
const makeUniforms = ({ dyno, Vector3, Quaternion }) => ({
  cropCenter: dyno.dynoVec3(new Vector3()),
  cropHalf: dyno.dynoVec3(new Vector3()), // negative: no crop
  minOpacity: dyno.dynoFloat(0),
  maxScale: dyno.dynoFloat(0),
  ghost: dyno.dynoFloat(0), // opacity that is left to what the edit takes away
  mode: dyno.dynoInt(0), // index in MODES
  size: dyno.dynoFloat(1),
  cut: dyno.dynoFloat(0),
  eye: dyno.dynoVec3(new Vector3()),
  view: dyno.dynoVec4(new Quaternion()), // world to camera
  depths: dyno.dynoVec3(new Vector3(0, 1, 0)), // nearest, farthest
})

/**
 * @param {Splat} splat
 * @param {import("./state.mjs").State} state
 * @param {import("./camera.mjs").Pose} pose
 * @param {[number, number]} depths that "depth" paints white and black
 * @param {boolean} ghosts whether to hint at what the edit takes away
 */
export function setLook({ uniforms }, { edit, look }, pose, depths, ghosts) {
  const { crop } = edit
  uniforms.cropCenter.value.set(...(crop?.center ?? [0, 0, 0]))
  uniforms.cropHalf.value.set(...(crop ? crop.size.map((side) => side / 2) : [-1, -1, -1]))
  uniforms.minOpacity.value = edit.min_opacity
  uniforms.maxScale.value = edit.max_scale
  uniforms.ghost.value = ghosts ? 0.08 : 0
  uniforms.mode.value = MODES.indexOf(look.mode)
  uniforms.size.value = look.scale
  uniforms.cut.value = look.opacity_cut
  const [x, y, z, w] = pose.quaternion
  uniforms.eye.value.set(...pose.position)
  uniforms.view.value.set(-x, -y, -z, w)
  uniforms.depths.value.set(...depths, 0)
}

/**
 * How Spark is to draw each mode: see the pane in engine.mjs.
 * @param {import("./state.mjs").Look} look
 */
export const styleOf = ({ mode, scale }) => ({
  shade: mode === "ellipsoids" ? 1 : 0,
  falloff: mode === "ellipsoids" || mode === "points" ? 0 : 1,
  low_pass: mode === "points" ? 0.3 * scale * scale : 0.3, // it alone gives a point its size
})

/**
 * The edit and the view modes, in the y-up world, as a stage of Spark's pipeline.
 * @param {any} lib @param {Splat["uniforms"]} uniforms
 */
function modifier({ dyno }, uniforms) {
  const types = {
    cropCenter: "vec3",
    cropHalf: "vec3",
    minOpacity: "float",
    maxScale: "float",
    ghost: "float",
    mode: "int",
    size: "float",
    cut: "float",
    eye: "vec3",
    view: "vec4",
    depths: "vec3",
  }
  const stage = dyno.dyno({
    inTypes: { gsplat: dyno.Gsplat, ...types },
    outTypes: { gsplat: dyno.Gsplat },
    inputs: uniforms,
    statements: (/** @type {any} */ { inputs: u, outputs: { gsplat: g } }) =>
      dyno.unindentLines(`
        ${g} = ${u.gsplat};
        {
          float longest = max(max(${g}.scales.x, ${g}.scales.y), ${g}.scales.z);
          float opacity = ${g}.rgba.a;
          bool kept = opacity >= ${u.minOpacity}
            && (${u.maxScale} <= 0.0 || longest <= ${u.maxScale})
            && (${u.cropHalf}.x < 0.0
              || all(lessThanEqual(abs(${g}.center - ${u.cropCenter}), ${u.cropHalf})));
          bool shown = opacity >= ${u.cut} && (kept || ${u.ghost} > 0.0);
          vec3 toward = ${g}.center - ${u.eye};
          if (${u.mode} == ${MODES.indexOf("points")}) {
            shown = shown && opacity > 0.1;
            ${g}.scales = vec3(1e-6);
            ${g}.rgba.a = 1.0;
          } else if (${u.mode} == ${MODES.indexOf("ellipsoids")}) {
            shown = shown && opacity > 0.1;
            ${g}.scales *= 0.4 * ${u.size};
            ${g}.rgba.a = 1.0;
          } else {
            ${g}.scales *= ${u.size};
          }
          if (${u.mode} == ${MODES.indexOf("depth")}) {
            float z = -quatVec(${u.view}, toward).z;
            float part = (z - ${u.depths}.x) / max(${u.depths}.y - ${u.depths}.x, 1e-6);
            ${g}.rgba.rgb = vec3(1.0 - 0.95 * clamp(part, 0.0, 1.0));
          } else if (${u.mode} == ${MODES.indexOf("normal")}) {
            vec3 s = ${u.gsplat}.scales;
            vec3 axis = s.x <= s.y && s.x <= s.z ? vec3(1.0, 0.0, 0.0)
              : s.y <= s.z ? vec3(0.0, 1.0, 0.0) : vec3(0.0, 0.0, 1.0);
            vec3 normal = quatVec(${g}.quaternion, axis);
            normal = dot(normal, toward) > 0.0 ? -normal : normal;
            ${g}.rgba.rgb = 0.5 + 0.5 * quatVec(${u.view}, normal);
          }
          if (!kept) {
            ${g}.rgba = vec4(mix(${g}.rgba.rgb, vec3(0.5), 0.7), ${g}.rgba.a * ${u.ghost});
          }
          if (!shown) {
            ${g}.rgba.a = 0.0;
            ${g}.flags = 0u;
          }
        }
      `),
  })
  return dyno.dynoBlock(
    { gsplat: dyno.Gsplat },
    { gsplat: dyno.Gsplat },
    (/** @type {any} */ { gsplat }) => ({
      gsplat: stage.apply({ gsplat }).gsplat,
    }),
  )
}
