/** Meshes of .glb files, for the splats' scenes. */

/** @param {any} lib @param {ArrayBuffer} buffer @returns {Promise<any>} an Object3D */
export async function loadMesh(lib, buffer) {
  const loader = new lib.GLTFLoader()
  // three's other loader of textures fetches blob: addresses, which ComfyUI's policy forbids.
  loader.register((/** @type {any} */ parser) => {
    parser.textureLoader = new lib.TextureLoader(parser.options.manager)
    return { name: "LGM_textures" }
  })
  const { scene } = await loader.parseAsync(buffer, "")
  let lit = false
  scene.traverse((/** @type {any} */ { material }) => {
    lit ||= !!material && !material.isMeshBasicMaterial
  })
  if (lit) {
    const sun = new lib.DirectionalLight(0xffffff, 2)
    sun.position.set(1, 2, 3)
    scene.add(sun, new lib.AmbientLight(0xffffff, 1.5))
  }
  return scene
}

/** Frees all that a mesh has on the GPU. @param {any} object */
export function disposeMesh(object) {
  object.removeFromParent()
  object.traverse((/** @type {any} */ { geometry, material }) => {
    geometry?.dispose()
    for (const one of [material ?? []].flat()) {
      one.map?.dispose()
      one.dispose()
    }
  })
}

/** @param {any} lib @param {any} object @returns {import("./state.mjs").Box} */
export function extentOfMesh(lib, object) {
  const box = new lib.Box3().setFromObject(object)
  return {
    center: box.getCenter(new lib.Vector3()).toArray(),
    size: box.getSize(new lib.Vector3()).toArray(),
  }
}
