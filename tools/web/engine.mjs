// All that the viewer takes from its two libraries; what is not named is left out where it can be.
export { SparkRenderer, SplatMesh, dyno } from "@sparkjsdev/spark"
export {
  AmbientLight,
  Box3,
  Color,
  DirectionalLight,
  Matrix4,
  MeshBasicMaterial,
  PerspectiveCamera,
  Quaternion,
  Scene,
  SRGBColorSpace,
  TextureLoader,
  Vector3,
  WebGLRenderer,
} from "three"
export { GLTFLoader } from "three/addons/loaders/GLTFLoader.js"
