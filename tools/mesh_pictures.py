"""Makes docs/mesh.jpg and docs/mesh_worst.jpg: splats beside their meshes, from the root.

    python tools/mesh_pictures.py --comfyui DIR --python PYTHON [--worst SPLAT --flaw TEXT]

Example objects, reconstructed by the demo model; ComfyUI's own SplatToMesh gets the same splats
(as in benchmarks/mesh.py). The second picture is only made for a splat file given by --worst.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mesh import DISTANCE, _core  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from torch import Tensor  # noqa: E402

from lgm import io, load_model  # noqa: E402
from lgm.cameras import orbit_poses  # noqa: E402
from lgm.gaussians import Gaussians  # noqa: E402
from lgm.mesh import Mesh, extract  # noqa: E402
from lgm.mesh.draw import draw_mesh  # noqa: E402
from lgm.mesh.texture import normals_of  # noqa: E402
from lgm.mesh.zbuffer import hits, interpolate, visibility  # noqa: E402
from lgm.pictures.views import example_objects, view_files  # noqa: E402
from lgm.pipeline import reconstruct_files  # noqa: E402
from lgm.render import render  # noqa: E402
from lgm.splats.extent import extent  # noqa: E402

SHOWN = {  # object: (azimuth, elevation) of its two cameras
    "fox": ((35, 12), (215, 55)),
    "flight_helmet": ((30, 10), (200, -35)),
    "spot": ((325, 15), (145, -40)),
    "avocado": ((20, 20), (190, 50)),
}
WORST = ((30, 15), (210, 15), (120, 55), (300, -40))
SIZE, WORST_SIZE, FINER = 196, 400, 4
FRAMED = 0.95  # of the benchmark's distance
STRIP = 20  # pixels above a row, for its caption


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="a checkout of ComfyUI")
    parser.add_argument("--python", default=sys.executable, help="that can run ComfyUI")
    parser.add_argument("--worst", type=Path, help="splat whose mesh is the worst known")
    parser.add_argument("--flaw", default="", help="what is wrong with it")
    args = parser.parse_args()
    if args.worst:
        gaussians = io.read_splat_file(args.worst)
        save(ROOT / "docs" / "mesh_worst.jpg", worst(gaussians, args.flaw), WORST_SIZE)
    model, columns, core_faces = load_model("demo"), [], []
    for name, views in SHOWN.items():
        gaussians = reconstruct_files(model, view_files(example_objects()[name]))
        core = _core(name, gaussians, args.comfyui, args.python).mesh
        ours = extract(gaussians)
        core_faces.append(core.face_count)
        poses = cameras(gaussians, views)
        columns.append((splat(gaussians, poses), unlit(ours, poses), gray(ours, poses),
                        unlit(core, poses)))  # fmt: skip
    captions = (
        "the splat",
        "its mesh: 30,000 faces, 1024 x 1024 texture",
        "the same without its texture",
        f"ComfyUI's SplatToMesh: {min(core_faces) / 1e6:.1f} to {max(core_faces) / 1e6:.1f} "
        "million faces, vertex colors",
    )
    rows = [torch.cat(pictures) for pictures in zip(*columns, strict=True)]
    save(ROOT / "docs" / "mesh.jpg", zip(captions, rows, strict=True), SIZE)


@torch.no_grad()
def worst(gaussians: Gaussians, flaw: str) -> list[tuple[str, Tensor]]:
    mesh, poses = extract(gaussians), cameras(gaussians, WORST)
    return [
        ("the splat", splat(gaussians, poses, WORST_SIZE)),
        (f"its mesh: {flaw}", unlit(mesh, poses, WORST_SIZE)),
        ("without its texture", gray(mesh, poses, WORST_SIZE)),
    ]


def cameras(gaussians: Gaussians, views: Iterable[tuple[float, float]]) -> Tensor:
    """[V, 4, 4] around the splat."""
    center, radius = extent(gaussians)
    azimuths, elevations = torch.tensor(tuple(views), dtype=torch.float64).unbind(1)
    poses = orbit_poses(azimuths, elevations, FRAMED * DISTANCE * radius)
    poses[:, :3, 3] += center
    return poses


def splat(gaussians: Gaussians, poses: Tensor, size: int = SIZE) -> Tensor:
    drawn = render(gaussians, poses, 2 * size, near=0.1 * extent(gaussians)[1])
    return F.avg_pool2d(drawn.images[0].clamp(0, 1), 2)


def unlit(mesh: Mesh, poses: Tensor, size: int = SIZE) -> Tensor:
    return draw_mesh(mesh, poses, size, supersample=FINER)[0]


def gray(mesh: Mesh, poses: Tensor, size: int = SIZE) -> Tensor:
    """Lit from the upper left of each camera, with darker edges of faces."""
    pictures = []
    for pose in poses.split(1):
        _, triangles = visibility(mesh.vertices, mesh.faces, pose, size * FINER)
        found = hits(mesh.vertices, mesh.faces, triangles, pose)
        normals = interpolate(found.weights, normals_of(mesh)[mesh.faces[found.triangle]])
        light = F.normalize(pose[0, :3, :3].float() @ torch.tensor([-0.5, 0.6, 0.8]), dim=0)
        shade = 0.3 + 0.6 * (F.normalize(normals, dim=-1) @ light).clamp(min=0)
        shade *= torch.where(found.weights.amin(-1) < 0.06, 0.6, 1.0)
        picture = torch.ones(size * FINER * size * FINER)
        picture[found.pixel] = shade
        pictures.append(picture.view(1, 1, size * FINER, -1).expand(-1, 3, -1, -1))
    return F.avg_pool2d(torch.cat(pictures), FINER)


def save(path: Path, rows: Iterable[tuple[str, Tensor]], size: int) -> None:
    """A sheet of pictures [V, 3, size, size] in rows under their captions."""
    rows = list(rows)
    height = len(rows) * (size + STRIP)
    sheet = Image.new("RGB", (len(rows[0][1]) * size, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (caption, pictures) in enumerate(rows):
        top = number * (size + STRIP)
        pen.text((8, top + 2), caption, fill="#444", font=font)
        row = (torch.cat(list(pictures), dim=-1).clamp(0, 1) * 255).round().byte()
        sheet.paste(Image.fromarray(row.movedim(0, -1).numpy()), (0, top + STRIP))
    sheet.save(path, quality=82, optimize=True)
    print(f"{path.name}: {sheet.width} x {sheet.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
