"""How fast and how good meshes of splats are, from the root:

    python benchmarks/mesh.py [SPLAT ...] [--comfyui DIR --python PYTHON] [--device cuda] [--refine]

Without files, the five example objects, reconstructed by the demo model. Quality: pictures of the
mesh against pictures of the splat in 24 views that cover the sphere evenly, none of which the
extraction has seen: mean and least overlap of the silhouettes, and PSNR on white. Edges: with one
face, and with more than two. With a checkout of ComfyUI, its own SplatToMesh gets the same splats,
in a process of its own. With --refine, each of our meshes once more, refined by nvdiffrast; its
seconds are of the way from the splat. --copies makes each splat so many times as long, of Gaussians
that are smaller and lie around the old ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from render import machine, start_peak, synchronize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lgm import io, load_model
from lgm.cameras import orbit_poses
from lgm.colors import linear_to_srgb
from lgm.gaussians import Gaussians, flip_y_z
from lgm.mesh import Mesh, extract
from lgm.mesh.draw import draw_mesh
from lgm.mesh.refine import refine
from lgm.pictures.views import example_objects, view_files
from lgm.pipeline import reconstruct_files
from lgm.render import render
from lgm.splats.extent import extent

VIEWS, SIZE = 24, 512
DISTANCE = 2.6  # of the cameras, in radii of the splat

# Runs in ComfyUI's environment with its default settings.
CORE = """
import sys, time
comfyui, source, target = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = sys.argv[:1]
import comfy.options
comfy.options.enable_args_parsing()
import numpy as np, torch
from comfy.cli_args import args
args.cpu = not torch.cuda.is_available()
from comfy_api.latest import Types
from comfy_extras.nodes_gaussian_splat import SplatToMesh
inputs = SplatToMesh.define_schema().inputs
settings = {i.id: i.default for i in inputs if i.id != "splat"}
splat = Types.SPLAT(**{k: torch.from_numpy(v) for k, v in np.load(source).items()})
start = time.perf_counter()
with torch.inference_mode():
    mesh = SplatToMesh.execute(splat, **settings).args[0]
seconds = time.perf_counter() - start
found = {k: getattr(mesh, k)[0].cpu().numpy() for k in ("vertices", "faces", "vertex_colors")}
np.savez(target, seconds=seconds, **found)
"""


@dataclass(frozen=True)
class Row:
    name: str
    maker: str
    mesh: Mesh
    seconds: dict[str, float]  # by stage
    peak: str  # MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("splats", nargs="*", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--faces", type=int, default=30_000)
    parser.add_argument("--texture-size", type=int, default=1024)
    parser.add_argument("--resolution", type=int, default=192)
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI, to compare with")
    parser.add_argument("--python", default=sys.executable, help="that can run ComfyUI")
    parser.add_argument("--copies", type=int, default=1, help="of each Gaussian")
    parser.add_argument("--refine", action="store_true", help="needs nvdiffrast and a GPU")
    args = parser.parse_args()
    settings = {
        "faces": args.faces,
        "texture_size": args.texture_size,
        "resolution": args.resolution,
    }
    print(f"torch {torch.__version__}, {machine(args.device)}, {settings}")
    is_first = True
    for name, gaussians in _splats(args.splats):
        gaussians = copied(gaussians, args.copies).to(args.device)
        if is_first:  # what compiles on first use does it now
            ready = extract(gaussians, **settings)
            if args.refine:
                refine(ready, gaussians)
            print(_header())
        is_first = False
        row = _ours(name, gaussians, settings)
        print(_text(row, gaussians), flush=True)
        if args.refine:
            print(_text(_refined(row, gaussians), gaussians), flush=True)
        if args.comfyui:
            print(_text(_core(name, gaussians, args.comfyui, args.python), gaussians), flush=True)


def _splats(files: list[Path]) -> Iterator[tuple[str, Gaussians]]:
    for path in files:
        yield path.stem, io.read_splat_file(path)
    if not files:
        model = load_model("demo")
        for name, folder in example_objects().items():
            yield name, reconstruct_files(model, view_files(folder))


def _ours(name: str, gaussians: Gaussians, settings: dict) -> Row:
    last: dict[str, float] = {}  # when each stage was last heard of, in order

    def progress(stage: str, part: float) -> None:
        last[stage] = time.perf_counter()

    peak = start_peak(gaussians.device)
    start = time.perf_counter()
    mesh = extract(gaussians, **settings, progress=progress)
    synchronize(gaussians.device)
    ends = [start, *last.values()]
    ends[-1] = time.perf_counter()
    seconds = dict(zip(last, np.diff(ends).tolist(), strict=True))
    return Row(name, "ours", mesh, seconds, peak())


def _refined(row: Row, gaussians: Gaussians) -> Row:
    peak = start_peak(gaussians.device)
    start = time.perf_counter()
    mesh = refine(row.mesh, gaussians)
    synchronize(gaussians.device)
    seconds = row.seconds | {"refine": time.perf_counter() - start}
    return Row(row.name, "nvdiff", mesh, seconds, peak())


def _core(name: str, gaussians: Gaussians, comfyui: Path, python: str) -> Row:
    """SplatToMesh's mesh, +y up, of the splat it gets +y down."""
    splat = flip_y_z(gaussians).to("cpu")
    dc = (splat.colors - 0.5) / 0.28209479177387814
    sh = dc[:, :, None] if splat.sh is None else torch.cat([dc[:, :, None], splat.sh], dim=2)
    tensors = {k: v for k, v in splat.tensors().items() if k not in ("colors", "sh")} | {"sh": sh}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "splat.npz", Path(folder) / "mesh.npz"
        np.savez(source, **{name: tensor.numpy() for name, tensor in tensors.items()})
        command = [python, "-c", CORE, comfyui.resolve(), source, target]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ComfyUI's SplatToMesh failed:\n{done.stderr[-3000:]}")
        found = dict(np.load(target).items())
    colors = linear_to_srgb(found["vertex_colors"][:, :3])  # ComfyUI's are linear, as glTF's
    mesh = Mesh(
        torch.from_numpy(found["vertices"]).float(),
        torch.from_numpy(found["faces"]).long(),
        vertex_colors=torch.from_numpy(colors).float(),
    )
    return Row(name, "core", mesh, {"all": float(found["seconds"])}, "-")


