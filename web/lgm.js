import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

/**
 * @typedef {{ filename: string, subfolder: string, type: string }} SavedFile
 */

/** Address of a file ComfyUI keeps, whatever path it is served under. */
export function fileUrl({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

/**
 * One download link per file.
 * @param {SavedFile[]} files
 */
export function links(files) {
  return files.map((file) => {
    const link = document.createElement("a")
    link.href = fileUrl(file)
    link.download = file.filename
    link.textContent = file.filename
    link.title = "Download"
    link.style.cssText = "display: block; color: var(--p-primary-color, #6bf); font-size: 12px;"
    // The graph would take the press for the start of a drag.
    link.addEventListener("pointerdown", (event) => event.stopPropagation())
    return link
  })
}

const ROW = 20 // pixels, height of a link
const MOST_ROWS = 6 // before the list scrolls

app.registerExtension({
  name: "lgmsplats.SavedFiles",

  nodeCreated(node) {
    if (node.comfyClass !== "LGM_SaveSplat") return
    const list = document.createElement("div")
    list.style.cssText = "overflow-y: auto; padding: 0 8px; box-sizing: border-box;"
    const height = () => Math.min(Math.max(list.childElementCount, 1), MOST_ROWS) * ROW
    const widget = node.addDOMWidget("lgm_files", "lgm_files", list, {
      getMinHeight: height,
      getMaxHeight: height,
      hideOnZoom: false,
      margin: 0, // the default of 10 pixels all around would leave a row no height
      serialize: false, // of the prompt
    })
    widget.serialize = false // of the workflow
    const before = node.onExecuted
    node.onExecuted = function (message) {
      before?.call(this, message)
      list.replaceChildren(...links(message?.lgm_files ?? []))
    }
  },
})
