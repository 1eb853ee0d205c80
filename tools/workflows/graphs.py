"""The example workflows: which nodes, with which values, joined how, and the words beside them."""

from __future__ import annotations

from lgm.network.fit import STEPS

from .multiview import EDITED, IMAGE, OTHERS, SIDES, TEXT
from .parts import (
    BATCH,
    FIRST,
    SPLAT,
    VIEWED,
    Blueprint,
    Node,
    Stage,
    Workflow,
    example,
    example_splat,
    image_to_views,
    pictures,
    reconstructed,
    saved,
    text_to_views,
    viewed,
)

FOUR_VIEWS = Workflow(
    "Four Views to Splat",
    """\
## Four views to a splat

Press **Run**: four pictures of an object become 3D Gaussians. Drag in *Preview Splat* to turn \
it; its *Compare* puts the pictures beside it, its *Crop* cuts parts off.

**Your own object:** replace *Example Views* by four *Load Image* nodes, joined by *Batch Images* \
in this order: front, the object's own left, back, its own right. White background, a quarter \
turn apart, camera level with the object. Other backgrounds: see *Own Photos to Splat*.

**Check the order** in *The four views*: in the second picture the front of the object looks to \
the left.

**Fit:** 10 in *Reconstruct Gaussians* suits exact renders such as these. For generated views and \
hand-held photos set it to 0.

**Sharper:** put released LGM weights into the folder *models/lgm* and choose them in *Load LGM \
Model*. They want a GPU.""",
    430,
    {
        "photos": example("spot"),
        "arranged": Node("LGM_ArrangeViews", {"source.images": ("photos", "views")}, BATCH),
        "sheet": pictures(("arranged", "contact_sheet"), "The four views", 660, 290),
        **reconstructed(("arranged", "views"), fit=STEPS),
        "viewer": viewed(("lgm", "splat"), ("arranged", "views")),
        "save": saved(VIEWED, "four_views"),
    },
    [
        Stage("1. Four views, in order", [["photos"], ["arranged"]], ["sheet"]),
        Stage("2. Gaussians", [["model", "lgm"]]),
        Stage("3. Look and save", [["viewer"], ["save"]]),
    ],
)

OWN_PHOTOS = Workflow(
    "Own Photos to Splat",
    """\
## Own photos to a splat

The photos are cut out, brought to one size, put on white, and become 3D Gaussians.

**Your own photos:** replace *Photos* (an example on blue) by four *Load Image* nodes, joined by \
*Batch Images* in this order: front, the object's own left, back, its own right.

**Take them** from far away with a long lens, camera level with the object, turning the object a \
quarter between them. An even wall behind it is enough.

**Busy background:** connect the mask of core's *Remove Background* to *Prepare Image*, or choose \
*rembg* there if it is installed.

**From above?** Set *elevation* to the angle the camera looked down.""",
    460,
    {
        "photos": Node(
            "LGM_ExampleViews",
            widgets={"object": "water_bottle", "background": "#7f9fbf"},
            title="Photos (replace me)",
        ),
        "shown": pictures(("photos", "views"), "The photos", 300, 380),
        "prepared": Node(
            "LGM_PrepareImage", {"image": ("photos", "views")}, {"center": "views together"}
        ),
        "arranged": Node("LGM_ArrangeViews", {"source.images": ("prepared", "image")}, BATCH),
        "sheet": pictures(("arranged", "contact_sheet"), "Cut out, in order", 300, 200),
        **reconstructed(("arranged", "views")),
        "viewer": viewed(("lgm", "splat"), ("arranged", "views")),
        "save": saved(VIEWED, "own_photos"),
    },
    [
        Stage("1. Photos", [["photos", "shown"]]),
        Stage("2. Cut out and arrange", [["prepared"], ["arranged", "sheet"]]),
        Stage("3. Gaussians", [["model", "lgm"]]),
        Stage("4. Look and save", [["viewer"], ["save"]]),
    ],
)