def _poses(gaussians: Gaussians) -> Tensor:
    """Cameras [VIEWS, 4, 4] on a spiral around the splat."""
    center, radius = extent(gaussians)
    order = torch.arange(VIEWS, dtype=torch.float64) + 0.5
    elevations = torch.rad2deg((1 - 2 * order / VIEWS).asin())
    poses = orbit_poses(7 + order * 180 * (3 - 5**0.5), elevations, DISTANCE * radius)
    poses[:, :3, 3] += center
    return poses


@torch.no_grad()
def _quality(mesh: Mesh, gaussians: Gaussians) -> tuple[float, float, float]:
    """Mean and least overlap of the silhouettes, and the mean PSNR in dB."""
    overlaps, ratios = [], []
    mesh = mesh.to(gaussians.device)
    for pose in _poses(gaussians).split(1):
        near = 0.1 * extent(gaussians)[1]
        splat = render(gaussians, pose, SIZE, near=near)
        images, alphas = draw_mesh(mesh, pose, SIZE)
        one, other = splat.alphas[0, 0] > 0.5, alphas[0] > 0.5
        overlaps.append(((one & other).sum() / (one | other).sum()).item())
        error = (splat.images[0, 0].clamp(0, 1) - images[0].to(splat.images)).square().mean()
        ratios.append(-10 * error.log10().item())
    return float(np.mean(overlaps)), min(overlaps), float(np.mean(ratios))


def _shape(mesh: Mesh) -> tuple[int, int, int]:
    """Edges with one face, edges with more than two, and separate pieces; seams are no edges."""
    vertices = mesh.vertices.cpu().numpy()
    _, number = np.unique(vertices, axis=0, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces.cpu().numpy()]
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    pairs, counts = np.unique(edges, axis=0, return_counts=True)
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(number.max() + 1,) * 2)
    pieces = connected_components(graph, directed=False)[1][np.unique(faces)]
    return (counts == 1).sum(), (counts > 2).sum(), len(np.unique(pieces))


def copied(gaussians: Gaussians, copies: int) -> Gaussians:
    """Much the same splat of `copies` times as many Gaussians."""
    if copies == 1:
        return gaussians
    many = {name: x.repeat_interleave(copies, dim=1) for name, x in gaussians.tensors().items()}
    noise = torch.randn(many["positions"].shape, generator=torch.Generator().manual_seed(0))
    many["positions"] = many["positions"] + 0.5 * many["scales"] * noise
    many |= {"scales": 0.35 * many["scales"], "opacities": 0.6 * many["opacities"]}
    return Gaussians(**many)


def _header() -> str:
    return (
        f"{'splat':<15}{'by':<7}{'s':>6}{'peak MB':>9}{'faces':>9}{'open':>6}{'multi':>7}"
        f"{'pieces':>8}{'IoU':>8}{'least':>8}{'PSNR':>7}  seconds by stage"
    )


def _text(row: Row, gaussians: Gaussians) -> str:
    overlap, least, ratio = _quality(row.mesh, gaussians)
    open_edges, multiple, pieces = _shape(row.mesh)
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in row.seconds.items())
    return (
        f"{row.name[:14]:<15}{row.maker:<7}{sum(row.seconds.values()):>6.2f}{row.peak:>9}"
        f"{row.mesh.face_count:>9,}{open_edges:>6}{multiple:>7}{pieces:>8}{overlap:>8.4f}"
        f"{least:>8.4f}{ratio:>7.2f}  {stages}"
    )


if __name__ == "__main__":
    main()
