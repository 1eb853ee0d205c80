"""IMAGE batches and camera sockets <-> the views of objects."""

from __future__ import annotations

import torch
from torch import Tensor

from ...lgm.cameras import FOVY, SIDE_AT, input_poses
from ...lgm.network.presets import VIEW_COUNT
from .cameras import common_fov, read_camera
from .pictures import pictures_from_image

SIDES = tuple(SIDE_AT.values())


def objects_from_image(image: Tensor) -> Tensor:
    """[B, 4, C, H, W] from an IMAGE of 4 B pictures.

    Raises:
        ValueError: not a multiple of four, or an object of one even color.
    """
    pictures = pictures_from_image(image)
    if not len(pictures) or len(pictures) % VIEW_COUNT:
        raise ValueError(
            f"LGM needs 4 views for each object, got {len(pictures)}: connect Arrange Views, or "
            "a batch of 4."
        )
    objects = pictures.unflatten(0, (-1, VIEW_COUNT))
    for number, item in enumerate(objects, start=1):
        if (item.amax(dim=(0, 2, 3)) - item.amin(dim=(0, 2, 3))).max() < 1e-3:
            raise ValueError(
                f"Views of an object are needed, but the four of object {number} show one even "
                "color: check the background removal."
            )
    return objects


def camera_poses(cameras: dict, elevation: float) -> tuple[Tensor, float]:
    """Poses [4, 4, 4] and the vertical angle of the four cameras."""
    given = [cameras.get(f"camera_{side}") for side in SIDES]
    if not any(given):
        return input_poses(elevation), FOVY
    missing = [side for side, camera in zip(SIDES, given, strict=True) if camera is None]
    if missing:
        raise ValueError(
            f"Four cameras or none are needed, missing: {', '.join(missing)}. Connect them, or "
            "take all off and set the elevation."
        )
    read = [read_camera(camera) for camera in given if camera is not None]
    return torch.stack([camera.c2w for camera in read]), common_fov(read)
