"""Pictures, masks, depths and normals of any splat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lgm.cameras import FOVY
from ..lgm.gaussians import Gaussians
from ..lgm.render.projection import NEAR
from .border import host
from .border.cameras import Camera, read_camera, vertical_fov
from .border.pictures import color_from_hex
from .border.splats import gaussians_from_splat

if TYPE_CHECKING:
    from ..lgm.render import Backend

BACKENDS = ("auto", "gsplat", "numba", "torch")
DEPTHS = ("near is white", "metric")
TURNTABLE_ELEVATION = 15.0  # degrees
NEAREST = 0.1  # of a splat's radius: what is nearer to a camera is not drawn


class RenderSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_RenderSplat",
            display_name="Render Splat (LGM)",
            category=host.CATEGORY,
            description="Draws any splat, whoever made it, with the equations of 3D Gaussian "
            "Splatting: color, mask, depth and normals at once. Without cameras it makes a "
            "turntable.",
            search_aliases=["splat to image", "turntable", "splat depth map", "splat normal map"],
            is_input_list=True,
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.Int.Input(
                    "width",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Pixels across. Time and memory grow with width times height.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Pixels from top to bottom.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=1000,
                    tooltip="Pictures of one full turn when no camera is connected; 1 = the front. "
                    "More make a smoother video and take longer.",
                ),
                io.Color.Input("background", default="#ffffff", tooltip="Color behind the splat."),
                io.Combo.Input(
                    "depth_range",
                    options=list(DEPTHS),
                    default=DEPTHS[0],
                    tooltip="'near is white': 0 to 1 over all pictures, as depth ControlNets want "
                    "it. 'metric': distance along the view axis in world units, 0 where nothing "
                    "is.",
                ),
                io.Combo.Input(
                    "backend",
                    options=list(BACKENDS),
                    default="auto",
                    advanced=True,
                    tooltip="'auto' takes the fastest that works here: gsplat on NVIDIA, numba on "
                    "CPUs, torch anywhere. Their pictures look the same; the first two are "
                    "optional packages.",
                ),
                io.Load3DCamera.Input(
                    "cameras",
                    optional=True,
                    tooltip="One camera or a list (Camera Path, Create Camera Info, a 3D preview); "
                    "each makes one picture. Nothing connected: a turntable that fits the splat.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Color on the background."),
                io.Mask.Output(display_name="mask", tooltip="Coverage: 1 where the object is."),
                io.Image.Output(display_name="depth", tooltip="See depth_range."),
                io.Image.Output(
                    display_name="normal",
                    tooltip="Directions of the surface as seen by the camera, OpenGL colors: red "
                    "right, green up, blue towards you; even blue where nothing is.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, splat, width, height, frames, background, depth_range, backend, cameras=None
    ) -> io.NodeOutput:
        from ..lgm.render import backend_for
        from ..lgm.splats.extent import extent

        width, height, backend = width[0], height[0], backend[0]
        given = [read_camera(info) for info in cameras or [] if info is not None]
        items = [(batch, i) for batch in splat for i in range(len(batch.positions))]
        total = len(items) * (len(given) or frames[0])
        refuse_too_large(total, height, width)
        device = host.management.get_torch_device()
        name = backend_for(backend, device)
        host.say(cls, f"{total} x {width} x {height} px, {name} on {device}")
        color = color_from_hex(background[0])
        progress, drawn = host.Progress(total), []
        for batch, index in items:
            gaussians = gaussians_from_splat(batch, index).to(device)
            center, radius = extent(gaussians)
            near = min(NEAR, NEAREST * radius)
            for camera in given or turntable(center, radius, frames[0]):
                with host.cancellable():
                    drawn.append(draw(gaussians, camera, (height, width), color, name, near))
                progress.step(drawn[-1][0].movedim(-1, 0))
        images, masks, depths, normals = (torch.stack(x) for x in zip(*drawn, strict=True))
        if depth_range[0] == DEPTHS[0]:
            depths = near_is_white(depths, masks)
        depths = depths[..., None].expand(-1, -1, -1, 3).contiguous()
        return io.NodeOutput(*map(host.outgoing, (images, masks, depths, normals)))


def turntable(center: Tensor, radius: float, frames: int) -> list[Camera]:
    """Cameras on one turn around a sphere, from where all of it fits the picture."""
    from ..lgm.camera_paths import fit_radius, orbit

    elevation = TURNTABLE_ELEVATION if frames > 1 else 0.0
    poses = orbit(frames, fit_radius(radius, FOVY), elevation, center)
    return [Camera(pose, FOVY) for pose in poses]


def draw(
    gaussians: Gaussians,
    camera: Camera,
    size: tuple[int, int],
    background: Tensor,
    backend: Backend,
    near: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Color [H, W, 3], coverage [H, W], distance [H, W] and normals [H, W, 3]."""
    from ..lgm.render import render
    from ..lgm.render.turntable import camera_normals, smooth_depths

    fovy = vertical_fov(camera.fov, *size)
    pose = camera.c2w[None].to(gaussians.device)
    out = render(gaussians, pose, size, fovy, background, backend, near + camera.offset)
    depths, alphas = out.depths[0], out.alphas[0]
    normals = camera_normals(smooth_depths(depths, alphas), fovy)
    facing = normals.new_tensor([0, 0, 1])[:, None, None]  # of nothing, as normal maps have it
    normals = 0.5 + 0.5 * torch.where(alphas > 0.5, normals, facing)
    depths = (depths - camera.offset) * (depths > 0)
    color = out.images[0].clamp(0, 1)
    return (
        host.outgoing(color[0].movedim(0, -1)),
        host.outgoing(alphas[0, 0]),
        host.outgoing(depths[0, 0]),
        host.outgoing(normals[0].movedim(0, -1)),
    )


def near_is_white(depths: Tensor, masks: Tensor) -> Tensor:
    """[F, H, W] in 0..1 over all frames: nearest 1, farthest just above 0, nothing 0."""
    covered = depths[masks > 0.5]
    if not len(covered):
        return torch.zeros_like(depths)
    near, far = covered.min(), covered.max()
    span = (far - near).clamp(min=1e-6)
    return (1 - 0.95 * (depths.clamp(near, far) - near) / span) * masks


def refuse_too_large(frames: int, height: int, width: int) -> None:
    """Raise before pictures are drawn that memory can't hold."""
    needed = frames * height * width * (3 + 1 + 3 + 3) * 4
    free = host.management.get_free_memory(torch.device("cpu"))
    if needed > 0.9 * free:
        raise ValueError(
            f"{frames} pictures of {width} x {height} need {needed / 2**30:.1f} GB of memory, but "
            f"{free / 2**30:.1f} GB are free: take fewer or smaller ones."
        )
