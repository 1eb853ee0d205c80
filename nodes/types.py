"""Between ComfyUI's values and the library's: SPLAT, IMAGE, LOAD3D_CAMERA, colors.

SPLAT is in the 3DGS frame (+y down), the library's world is +y up: half a turn about x lies between
(`lgm.gaussians.flip_y_z`). LOAD3D_CAMERA is three.js, +y up like the library: no turn.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from comfy_api.latest import Types, io
from torch import Tensor

from ..lgm.cameras import FOVY
from ..lgm.gaussians import Gaussians, flip_y_z
from ..lgm.mesh import Mesh
from ..lgm.spherical_harmonics import SH_C0

DEFAULT_FOV = 35.0  # degrees, of a camera that doesn't say: what ComfyUI's Render Splat takes
PARALLEL = 400.0  # an orthographic camera is drawn from so many times as far: 0.1 % from parallel

HOLDS_NORMALS = "normals" in inspect.signature(Types.MESH).parameters  # not in ComfyUI 0.28

LGMModel = io.Custom("LGM_MODEL")


# SPLAT ------------------------------------------------------------------------------------------


def splat_count(splat: Types.SPLAT, index: int) -> int:
    """Real number of Gaussians of a batch item; rows beyond are padding."""
    return splat.positions.shape[1] if splat.counts is None else int(splat.counts[index])


def gaussians_from_splat(splat: Types.SPLAT, index: int, mask: Tensor | None = None) -> Gaussians:
    """Batch item `index` as float32 Gaussians [1, N, ..], +y up, wherever the splat lies.

    Args:
        mask: [count of the item], which of them; default all.
    """
    count = splat_count(splat, index)
    rows = slice(count) if mask is None else mask.nonzero()[:, 0]

    def item(values: Tensor) -> Tensor:
        return values[index, :count][rows][None].float()

    sh = item(splat.sh)
    higher = sh[:, :, 1:]
    gaussians = Gaussians(
        positions=item(splat.positions),
        opacities=item(splat.opacities).reshape(1, -1, 1),
        scales=item(splat.scales),
        rotations=F.normalize(item(splat.rotations), dim=-1),
        colors=0.5 + SH_C0 * sh[:, :, 0],
        sh=higher if higher.shape[2] and higher.any() else None,
    )
    return flip_y_z(gaussians)


def splat_from_gaussians(items: list[Gaussians]) -> Types.SPLAT:
    """A SPLAT batch from Gaussians [1, N_i, ..], padded with zeros to the longest."""
    items = [flip_y_z(item) for item in items]
    bands = max(0 if item.sh is None else item.sh.shape[2] for item in items)
    sh = []
    for item in items:
        base = ((item.colors - 0.5) / SH_C0)[0, :, None]
        higher = base.new_zeros(len(base), bands, 3)
        if item.sh is not None:
            higher[:, : item.sh.shape[2]] = item.sh[0]
        sh.append(torch.cat([base, higher], dim=1))
    return pack_splat(
        [item.positions[0] for item in items],
        [item.scales[0] for item in items],
        [item.rotations[0] for item in items],
        [item.opacities[0] for item in items],
        sh,
    )


def select_from_splat(splat: Types.SPLAT, masks: list[Tensor]) -> Types.SPLAT:
    """Of every batch item the Gaussians where its mask [N] is true, all their values untouched."""
    kept = [
        [values[i, : len(mask)][mask.to(values.device)] for i, mask in enumerate(masks)]
        for values in (splat.positions, splat.scales, splat.rotations, splat.opacities, splat.sh)
    ]
    return pack_splat(*kept)


def pack_splat(*fields: list[Tensor]) -> Types.SPLAT:
    """A SPLAT from lists of [N_i, ..] in the order of its constructor."""
    counts = torch.tensor([len(item) for item in fields[0]], dtype=torch.int64)
    longest = int(counts.max())
    padded = (
        torch.stack([F.pad(x, [0, 0] * (x.dim() - 1) + [0, longest - len(x)]) for x in items])
        for items in fields
    )
    uniform = bool((counts == longest).all())
    return Types.SPLAT(*padded, counts=None if uniform else counts.to(fields[0][0].device))


# IMAGE and MASK -----------------------------------------------------------------------------------


def pictures_from_image(image: Tensor) -> Tensor:
    """[N, C, H, W] from IMAGE [N, H, W, C]; C is 3 or, with straight alpha, 4.

    Raises:
        ValueError: another number of channels.
    """
    if image.dim() != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"An IMAGE of 3 channels (or 4 with alpha) is needed, got {list(image.shape)}: "
            "connect a picture."
        )
    pictures = image.movedim(-1, 1).float().clamp(0, 1)
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def image_from_pictures(pictures: Tensor) -> Tensor:
    """IMAGE [N, H, W, C] from [N, C, H, W]."""
    return pictures.movedim(1, -1).contiguous()


def fit_mask(mask: Tensor, count: int, height: int, width: int) -> Tensor:
    """MASK [count, 1, H, W] from [N, h, w]; one mask serves all pictures.

    Raises:
        ValueError: neither one mask nor one for each picture.
    """
    mask = mask[None] if mask.dim() == 2 else mask
    if len(mask) not in (1, count):
        raise ValueError(
            f"One mask, or one for each of {count} pictures, is needed, got {len(mask)}."
        )
    mask = mask[:, None].float().clamp(0, 1)
    if mask.shape[-2:] != (height, width):
        mask = F.interpolate(mask, size=(height, width), mode="bilinear", align_corners=False)
    return mask.expand(count, -1, -1, -1)


def color_from_hex(text: str) -> Tensor:
    """RGB [3], 0..1, from the page's color picker.

    Raises:
        ValueError: not #rrggbb.
    """
    digits = text.strip().removeprefix("#")
    try:
        if len(digits) == 3:
            digits = "".join(2 * digit for digit in digits)
        values = bytes.fromhex(digits)
        if len(values) not in (3, 4):
            raise ValueError
    except ValueError:
        raise ValueError(f"A color like #ffffff is needed, got {text!r}.") from None
    return torch.tensor(list(values[:3])) / 255


def on_color(rgba: Tensor, color: str) -> Tensor:
    """[N, 3, H, W] of straight color and alpha [N, 4, H, W] in front of an even color."""
    behind = color_from_hex(color).to(rgba)[:, None, None]
    return rgba[:, :3] * rgba[:, 3:] + behind * (1 - rgba[:, 3:])


def with_alpha(pictures: Tensor) -> Tensor:
    """[N, 4, H, W], opaque where the pictures [N, C, H, W] have no alpha of their own."""
    if pictures.shape[1] == 4:
        return pictures
    return torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)


def object_mask(mask: Tensor, shows: str = "auto") -> Tensor | None:
    """Coverage [N, 1, H, W] of the object, whichever way round the mask is; None if it is empty, as
    Load Image's of a picture without alpha."""
    if not mask.any():
        return None
    if shows == "auto":
        rim = torch.cat([mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1]], dim=-1)
        shows = "background" if rim.mean() > 0.5 else "object"
    return 1 - mask if shows == "background" else mask


