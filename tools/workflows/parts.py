"""What workflows are made of: nodes, frames, and groups of nodes that several of them have."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from lgm.network.fit import STEPS
from lgm.pipeline import NEGATIVE_PROMPT
from lgm.releases.catalog import native_files

# Pixels a node needs once it has run, as HTML: a line of text below its inputs, a picture of what
# it is working on, links to what it has saved.
ROOM = {
    "LGM_LoadModel": 200,
    "LGM_LoadMultiViewModel": 220,
    "LGM_SamplingPreview": 300,
    "KSampler": 660,
    "LGM_PrepareImage": 620,
    "LGM_Reconstruct": 600,
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
        **reconstructed(("photos", "views"), fit=STEPS, **widgets),
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
