"""Example workflows from text, one picture, or another model's views; they need model files."""

from __future__ import annotations

from .parts import (
    BATCH,
    MISSING,
    VIEWED,
    Node,
    Stage,
    Workflow,
    image_to_views,
    loader,
    one_view,
    pictures,
    reconstructed,
    saved,
    text_to_views,
    textured,
    viewed,
)

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
