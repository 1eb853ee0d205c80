/** What the viewer says of where its results go: to a graph, or nowhere, where it is alone. */

const GRAPH = {
  empty: "Run the graph to see the splat, or drop a .ply, .splat, .spz, .ksplat, .sog or .glb here.",
  camera: "Named views and lens. The camera goes out of the node",
  crop: "Cut the splat with a box, by opacity or by size. The rest goes out of the node",
  picture: "Save what you see, and what the node's picture will show",
  faint: "Hides what is less opaque, here only: see Crop for the graph",
  moved: "This camera goes out of the node when the graph runs.",
  start: (camera) => `The camera is ${camera} until you move the view.`,
  uncropped: "Drag a colored handle, or a slider. The graph gets what stays.",
  cropped: (kept, count) => `${kept} of ${count} stay, for the graph's next run.`,
  save: "Downloads what you see, with alpha, in the node's width and height",
  seen: "As seen: this picture goes out of the node when the graph runs.",
  drawn: "The node's picture is drawn exactly from this camera when the graph runs.",
}

/** @type {typeof GRAPH} */
const ALONE = {
  empty: "Drop a .ply, .splat, .spz, .ksplat, .sog or .glb here.",
  camera: "Named views and lens",
  crop: "Cut the splat with a box, by opacity or by size",
  picture: "Save what you see",
  faint: "Hides what is less opaque",
  moved: "",
  start: () => "",
  uncropped: "Drag a colored handle, or a slider. The files stay as they are.",
  cropped: (kept, count) => `${kept} of ${count} stay; the files stay as they are.`,
  save: "Downloads what you see, with alpha",
  seen: "",
  drawn: "With alpha where nothing is.",
}

/** @param {import("./viewer.mjs").Host} host */
export const wordsOf = ({ alone }) => (alone ? ALONE : GRAPH)
