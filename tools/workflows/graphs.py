"""The example workflows: which nodes, with which values, joined how, and the words beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from lgm.multiview.folders import native_files
from lgm.pipeline import NEGATIVE_PROMPT

# Pixels a node needs once it has run, as HTML: a line of text below its inputs, a picture of what
# it is working on, links to what it has saved.
ROOM = {
    "LGM_LoadModel": 200,
    "LGM_LoadMultiViewModel": 220,
    "LGM_SamplingPreview": 300,
    "KSampler": 660,
    "LGM_PrepareImage": 620,
    "LGM_Reconstruct": 570,
    "LGM_FilterSplat": 320,
    "LGM_CropSplat": 520,
    "LGM_RenderSplat": 660,
    "LGM_SplatToMesh": 340,
    "LGM_BakeSplatTexture": 440,
    "LGM_SaveSplat": 235,
    "GetSplatCount": 140,
}


@dataclass(frozen=True)
class Node:
    type: str
    inputs: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (node, output)
    widgets: dict[str, object] = field(default_factory=dict)  # those that differ from the default
    title: str = ""
    width: int = 300
    height: int = 0  # at least; pictures and 3D views show as much as they have room for
    models: tuple[dict[str, str], ...] = ()  # files it names, for ComfyUI to offer: `model_file`


@dataclass(frozen=True)
class Stage:
    """Nodes framed together: columns side by side, and what lies below all of them."""

    title: str
    columns: list[list[str]]
    below: list[str] = field(default_factory=list)
    new_row: bool = False  # of frames


@dataclass(frozen=True)
class Workflow:
    name: str
    note: str  # Markdown, beside the graph
    note_height: int
    nodes: dict[str, Node]
    stages: list[Stage]

    def spec(self) -> dict:
        note = Node("MarkdownNote", {}, {"text": self.note}, "Read me", 380, self.note_height)
        return {
            "nodes": with_room({"note": note, **self.nodes}),
            "stages": [asdict(stage) for stage in (Stage("", [["note"]]), *self.stages)],
        }


@dataclass(frozen=True)
class Blueprint:
    """Nodes that become one, which the node library offers like any other."""

    name: str
    description: str
    category: str
    aliases: list[str]
    nodes: dict[str, Node]
    columns: list[list[str]]
    inputs: dict[str, tuple[str, str]]  # name outside -> (node, input or widget)
    outputs: dict[str, tuple[str, str]]
    width: int = 340

    def spec(self) -> dict:
        return {
            "nodes": with_room(self.nodes),
            "stages": [asdict(Stage("", self.columns))],
            "name": self.name,
            "width": self.width,
            "sockets": {"inputs": self.inputs, "outputs": self.outputs},
        }


def with_room(nodes: dict[str, Node]) -> dict[str, dict]:
    return {key: {**asdict(node), "room": ROOM.get(node.type, 0)} for key, node in nodes.items()}


def pictures(source: tuple[str, str], title: str, width: int = 400, height: int = 300) -> Node:
    return Node("PreviewImage", {"images": source}, {}, title, width, height)


def example(name: str, background: str = "#ffffff") -> Node:
    return Node("LGM_ExampleViews", widgets={"object": name, "background": background})


def reconstructed(views: tuple[str, str], **widgets) -> dict[str, Node]:
    return {
        "model": Node("LGM_LoadModel"),
        "lgm": Node("LGM_Reconstruct", {"model": ("model", "model"), "views": views}, widgets),
    }


SPLAT = ("splat", "splat")  # where workflows about any splat take it from
FIRST = Stage("1. An example", [["photos", "model"], ["lgm"]])


def example_splat(name: str, **widgets) -> dict[str, Node]:
    """An object of the pack, and one place to connect another splat to.

    Core's count of Gaussians hands the splat on as it is.
    """
    return {
        "photos": example(name),
        **reconstructed(("photos", "views"), **widgets),
        "splat": Node("GetSplatCount", {"splat": ("lgm", "splat")}, {}, "Any splat"),
    }


def viewed(splat: tuple[str, str], images: tuple[str, str] | None = None, **more) -> Node:
    """The viewer. What follows it gets the splat as it was edited there."""
    inputs = {"splat": splat, **more} | ({"images": images} if images else {})
    return Node("LGM_PreviewSplat", inputs, width=560, height=780)


VIEWED = ("viewer", "splat")


def saved(splat: tuple[str, str], name: str, suffix: str = "ply") -> Node:
    widgets = {"filename_prefix": f"3d/{name}", "format": suffix}
    return Node("LGM_SaveSplat", {"splat": splat}, widgets)


BATCH = {"source": "batch"}

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

**Sharper:** put released LGM weights into the folder *models/lgm* and choose them in *Load LGM \
Model*. They want a GPU.""",
    430,
    {
        "photos": example("spot"),
        "arranged": Node("LGM_ArrangeViews", {"source.images": ("photos", "views")}, BATCH),
        "sheet": pictures(("arranged", "contact_sheet"), "The four views", 660, 290),
        **reconstructed(("arranged", "views")),
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
.glb. Drag in *Save 3D Model* to turn it. No GPU is needed.

**Your own object:** replace *Example Views* by four *Load Image* nodes, joined by *Batch Images* \
in this order: front, the object's own left, back, its own right. White background, a quarter \
turn apart, camera level with the object.

**Any other splat:** connect *TripoSplat Decode*, or core's *Get Splat* of a 3D file, to \
*Any splat*, and remove the first frame.

**Smaller file:** fewer *faces*, a smaller *size*. **Folds or thin parts missing?** Choose \
*density* in *method*, or raise *resolution*. **Faster on a CPU:** install the package numba.

**White in the view?** A ComfyUI started with *--disable-api-nodes* shows no textures; the file \
has its own all the same.""",
    590,
    {
        **example_splat("spot"),
        "mesh": Node("LGM_SplatToMesh", {"splat": SPLAT}),
        "bake": Node("LGM_BakeSplatTexture", {"mesh": ("mesh", "mesh"), "splat": SPLAT}),
        "texture": pictures(("bake", "base_color"), "Base color", 400, 470),
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
        Stage("3. Save and look", [["save"]]),
    ],
)


def model_file(release: str, directory: str) -> dict[str, object]:
    """Of a node that loads this file: its name, and where ComfyUI finds it when it is missing."""
    (found,) = (file for file in native_files(release) if file.directory == directory)
    return {"name": found.name, "url": found.url, "directory": directory}


def loader(kind: str, widget: str, file: dict[str, object], title: str = "", **widgets) -> Node:
    return Node(kind, {}, {widget: file["name"], **widgets}, title, 340, models=(file,))


def multiview_loaders(release: str) -> dict[str, Node]:
    return {
        "unet": loader(
            "LGM_LoadMultiViewModel", "unet_name", model_file(release, "diffusion_models")
        ),
        "clip": loader(
            "CLIPLoader",
            "clip_name",
            model_file(release, "text_encoders"),
            "Load CLIP of Stable Diffusion 2.1",
            type="stable_diffusion",
        ),
        "vae": loader(
            "VAELoader",
            "vae_name",
            model_file(release, "vae"),
            "Load VAE of Stable Diffusion 2.1",
        ),
    }


def prompts(positive: str) -> dict[str, Node]:
    clip = {"clip": ("clip", "CLIP")}
    return {
        "positive": Node("CLIPTextEncode", clip, {"text": positive}, "Prompt", 380, 150),
        "negative": Node(
            "CLIPTextEncode", clip, {"text": NEGATIVE_PROMPT}, "Negative prompt", 380, 150
        ),
    }


def sampled(conditioned: str, guidance: float) -> dict[str, Node]:
    """The four views, in LGM's order, watched while they come about."""
    return {
        "watched": Node("LGM_SamplingPreview", {"model": ("unet", "model")}),
        "sampler": Node(
            "KSampler",
            {
                "model": ("watched", "model"),
                **{name: (conditioned, name) for name in ("positive", "negative")},
                "latent_image": (conditioned, "latent"),
            },
            {
                "seed": 1,
                "control_after_generate": "fixed",
                "steps": 30,
                "cfg": guidance,
                "sampler_name": "ddim",
                "scheduler": "ddim_uniform",
            },
            width=320,
        ),
        "decoded": Node("VAEDecode", {"samples": ("sampler", "LATENT"), "vae": ("vae", "VAE")}),
    }


def text_to_views(prompt: str) -> dict[str, Node]:
    """The views are cut out, as LGM's authors do with MVDream's, whose background is gray."""
    return {
        **multiview_loaders("mvdream"),
        **prompts(prompt),
        "conditioned": Node(
            "LGM_TextConditioning",
            {name: (name, "CONDITIONING") for name in ("positive", "negative")},
            width=320,
        ),
        **sampled("conditioned", 7.5),
        "views": Node(
            "LGM_PrepareImage", {"image": ("decoded", "IMAGE")}, {"cut_out": "auto, else none"}
        ),
    }


def image_to_views(image: tuple[str, str] | None, prompt: str = "") -> dict[str, Node]:
    return {
        **multiview_loaders("imagedream"),
        "seeing": loader(
            "CLIPVisionLoader",
            "clip_name",
            model_file("imagedream", "clip_vision"),
            "Load ImageDream's image encoder",
        ),
        **prompts(prompt),
        "prepared": Node("LGM_PrepareImage", {"image": image} if image else {}),
        "conditioned": Node(
            "LGM_ImageConditioning",
            {
                **{name: (name, "CONDITIONING") for name in ("positive", "negative")},
                "clip_vision": ("seeing", "CLIP_VISION"),
                "vae": ("vae", "VAE"),
                "image": ("prepared", "image"),
            },
            width=320,
        ),
        **sampled("conditioned", 5.0),
    }


def one_view(name: str) -> dict[str, Node]:
    """The front of an object of the pack stands for a picture of the user's."""
    return {
        "photos": Node("LGM_ExampleViews", widgets={"object": name}, title="An example"),
        "picture": Node(
            "ImageFromBatch", {"image": ("photos", "views")}, {}, "Your picture (replace me)"
        ),
    }


def textured(splat: tuple[str, str], name: str) -> dict[str, Node]:
    return {
        "mesh": Node("LGM_SplatToMesh", {"splat": splat}),
        "bake": Node("LGM_BakeSplatTexture", {"mesh": ("mesh", "mesh"), "splat": splat}),
        "glb": Node(
            "SaveGLB",
            {"mesh": ("bake", "mesh")},
            {"filename_prefix": f"3d/{name}"},
            width=560,
            height=680,
        ),
    }


MISSING = """\
**The models** (%s) are offered by ComfyUI when they are missing. In a browser each download must \
be given its name; *lgm download %s --comfyui* puts them all in their places (see the README).\
"""

TEXT = Workflow(
    "Text to Splat and Mesh",
    f"""\
## Text to a splat and a mesh

Write a few plain words into *Prompt* and press **Run**: MVDream draws the object from four sides \
at once, LGM makes 3D Gaussians of them, and these become a textured mesh.

{MISSING % ("2.6 GB", "mvdream")}

**Not quite it?** Another *seed*, other words, or a higher *cfg* for more color. *LoRAs* for \
Stable Diffusion 2.1 go between *Load Multi-View Model* and the preview.

**The background** of the views is taken away if it is even. With rembg installed, choose *rembg* \
in *Prepare Image*.

**Sharper:** choose *model_fp16_fixrot.safetensors* in *Load LGM Model*. **Watch it grow:** \
connect the VAE and the LGM model to *Multi-View Sampling Preview*.""",
    640,
    {
        **text_to_views("a plush toy cow"),
        "sheet": pictures(("views", "image"), "The four views", 320, 330),
        **reconstructed(("views", "image")),
        "viewer": viewed(("lgm", "splat"), ("views", "image")),
        "save": saved(VIEWED, "text"),
        **textured(VIEWED, "text_mesh"),
    },
    [
        Stage("1. Models", [["unet", "clip", "vae"]]),
        Stage("2. What to make", [["positive", "negative", "conditioned"]]),
        Stage("3. Four views", [["watched", "sampler", "decoded"], ["views", "sheet"]]),
        Stage("4. Gaussians", [["model", "lgm"]], new_row=True),
        Stage("5. Look and save", [["viewer"], ["save"]]),
        Stage("6. Mesh", [["mesh", "bake"], ["glb"]]),
    ],
)

IMAGE = Workflow(
    "Image to Splat and Mesh",
    f"""\
## One picture to a splat and a mesh

Press **Run**: ImageDream draws what the picture shows from four sides, LGM makes 3D Gaussians of \
them, and these become a textured mesh.

**Your own picture:** put a *Load Image* in place of *Your picture*. It should show the whole \
object from its front, camera level with it. *Prepare Image* cuts it out by an even background; \
connect the mask of *Load Image* or *Remove Background* for others.

{MISSING % ("4 GB", "imagedream")}

**Naming the object** in *Prompt* helps. **Not quite it?** Another *seed*.

**Sharper:** choose *model_fp16_fixrot.safetensors* in *Load LGM Model*. **Watch it grow:** \
connect the VAE and the LGM model to *Multi-View Sampling Preview*.""",
    600,
    {
        **one_view("fox"),
        **image_to_views(("picture", "IMAGE"), "a fox"),
        "sheet": pictures(("decoded", "IMAGE"), "The four views", 320, 330),
        **reconstructed(("decoded", "IMAGE")),
        "viewer": viewed(("lgm", "splat"), ("decoded", "IMAGE")),
        "save": saved(VIEWED, "image"),
        **textured(VIEWED, "image_mesh"),
    },
    [
        Stage("1. Models", [["unet", "clip", "vae", "seeing"]]),
        Stage("2. Picture", [["photos", "picture", "prepared"]]),
        Stage("3. What it shows", [["positive", "negative", "conditioned"]]),
        Stage("4. Four views", [["watched", "sampler", "decoded"], ["sheet"]]),
        Stage("5. Gaussians", [["model", "lgm"]], new_row=True),
        Stage("6. Look and save", [["viewer"], ["save"]]),
        Stage("7. Mesh", [["mesh", "bake"], ["glb"]]),
    ],
)

SIDES = ("front", "left", "back", "right")

EDITED = Workflow(
    "Image to Edited Views to Splat",
    f"""\
## Edit the views before they become 3D

ImageDream draws the four views; each then goes its own way to *Arrange Views*, so that anything \
can be done to it first. Here all four are upscaled, and the front is sharpened.

**Put your own edit** between a view and *Arrange Views*: paint, inpaint, another model's img2img, \
or a *Load Image* with what you have painted over the saved views. All four must keep showing the \
same object at the same size.

**Upscaling by a model:** *Upscale Image (using Model)* in place of *Upscale Image*. LGM itself \
reads 256 pixels.

{MISSING % ("4 GB", "imagedream")}""",
    480,
    {
        **one_view("spot"),
        **image_to_views(("picture", "IMAGE")),
        "kept": Node(
            "SaveImage",
            {"images": ("decoded", "IMAGE")},
            {"filename_prefix": "lgm/views"},
            "Save the views",
            320,
            330,
        ),
        "larger": Node(
            "ImageScaleBy",
            {"image": ("decoded", "IMAGE")},
            {"upscale_method": "lanczos", "scale_by": 2},
            "Upscale Image",
        ),
        **{
            side: Node(
                "ImageFromBatch",
                {"image": ("larger", "IMAGE")},
                {"batch_index": number},
                side.capitalize(),
            )
            for number, side in enumerate(SIDES)
        },
        "sharpened": Node(
            "ImageSharpen", {"image": ("front", "IMAGE")}, {"alpha": 0.5}, "An edit of the front"
        ),
        "arranged": Node(
            "LGM_ArrangeViews",
            {
                f"source.{side}": ("sharpened" if side == "front" else side, "IMAGE")
                for side in SIDES
            },
            {"source": "four images"},
        ),
        "sheet": pictures(("arranged", "contact_sheet"), "The views, edited", 300, 200),
        **reconstructed(("arranged", "views")),
        "viewer": viewed(("lgm", "splat"), ("arranged", "views")),
        "save": saved(VIEWED, "edited_views"),
    },
    [
        Stage("1. Models", [["unet", "clip", "vae", "seeing"]]),
        Stage("2. Picture", [["photos", "picture", "prepared"]]),
        Stage("3. What it shows", [["positive", "negative", "conditioned"]]),
        Stage("4. Four views", [["watched", "sampler", "decoded"], ["kept", "larger"]]),
        Stage(
            "5. Edit each view",
            [["front", "left", "back", "right"], ["sharpened", "arranged", "sheet"]],
            new_row=True,
        ),
        Stage("6. Gaussians", [["model", "lgm"]]),
        Stage("7. Look and save", [["viewer"], ["save"]]),
    ],
)

ZERO123 = {
    "name": "stable_zero123.ckpt",
    "url": "https://huggingface.co/stabilityai/stable-zero123/resolve/main/stable_zero123.ckpt",
    "directory": "checkpoints",
}

OTHERS = Workflow(
    "Other Multi-View Model to Splat",
    """\
## Views of any other model to a splat

Here Stable Zero123, which ComfyUI knows, draws the object from four sides a quarter turn apart: \
cameras like LGM's. Its model file (8.6 GB) is offered by ComfyUI when it is missing.

**Any other model** will do, if it shows one object from four sides on white or an even \
background. *Arrange Views* takes a batch, four pictures, or a 2x2 grid. Of a whole orbit, such as \
SV3D's 21 frames, it picks four: *order* custom, *custom_order* 0, 5, 10, 15.

**Check the order** in *The four views*: in the second picture the front of the object looks to \
the left. To the right? *custom*, 0, 3, 2, 1.

**Seen from above?** Set *elevation* in *Reconstruct Gaussians* to the angle the cameras look \
down.""",
    520,
    {
        **one_view("fox"),
        "prepared": Node("LGM_PrepareImage", {"image": ("picture", "IMAGE")}),
        "zero123": loader("ImageOnlyCheckpointLoader", "ckpt_name", ZERO123),
        "conditioned": Node(
            "StableZero123_Conditioning_Batched",
            {
                "clip_vision": ("zero123", "CLIP_VISION"),
                "init_image": ("prepared", "image"),
                "vae": ("zero123", "VAE"),
            },
            {"batch_size": 4, "azimuth_batch_increment": 90},
            width=340,
        ),
        "sampler": Node(
            "KSampler",
            {
                "model": ("zero123", "MODEL"),
                **{name: ("conditioned", name) for name in ("positive", "negative")},
                "latent_image": ("conditioned", "latent"),
            },
            {
                "seed": 1,
                "control_after_generate": "fixed",
                "steps": 20,
                "cfg": 4,
                "sampler_name": "euler",
                "scheduler": "sgm_uniform",
            },
            width=320,
        ),
        "decoded": Node("VAEDecode", {"samples": ("sampler", "LATENT"), "vae": ("zero123", "VAE")}),
        "arranged": Node("LGM_ArrangeViews", {"source.images": ("decoded", "IMAGE")}, BATCH),
        "sheet": pictures(("arranged", "contact_sheet"), "The four views", 660, 290),
        **reconstructed(("arranged", "views")),
        "viewer": viewed(("lgm", "splat"), ("arranged", "views")),
        "save": saved(VIEWED, "other_views"),
    },
    [
        Stage("1. Picture", [["photos", "picture", "prepared"]]),
        Stage("2. Another model's views", [["zero123", "conditioned"], ["sampler", "decoded"]]),
        Stage("3. In order", [["arranged", "sheet"]]),
        Stage("4. Gaussians", [["model", "lgm"]], new_row=True),
        Stage("5. Look and save", [["viewer"], ["save"]]),
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
