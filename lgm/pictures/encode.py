"""Pictures to file bytes: PNG, JPEG, GIF and MP4. Pictures are [3, H, W] tensors, 0..1 sRGB."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

FPS = 30


def to_bytes_image(image: Tensor) -> Image.Image:
    """Pillow's picture of [3, H, W]; values are clamped and rounded."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def png(image: Tensor) -> bytes:
    return _saved(to_bytes_image(image), "PNG")


def jpeg(image: Tensor, quality: int = 88) -> bytes:
    return _saved(to_bytes_image(image), "JPEG", quality=quality, optimize=True)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def contact_sheet(images: Sequence[Tensor] | Tensor, columns: int, gap: int = 0) -> Tensor:
    """[3, H, W] with the pictures in reading order; empty places and gaps are white."""
    cells = [F.pad(image, (0, gap, 0, gap), value=1.0) for image in images]
    cells += [torch.ones_like(cells[0])] * (-len(cells) % columns)
    rows = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    sheet = torch.cat(rows, dim=1)
    return sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]


def gif(frames: Iterable[Tensor], fps: float = FPS) -> bytes:
    """An endless GIF; its format counts time in hundredths of a second."""
    images = [to_bytes_image(frame).quantize(256) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(100 / fps) * 10),
        loop=0,
    )
    return buffer.getvalue()


def mp4(frames: Iterable[Tensor], fps: int = FPS, quality: int = 18) -> bytes:
    """H.264 that every browser plays.

    Args:
        quality: constant rate factor; lower is better and larger, 18 looks like the original.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(quality)})
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            pixels = _even(np.asarray(to_bytes_image(frame)))
            if not stream.codec_context.is_open:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _even(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] with even sides, which yuv420p needs: the last row or column is doubled."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
