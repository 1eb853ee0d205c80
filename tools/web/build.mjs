/**
 * Bundles Spark and three into web/vendor/, with their license texts.
 *
 *     node build.mjs PACKAGES OUTPUT
 *
 * PACKAGES is the folder with node_modules, OUTPUT the folder to write to. Same lockfile, same
 * bytes: no path and no time goes into the file.
 */
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises"
import { createRequire } from "node:module"
import { dirname, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"

const [packages, output] = process.argv.slice(2, 4).map((path) => resolve(path))
const { build } = createRequire(join(packages, "package.json"))("esbuild")
const here = dirname(fileURLToPath(import.meta.url))
const bundled = ["@sparkjsdev/spark", "three", "fflate"]

const folder = (name) => join(packages, "node_modules", name)
const versionOf = async (name) =>
  JSON.parse(await readFile(join(folder(name), "package.json"))).version

// The entry lies beside the packages while it is bundled: that is where its imports are looked up.
const entry = join(packages, "engine.mjs")
await copyFile(join(here, "engine.mjs"), entry)
await mkdir(output, { recursive: true })
const versions = await Promise.all(bundled.map(async (name) => `${name} ${await versionOf(name)}`))
await build({
  entryPoints: [entry],
  outfile: join(output, "viewer-engine.mjs"),
  absWorkingDir: packages,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none", // the whole texts are in LICENSES.txt
  // three counts its copies in a global and warns of a second one; ComfyUI has its own copy.
  define: { "window.__THREE__": "threeRevision" },
  banner: { js: `/* ${versions.join(", ")}: see LICENSES.txt. */\nlet threeRevision;` },
})
const licenses = bundled.map(async (name, index) => {
  const text = await readFile(join(folder(name), "LICENSE"), "utf8")
  return `${versions[index]}\n\n${text.trim()}\n`
})
await writeFile(
  join(output, "LICENSES.txt"),
  (await Promise.all(licenses)).join(`\n${"-".repeat(80)}\n\n`),
)
