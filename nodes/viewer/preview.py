"""A splat in the page's viewer, and what was done there: edits, a camera, a picture."""

from __future__ import annotations

import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ...lgm.cameras import FOVY
from ...lgm.gaussians import Gaussians
from ...lgm.render.projection import MIN_ALPHA, NEAR
from ..border import host
from ..border.cameras import Camera, camera_info, read_camera, vertical_fov
from ..border.pictures import color_from_hex, image_from_pictures, on_color
from ..border.splats import (
    finite_rows,
    gaussians_from_splat,
    select_from_splat,
    splat_count,
    splat_from_gaussians,
)
from ..render import NEAREST, TURNTABLE_ELEVATION, refuse_too_large
from .page_files import entry, image_files, mesh_file, path_within, splat_file
from .state import State, read_state

Viewer = io.Custom("LGM_VIEWER")
FIRST_AZIMUTH = 30.0  # degrees; thin things look like nothing from straight in front

RENDERED, AS_SEEN = "rendered", "as seen"
MOST_IMAGES = 16  # the page loads all of them


class PreviewSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_PreviewSplat",
            display_name="Preview Splat (LGM)",
            category=host.CATEGORY,
            description="Shows any splat in the graph, to turn, measure and compare. The crop box, "
            "the filters, the camera and the picture of this view go on to other nodes.",
            search_aliases=["splat viewer", "view splat", "3d preview", "crop box", "show ply"],
            is_output_node=True,
            inputs=[
                io.Splat.Input(
                    "splat",
                    optional=True,
                    tooltip="Any splat: LGM's, TripoSplat's, a file's. Nothing connected: the file "
                    "dropped on the node. The first of a batch is shown; edits apply to all.",
                ),
                io.Splat.Input(
                    "splat_b",
                    optional=True,
                    tooltip="Another splat to compare with. It is shown, and nothing else.",
                ),
                io.Mesh.Input(
                    "mesh",
                    optional=True,
                    tooltip="A mesh to see together with the splat, from the same camera.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures to see beside the splat, e.g. the views it was made from: "
                    f"the first {MOST_IMAGES} of them.",
                ),
                io.Load3DCamera.Input(
                    "camera",
                    optional=True,
                    tooltip="Where the view starts, and the camera of the picture until you move "
                    "the view.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Pixels across, of the picture. Time grows with width times height.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Pixels from top to bottom, of the picture.",
                ),
                io.Combo.Input(
                    "picture",
                    options=[RENDERED, AS_SEEN],
                    default=RENDERED,
                    tooltip="'rendered': the splat alone, drawn exactly from the view's camera. "
                    "'as seen': what the viewer showed when you pressed Run, mesh and mode "
                    "included; the same as 'rendered' where it showed nothing yet.",
                ),
                Viewer.Input(
                    "viewer",
                    optional=True,
                    extra_dict={"socketless": True},  # the page draws a dot for it else
                    tooltip="The view: camera, crop box, filters and look. The workflow keeps it; "
                    "programs that run one may leave it out.",
                ),
            ],
            outputs=[
                io.Splat.Output(
                    display_name="splat",
                    tooltip="What the crop box and the filters leave, with all its values.",
                ),
                io.Image.Output(
                    display_name="image",
                    tooltip="The picture on the viewer's color, or on white; one for each splat of "
                    "a batch.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Coverage: 1 where the object is."),
                io.Load3DCamera.Output(
                    display_name="camera", tooltip="The view's camera, for other nodes."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        width,
        height,
        picture,
        splat=None,
        splat_b=None,
        mesh=None,
        images=None,
        camera=None,
        viewer=None,
    ) -> io.NodeOutput:
        state = read_state(viewer)
        splat = dropped_splat(state.file) if splat is None else splat
        seen = seen_picture(state) if picture == AS_SEEN else None
        notes = list(notes_on(splat, images, picture == AS_SEEN and seen is None))
        edited = edit_splat(splat, state)
        batch = len(splat.positions)
        progress = host.Progress(1 + batch if seen is None else 1)

        file = splat_file(splat)
        center, radius, box = measured(gaussians_from_splat(splat, 0, finite_rows(splat, 0)))
        fitting = fitting_camera(center, radius)
        view = state.camera or camera or fitting
        eye = read_camera(view)
        payload = {
            "splat": entry(file),
            "splat_b": None if splat_b is None else entry(splat_file(splat_b)),
            "mesh": None if mesh is None else entry(mesh_file(mesh)),
            "images": [] if images is None else list(map(entry, image_files(images[:MOST_IMAGES]))),
            "count": splat_count(splat, 0),
            "count_kept": splat_count(edited, 0),
            "extent": box,
            "bytes": file.stat().st_size,
            "camera": camera,
            "default_camera": fitting,
            "notes": notes,
        }
        progress.step()

        if seen is None:
            near = min(NEAR, NEAREST * radius)
            size, color = (height, width), color_from_hex(state.background)
            pictures, mask = draw(edited, eye, size, color, near, progress)
        else:
            pictures, mask = on_color(seen, state.background), seen[:, 3]
        count, kept = payload["count"], payload["count_kept"]
        stay = f"{kept:,} of {count:,} Gaussians stay" if kept < count else f"{count:,} Gaussians"
        host.say(cls, "; ".join([stay, *notes]))
        image = image_from_pictures(pictures)
        outputs = (edited, host.outgoing(image), host.outgoing(mask), view)
        return io.NodeOutput(*outputs, ui={"lgm_preview": [payload]})


def notes_on(splat: Types.SPLAT, images: Tensor | None, unseen: bool):
    """Facts about the shown data that a user may not expect."""
    if len(splat.positions) > 1:
        yield f"the first of {len(splat.positions)} splats is shown"
    if images is not None and len(images) > MOST_IMAGES:
        yield f"{MOST_IMAGES} of {len(images)} pictures are shown"
    if unseen:
        yield "no picture of the view is there yet, so it is rendered"


def edit_splat(splat: Types.SPLAT, state: State) -> Types.SPLAT:
    """Apply the viewer's edits to every splat of a batch; without any, give the batch itself.

    Raises:
        ValueError: nothing is left of one.
    """
    if not state.edits:
        return splat
    masks = []
    for index in range(len(splat.positions)):
        host.check_cancelled()
        masks.append(kept_rows(splat, index, state))
        if not masks[-1].any():
            raise ValueError(
                f"At least one Gaussian has to stay, but all {len(masks[-1]):,} of splat "
                f"{index + 1} would go: loosen the crop box and the filters, or press Reset in "
                "the viewer."
            )
    return select_from_splat(splat, masks)


def kept_rows(splat: Types.SPLAT, index: int, state: State) -> Tensor:
    """[N] bool by the viewer's rule: center in the box, neither too faint nor too long."""
    from ...lgm.splats.crop import box_mask
    from ...lgm.splats.filters import opacity_mask

    gaussians = gaussians_from_splat(splat, index)
    kept = finite_rows(splat, index)
    if state.crop:
        kept = kept & box_mask(gaussians.positions[0], *state.crop)
    if state.min_opacity:
        kept = kept & opacity_mask(gaussians.opacities[0], state.min_opacity)
    if state.max_scale:
        kept = kept & (gaussians.scales[0].amax(-1) <= state.max_scale)
    return kept


def measured(gaussians: Gaussians) -> tuple[Tensor, float, dict[str, list[float]]]:
    """Center and radius by `lgm.splats.extent`, and center and size of the upright box around the
    visible Gaussians within them."""
    from ...lgm.splats.crop import sphere_mask
    from ...lgm.splats.extent import extent
    from ...lgm.splats.filters import opacity_mask

    center, radius = extent(gaussians)
    positions, opacities = gaussians.positions[0].cpu(), gaussians.opacities[0].cpu()
    inside = sphere_mask(positions, center, radius) & opacity_mask(opacities, MIN_ALPHA)
    low, high = positions[inside].aminmax(dim=0)
    return center, radius, {"center": ((low + high) / 2).tolist(), "size": (high - low).tolist()}


def fitting_camera(center: Tensor, radius: float) -> dict:
    """A LOAD3D_CAMERA off the front, a little above, that sees all of a sphere."""
    from ...lgm.camera_paths import fit_radius, orbit

    pose = orbit(1, fit_radius(radius, FOVY), TURNTABLE_ELEVATION, center, FIRST_AZIMUTH)[0]
    return camera_info(pose, center, FOVY)


def draw(
    splat: Types.SPLAT,
    camera: Camera,
    size: tuple[int, int],
    background: Tensor,
    near: float,
    progress: host.Progress,
) -> tuple[Tensor, Tensor]:
    """Color [B, 3, H, W] and coverage [B, H, W] of every splat of a batch."""
    from ...lgm.render import render

    refuse_too_large(len(splat.positions), *size)
    device = host.management.get_torch_device()
    pose, fovy = camera.c2w[None].to(device), vertical_fov(camera.fov, *size)
    images, masks = [], []
    for index in range(len(splat.positions)):
        gaussians = gaussians_from_splat(splat, index, finite_rows(splat, index)).to(device)
        with host.cancellable():
            out = render(gaussians, pose, size, fovy, background, near=near + camera.offset)
        images.append(out.images[0, 0].clamp(0, 1))
        masks.append(out.alphas[0, 0, 0])
        progress.step()
    return torch.stack(images), torch.stack(masks)


def dropped_splat(file: str | None) -> Types.SPLAT:
    """The splat in a file of the input folder.

    Raises:
        ValueError: there is none.
    """
    from ...lgm.io import read_splat_file

    if file is None:
        raise ValueError("A splat is needed, got none: connect one, or drop a file on the node.")
    path = path_within("input", file)
    if not path.is_file():
        raise ValueError(
            f"A splat is needed, but {file} is not in the input folder: drop it on the node again, "
            "or connect a splat."
        )
    return splat_from_gaussians([read_splat_file(path)])


def seen_picture(state: State) -> Tensor | None:
    """Straight color and alpha [1, 4, H, W] of the picture that the page sent; None without, or
    when the temp folder was emptied since."""
    import numpy as np
    from PIL import Image

    path = path_within(*state.seen) if state.seen else None
    if path is None or not path.is_file():
        return None
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGBA"))
    except OSError as error:
        raise ValueError(
            f"A picture of the view is needed, but {path.name} can't be read ({error}): set "
            f"picture to '{RENDERED}'."
        ) from error
    return torch.from_numpy(pixels).movedim(-1, 0)[None] / 255