CLEAN_UP = Workflow(
    "Clean Up a Splat",
    """\
## Clean up a splat

*Filter Splat* takes away what is faint, too large or floats around; *Crop Splat* cuts off the \
stand of this helmet.

**Any other splat:** connect *TripoSplat Decode*, or core's *Get Splat* of a 3D file, to \
*Any splat*, and remove the first frame.

**Crop:** the box reaches from 0.1 to 2.1 in height. World units, +y up, +z towards you; LGM's \
objects lie within -1 and 1, others may be larger.

**Too much gone?** Lower *min_opacity*, raise *outliers*, turn *keep_largest* off. Each node says \
how many Gaussians stay.""",
    460,
    {
        **example_splat("flight_helmet", opacity_threshold=0),
        "filtered": Node(
            "LGM_FilterSplat",
            {"splat": SPLAT},
            {"min_opacity": 0.05, "max_scale": 0.2, "outliers": 6, "keep_largest": True},
        ),
        "cropped": Node("LGM_CropSplat", {"splat": ("filtered", "splat")}, {"center_y": 1.1}),
        "view": Node(
            "LGM_CameraPath",
            {"splat": SPLAT},
            {"path.azimuth": 30, "frames": 1},
            "One camera for both pictures",
        ),
        "before": Node(
            "LGM_RenderSplat", {"splat": SPLAT, "cameras": ("view", "cameras")}, title="Before"
        ),
        "after": Node(
            "LGM_RenderSplat",
            {"splat": ("cropped", "splat"), "cameras": ("view", "cameras")},
            title="After",
        ),
        "joined": Node(
            "ImageStitch", {"image1": ("before", "image"), "image2": ("after", "image")}
        ),
        "compared": pictures(("joined", "IMAGE"), "Before and after", 560, 350),
        "viewer": viewed(("cropped", "splat"), splat_b=SPLAT),
        "save": saved(VIEWED, "clean", "spz"),
    },
    [
        FIRST,
        Stage("2. Clean up", [["splat", "filtered"], ["cropped"]]),
        Stage(
            "3. Before and after",
            [["view", "joined"], ["before"], ["after"], ["compared"]],
            new_row=True,
        ),
        Stage("4. Look and save", [["viewer"], ["save"]]),
    ],
)

TURNTABLE = Workflow(
    "Splat to Turntable Video",
    """\
## Splat to turntable video

*Camera Path* lays cameras on an orbit from where the whole splat fits the picture, *Render Splat \
(LGM)* draws what they see, *Save Video* writes an mp4 into the output folder.

**Any other splat:** connect *TripoSplat Decode*, or core's *Get Splat* of a 3D file, to \
*Any splat*, and remove the first frame.

**Smoother:** more *frames* in *Camera Path*; frames divided by *fps* is the length in seconds. \
**Larger:** *width* and *height* of *Render Splat (LGM)*; even numbers for a video. Without a GPU \
the package *numba* makes drawing much faster.

**Another flight:** choose *spiral* or *arc* in *path*; the arc goes between two cameras.""",
    440,
    {
        **example_splat("avocado"),
        "path": Node("LGM_CameraPath", {"splat": SPLAT}, {"frames": 24}),
        "render": Node(
            "LGM_RenderSplat",
            {"splat": SPLAT, "cameras": ("path", "cameras")},
            {"width": 384, "height": 384},  # half a minute on two cores without numba
        ),
        "video": Node("CreateVideo", {"images": ("render", "image")}, {"fps": 12}),
        "save": Node(
            "SaveVideo",
            {"video": ("video", "VIDEO")},
            {"filename_prefix": "video/turntable"},
            width=480,
            height=650,
        ),
    },
    [
        FIRST,
        Stage("2. Cameras and pictures", [["splat", "path"], ["render"]]),
        Stage("3. Video", [["video"], ["save"]]),
    ],
)

MAPS = Workflow(
    "Splat to Depth and Normal Maps",
    """\
## Splat to depth and normal maps

*Render Splat (LGM)* gives color, mask, depth and normals of the same cameras at once.

**ControlNet:** connect *depth* (*near is white*) or *normal* to the image of *Apply ControlNet*, \
with a model for depth or normal maps, without a preprocessor. The four pictures are a batch; \
*Get Image from Batch* takes one.

**Compositing:** the mask is the alpha of the picture. **Measuring:** *metric* in *depth_range* \
gives the distance along the view axis in world units.

**Any other splat:** connect *TripoSplat Decode*, or core's *Get Splat* of a 3D file, to \
*Any splat*, and remove the first frame.""",
    430,
    {
        **example_splat("fox"),
        "path": Node("LGM_CameraPath", {"splat": SPLAT}, {"path.azimuth": 45, "frames": 4}),
        "render": Node("LGM_RenderSplat", {"splat": SPLAT, "cameras": ("path", "cameras")}),
        "color": pictures(("render", "image"), "Color", 380, 430),
        "mask": Node("MaskPreview", {"mask": ("render", "mask")}, {}, "Mask", 380, 430),
        "depth": pictures(("render", "depth"), "Depth", 380, 430),
        "normal": pictures(("render", "normal"), "Normals", 380, 430),
    },
    [
        FIRST,
        Stage("2. Four cameras", [["splat", "path"], ["render"]]),
        Stage("3. Maps", [["color", "depth"], ["mask", "normal"]]),
    ],
)