# MESH -------------------------------------------------------------------------------------------


def mesh_value(meshes: list[Mesh]) -> Types.MESH:
    """A MESH batch, padded with zeros to the longest; +y up on both sides. Vertex colors are linear
    there, textures and colors of `lgm` sRGB, so that Save GLB shows them as they are.
    """
    vertices, vertex_counts = _padded([mesh.vertices for mesh in meshes])
    faces, face_counts = _padded([mesh.faces for mesh in meshes])
    optional = {}
    if meshes[0].uvs is not None:
        optional["uvs"] = _padded([mesh.uvs for mesh in meshes])[0]
    if meshes[0].vertex_colors is not None:
        colors = [srgb_to_linear(mesh.vertex_colors) for mesh in meshes]
        optional["vertex_colors"] = _padded(colors)[0]
    if meshes[0].normals is not None and HOLDS_NORMALS:
        optional["normals"] = _padded([mesh.normals for mesh in meshes])[0]
    if meshes[0].texture is not None:
        optional["texture"] = torch.stack([mesh.texture for mesh in meshes])
    if len(meshes) > 1:
        optional |= {"vertex_counts": vertex_counts, "face_counts": face_counts}
    return Types.MESH(vertices, faces, unlit=True, **optional)


def mesh_from_value(value: Types.MESH, index: int) -> Mesh:
    """Geometry and texture coordinates of batch item `index`."""
    vertices = slice(None if value.vertex_counts is None else int(value.vertex_counts[index]))
    faces = slice(None if value.face_counts is None else int(value.face_counts[index]))
    uvs = None if value.uvs is None else value.uvs[index, vertices].float()
    return Mesh(
        value.vertices[index, vertices].float(), value.faces[index, faces].long(), uvs=uvs
    ).to("cpu")


def require_one_mesh_each(mesh: Types.MESH, splat: Types.SPLAT) -> int:
    """The number of meshes, which is that of splats.

    Raises:
        ValueError: it isn't.
    """
    count = len(splat.positions)
    if len(mesh.vertices) != count:
        raise ValueError(
            f"One mesh for each splat is needed, got {len(mesh.vertices)} for {count}: connect the "
            "splat that the mesh was made of."
        )
    return count


