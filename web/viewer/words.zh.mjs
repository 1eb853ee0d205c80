/** Chinese, in the terms of locales/zh. */
export default {
  // Where results go
  "Run the graph to see the splat, or drop a .ply, .splat, .spz, .ksplat, .sog or .glb here.":
    "运行工作流即可看到高斯泼溅，也可以把 .ply、.splat、.spz、.ksplat、.sog 或 .glb 文件拖到这里。",
  "Named views and lens. The camera goes out of the node": "常用视角和镜头。相机会从节点输出",
  "Cut the splat with a box, by opacity or by size. The rest goes out of the node":
    "用裁剪框、不透明度或大小来裁剪高斯泼溅。留下的部分会从节点输出",
  "Save what you see, and what the node's picture will show":
    "保存你看到的内容，并查看节点输出的画面范围",
  "Hides what is less opaque, here only: see Crop for the graph":
    "隐藏不透明度更低的高斯点，只影响显示；要影响工作流请用“裁剪”",
  "This camera goes out of the node when the graph runs.": "运行工作流时，节点输出这个相机。",
  "The connected camera goes out of the node, until you move the view.":
    "在你移动视图之前，节点输出所连接的相机。",
  "A camera from which all can be seen goes out of the node, until you move the view.":
    "在你移动视图之前，节点输出能看到全部内容的相机。",
  "Drag a colored handle, or a slider. The graph gets what stays.":
    "拖动彩色手柄或滑块。留下的部分会传给工作流。",
  "{kept} of {count} stay, for the graph's next run.": "下次运行时保留 {count} 个中的 {kept} 个。",
  "Downloads what you see, with alpha, in the node's width and height":
    "按节点的宽度和高度下载你看到的画面，带透明通道",
  "As seen: this picture goes out of the node when the graph runs.":
    "as seen：运行工作流时，节点输出这个画面。",
  "The node's picture is drawn exactly from this camera when the graph runs.":
    "运行工作流时，节点的画面按这个相机精确绘制。",
  "Drop a .ply, .splat, .spz, .ksplat, .sog or .glb here.":
    "把 .ply、.splat、.spz、.ksplat、.sog 或 .glb 文件拖到这里。",
  "Named views and lens": "常用视角和镜头",
  "Cut the splat with a box, by opacity or by size": "用裁剪框、不透明度或大小来裁剪高斯泼溅",
  "Save what you see": "保存你看到的内容",
  "Hides what is less opaque": "隐藏不透明度更低的高斯点",
  "Drag a colored handle, or a slider. The files stay as they are.":
    "拖动彩色手柄或滑块。文件本身不会改变。",
  "{kept} of {count} stay; the files stay as they are.":
    "保留 {count} 个中的 {kept} 个；文件本身不会改变。",
  "Downloads what you see, with alpha": "下载你看到的画面，带透明通道",
  "With alpha where nothing is.": "没有内容的地方是透明的。",

  // The view
  "Splat. Arrow keys turn, with Shift they move, plus and minus zoom, F fits, Space swaps A and B.":
    "高斯泼溅。方向键旋转，按住 Shift 平移，加号和减号缩放，F 适应窗口，空格键交换 A 和 B。",
  "Splat viewer": "高斯泼溅查看器",
  "Drop to view": "松开即可查看",
  "Loading…": "正在加载…",
  "{count} Gaussians": "{count} 个高斯点",
  "{kept} of {count} Gaussians": "{count} 个高斯点中的 {kept} 个",
  "Size {size}": "尺寸 {size}",
  "Turntable: let it turn by itself": "转台：自动旋转",
  "Fit the splat into the view (F)": "让高斯泼溅适应视图（F）",
  "Reset camera, crop, filters and look": "重置相机、裁剪、过滤和外观",
  "Full screen": "全屏",

  // Look
  Look: "外观",
  "View mode, splat size, opacity cut, background": "显示模式、大小、不透明度下限、背景",
  "View mode": "显示模式",
  Splat: "高斯泼溅",
  Points: "点",
  Ellipsoids: "椭球",
  Depth: "深度",
  Normals: "法线",
  "Splat size": "高斯点大小",
  "Size of every Gaussian; small shows how they lie": "每个高斯点的大小；调小可以看清它们的分布",
  "Hide faint": "隐藏淡的点",
  Background: "背景",
  White: "白色",
  Gray: "灰色",
  Black: "黑色",
  Checkerboard: "棋盘格",
  Transparent: "透明",
  "Any color": "任意颜色",
  "Background color": "背景颜色",
  Show: "显示",
  Mesh: "网格",
  "Shows or hides the splat": "显示或隐藏高斯泼溅",
  "Shows or hides the mesh": "显示或隐藏网格",

  // Camera
  Camera: "相机",
  Front: "前",
  Left: "左",
  Back: "后",
  Right: "右",
  "One of the four cameras that LGM looks from": "LGM 的四个相机之一",
  "From {name}, the whole splat": "从 {name} 方向看整个高斯泼溅",
  Lens: "镜头",
  "Field of view, over the shorter side of the picture": "视角，按画面的短边计算",
  "Model views": "模型视角",
  Axes: "坐标轴",

  // Crop
  Crop: "裁剪",
  Box: "裁剪框",
  "Keep only what is inside the box; drag its colored handles":
    "只保留框内的部分；拖动彩色手柄来调整",
  "Least opacity": "最低不透明度",
  "Removes Gaussians that are fainter": "去掉更淡的高斯点",
  "Largest size": "最大尺寸",
  "Removes Gaussians whose longest axis is longer": "去掉最长轴更长的高斯点",
  off: "关",
  "Keep everything": "全部保留",
  "Removes box and filters": "去掉裁剪框和过滤",
  "Crop box, {name} side": "裁剪框的 {name} 面",
  "Drag the {name} side of the crop box": "拖动裁剪框的 {name} 面",

  // Compare
  Compare: "比较",
  "Splat against splat, mesh or picture": "与另一个高斯泼溅、网格或图片比较",
  Comparison: "比较方式",
  Off: "关",
  Wipe: "滑动分割",
  "Side by side": "并排",
  "Swap A and B": "交换 A 和 B",
  "Space, while the picture has the focus": "画面有焦点时按空格键",
  "B is": "B 是",
  "Splat B": "高斯泼溅 B",
  "Picture {number}": "图片 {number}",
  "Line between A and B": "A 和 B 之间的分割线",

  // Picture
  Picture: "画面",
  "Save picture, {width} × {height}": "保存画面，{width} × {height}",

  // What may go wrong
  "The graphics context was lost; waiting for it to come back.": "图形上下文已丢失，正在等待恢复。",
  "The graphics context is gone: try again when the picture is back.":
    "图形上下文已丢失：请等画面恢复后再试。",
  "The viewer's 3D engine did not start ({reason}): reload the page.":
    "查看器的 3D 引擎没有启动（{reason}）：请重新加载页面。",
  "{filename} can't be shown ({reason}): is it whole, and what its name says?":
    "无法显示 {filename}（{reason}）：文件是否完整，格式是否与扩展名一致？",
  "{name} is no longer on the server ({status}): run the graph again.":
    "{name} 已不在服务器上（{status}）：请重新运行工作流。",
  "The server did not take {name} ({status}): try again.": "服务器没有接收 {name}（{status}）：请重试。",
}