MESH = Workflow(
    "Four Views to Textured Mesh",
    """\
## Four views to a textured mesh

Press **Run**: four pictures become 3D Gaussians, and these a closed mesh with a texture, saved as \
.glb. No GPU is needed.

**Compare:** *Preview Splat* shows the Gaussians left of a line that you can drag, and the mesh \
right of it. *Look* there shows only one of them, or both in one place.

**Your own object:** replace *Example Views* by four *Load Image* nodes, joined by *Batch Images* \
in this order: front, the object's own left, back, its own right. White background, a quarter \
turn apart, camera level with the object.

**Any other splat:** connect *TripoSplat Decode*, or core's *Get Splat* of a 3D file, to \
*Any splat*, and remove the first frame.

**Smaller file:** fewer *faces*, a smaller *size*. **Folds or thin parts missing?** Choose \
*density* in *method*, or raise *resolution*. **Faster on a CPU:** install the package numba.

**White in *Save 3D Model*?** A ComfyUI started with *--disable-api-nodes* shows no textures \
there; the file has its own all the same.""",
    650,
    {
        **example_splat("spot"),
        "mesh": Node("LGM_SplatToMesh", {"splat": SPLAT}),
        "bake": Node("LGM_BakeSplatTexture", {"mesh": ("mesh", "mesh"), "splat": SPLAT}),
        "texture": pictures(("bake", "base_color"), "Base color", 400, 470),
        "viewer": viewed(SPLAT, mesh=("bake", "mesh")),
        "save": Node(
            "SaveGLB",
            {"mesh": ("bake", "mesh")},
            {"filename_prefix": "3d/textured_mesh"},
            width=560,
            height=680,
        ),
    },
    [
        FIRST,
        Stage("2. Mesh and texture", [["splat", "mesh"], ["bake", "texture"]]),
        # The viewer last: the line to the file would seem to come out of it.
        Stage("3. Save and look", [["save"], ["viewer"]]),
    ],
)


WORKFLOWS = [FOUR_VIEWS, OWN_PHOTOS, CLEAN_UP, TURNTABLE, MAPS, MESH, TEXT, IMAGE, EDITED, OTHERS]

BLUEPRINTS = [
    Blueprint(
        "Four Views to Splat (LGM)",
        "Turns four pictures of an object into 3D Gaussians: front, the object's own left, back, "
        "its own right, on white, a quarter turn apart. Seconds on a CPU with the model that is "
        "included.",
        "3D",
        ["lgm", "multi-view to splat", "image to 3d", "gaussian splatting", "four views"],
        {
            "arranged": Node("LGM_ArrangeViews", widgets={"source": "four images"}),
            **reconstructed(("arranged", "views")),
        },
        [["arranged", "model"], ["lgm"]],
        {
            **{side: ("arranged", f"source.{side}") for side in SIDES},
            "model": ("model", "model"),
            "elevation": ("lgm", "elevation"),
        },
        {"splat": ("lgm", "splat")},
    ),
    Blueprint(
        "Text to Splat (LGM)",
        "Makes 3D Gaussians of what a prompt says: MVDream draws four views, LGM turns them into "
        "Gaussians. ComfyUI offers the model files when they are missing.",
        "3D",
        ["lgm", "mvdream", "text to 3d", "gaussian splatting", "text to splat"],
        {**text_to_views(""), **reconstructed(("views", "image"))},
        [
            ["unet", "clip", "vae"],
            ["positive", "negative", "conditioned"],
            ["watched", "sampler", "decoded"],
            ["views", "model", "lgm"],
        ],
        {
            "prompt": ("positive", "text"),
            "negative_prompt": ("negative", "text"),
            "seed": ("sampler", "seed"),
            "steps": ("sampler", "steps"),
            "guidance": ("sampler", "cfg"),
            "multiview_model": ("unet", "unet_name"),
            "text_encoder": ("clip", "clip_name"),
            "vae": ("vae", "vae_name"),
            "lgm_model": ("model", "model"),
        },
        {"splat": ("lgm", "splat"), "views": ("views", "image")},
    ),
    Blueprint(
        "Image to Splat (LGM)",
        "Makes 3D Gaussians of one picture of an object: ImageDream draws four views, LGM turns "
        "them into Gaussians. ComfyUI offers the model files when they are missing.",
        "3D",
        ["lgm", "imagedream", "image to 3d", "gaussian splatting", "image to splat"],
        {**image_to_views(None), **reconstructed(("decoded", "IMAGE"))},
        [
            ["unet", "clip", "vae", "seeing"],
            ["positive", "negative", "prepared", "conditioned"],
            ["watched", "sampler", "decoded"],
            ["model", "lgm"],
        ],
        {
            "image": ("prepared", "image"),
            "mask": ("prepared", "mask"),
            "prompt": ("positive", "text"),
            "seed": ("sampler", "seed"),
            "steps": ("sampler", "steps"),
            "guidance": ("sampler", "cfg"),
            "multiview_model": ("unet", "unet_name"),
            "image_encoder": ("seeing", "clip_name"),
            "text_encoder": ("clip", "clip_name"),
            "vae": ("vae", "vae_name"),
            "lgm_model": ("model", "model"),
        },
        {"splat": ("lgm", "splat"), "views": ("decoded", "IMAGE")},
    ),
]