def srgb_to_linear(colors: Tensor) -> Tensor:
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _padded(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[B, N, ..] of [N_i, ..], and the N_i."""
    counts = torch.tensor([len(item) for item in items], dtype=torch.int64)
    longest = int(counts.max())
    return torch.stack([F.pad(x, (0, 0, 0, longest - len(x))) for x in items]), counts


# LOAD3D_CAMERA ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """What the library needs of a camera."""

    c2w: Tensor  # [4, 4], OpenGL axes, +y up world
    fov: float  # degrees, full angle over the shorter side of the picture, zoom included
    offset: float = 0.0
    """World units by which an orthographic camera was moved back, to be taken off its depths."""


def read_camera(info: dict) -> Camera:
    """The camera a LOAD3D_CAMERA describes.

    As in ComfyUI's own Render Splat its field of view spans the shorter side of the picture, and an
    orthographic camera shows at its target's distance what a perspective one of its angle would.

    Raises:
        ValueError: not a camera, or one without a place or a direction.
    """
    if not isinstance(info, dict) or not isinstance(info.get("position"), dict):
        raise ValueError(
            f"A camera with a position is needed, got {type(info).__name__}: connect a LGM Camera "
            "Path or Create Camera Info node."
        )
    position, target = _xyz(info["position"]), _xyz(info.get("target") or {})
    if info.get("quaternion"):
        rotation = _rotation(info["quaternion"])
    else:
        rotation = _look_at(position, target)
    fov = float(info.get("fov") or DEFAULT_FOV)
    zoom = float(info.get("zoom") or 1.0)
    if not (0 < fov < 180 and zoom > 0 and position.isfinite().all() and rotation.isfinite().all()):
        raise ValueError(
            f"A camera needs finite numbers, a field of view between 0 and 180 degrees and a zoom "
            f"above 0, got fov {fov:g}, zoom {zoom:g}, position {position.tolist()}."
        )
    half = math.tan(math.radians(fov) / 2) / zoom
    offset = 0.0
    if str(info.get("cameraType", "")).lower().startswith("ortho"):
        distance = max(float((position - target).norm()), 1e-6)
        offset = (PARALLEL - 1) * distance
        position = position + offset * rotation[:, 2]
        half /= PARALLEL
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3], c2w[:3, 3] = rotation, position
    return Camera(c2w.float(), math.degrees(2 * math.atan(half)), offset)


def camera_info(c2w: Tensor, target: Tensor, fov: float) -> dict:
    """A LOAD3D_CAMERA from a pose [4, 4], the point [3] it looks at, and its angle in degrees."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(c2w[:3, :3].double().numpy()).as_quat()
    return {
        "position": _named(c2w[:3, 3]),
        "target": _named(target),
        "quaternion": {"x": float(x), "y": float(y), "z": float(z), "w": float(w)},
        "fov": float(fov),
        "zoom": 1.0,
        "cameraType": "perspective",
    }


def vertical_fov(fov: float, height: int, width: int) -> float:
    """Full vertical angle in degrees when `fov` spans the shorter side of the picture."""
    if height <= width:
        return fov
    return math.degrees(2 * math.atan(math.tan(math.radians(fov) / 2) * height / width))


def common_fov(cameras: list[Camera]) -> float:
    """The one angle of all cameras.

    Raises:
        ValueError: they differ.
    """
    fovs = [camera.fov for camera in cameras]
    if max(fovs) - min(fovs) > 1e-3:
        raise ValueError(
            "The four cameras need one field of view, got "
            f"{', '.join(f'{fov:g}' for fov in fovs)} degrees: set the same (trained: {FOVY:g})."
        )
    return fovs[0]


def _xyz(vector: dict) -> Tensor:
    return torch.tensor([float(vector.get(axis, 0.0)) for axis in "xyz"], dtype=torch.float64)


def _named(vector: Tensor) -> dict[str, float]:
    return dict(zip("xyz", map(float, vector), strict=True))


def _rotation(quaternion: dict) -> Tensor:
    from scipy.spatial.transform import Rotation

    values = [
        float(quaternion.get(key, default))
        for key, default in zip("xyzw", (0, 0, 0, 1), strict=True)
    ]
    if not 0 < math.hypot(*values) < math.inf:
        raise ValueError(f"A camera's quaternion needs a length above 0, got {values}.")
    return torch.from_numpy(Rotation.from_quat(values).as_matrix())


def _look_at(position: Tensor, target: Tensor) -> Tensor:
    from ..lgm.camera_paths import look_at

    if torch.equal(position, target):
        raise ValueError(
            "A camera without a quaternion needs a target apart from its position, got the same "
            f"point {position.tolist()} for both."
        )
    return look_at(position, target)[:3, :3].double()
