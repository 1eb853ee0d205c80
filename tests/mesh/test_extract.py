"""Splats that go wrong elsewhere: a clear sentence or a sensible mesh, and never a hang."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lgm import io
from lgm.command import main as cli
from lgm.gaussians import flip_y_z
from lgm.mesh import METHODS, STAGES, extract

from .shapes import ball, is_closed, shell, splat, square, volume

SMALL = {"faces": 600, "texture_size": 96, "resolution": 48, "views": 4}
BALL = 4 / 3 * np.pi * 0.42**3


def pieces(mesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces without the seams of the charts."""
    vertices, number = np.unique(mesh.vertices.numpy(), axis=0, return_inverse=True)
    return vertices, number.reshape(-1)[mesh.faces.numpy()]


def moved(gaussians, scale: float, offset: float):
    return replace(
        gaussians,
        positions=gaussians.positions * scale + offset,
        scales=gaussians.scales * scale,
    )


def broken(gaussians, field: str, value: float):
    """Every ninth Gaussian with a value that is none."""
    values = getattr(gaussians, field).clone()
    values[:, ::9] = value
    return replace(gaussians, **{field: values})


def with_sh(gaussians):
    generator = torch.Generator().manual_seed(0)
    return replace(gaussians, sh=torch.randn(1, gaussians.count, 15, 3, generator=generator))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change, scale",
    [
        (lambda it: moved(it, 1e-3, 0.0), 1e-3),
        (lambda it: moved(it, 1e3, 0.0), 1e3),
        (lambda it: moved(it, 2.5, 1e4), 2.5),  # float32 is a thousandth there
        (with_sh, 1.0),
        (flip_y_z, 1.0),
        (lambda it: broken(it, "positions", torch.nan), 1.0),
        (lambda it: broken(it, "opacities", torch.nan), 1.0),
        (lambda it: broken(it, "scales", torch.inf), 1.0),
        (lambda it: broken(it, "colors", torch.nan), 1.0),
        (lambda it: replace(it, rotations=torch.zeros_like(it.rotations)), 1.0),
    ],
)
def test_a_ball_stays_a_ball(change, scale, method):
    mesh = extract(change(ball()), **SMALL, method=method)
    vertices, faces = pieces(mesh)
    assert is_closed(faces) and len(faces) <= SMALL["faces"]
    vertices = vertices.astype(np.float64) - vertices.mean(0)
    assert volume(vertices / scale, faces) == pytest.approx(BALL, rel=0.15)
    assert mesh.texture.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_one_gaussian_two_objects_and_a_card_are_closed(method):
    flat = torch.zeros(3000, 3)
    flat[:, :2] = square(3000)
    two = torch.cat([shell(0.2, (0.35, 0, 0), 2000), shell(0.15, (-0.4, 0, 0), 1500)])
    cases = [
        (splat(torch.zeros(1, 3), [0.2, 0.1, 0.05]), 2),
        (splat(two, 0.015), 4),
        (splat(flat, [0.02, 0.02, 0.0]), 2),
    ]
    for gaussians, euler in cases:
        vertices, faces = pieces(extract(gaussians, **SMALL, method=method))
        assert is_closed(faces)
        assert len(vertices) - len(faces) // 2 == euler


@pytest.mark.parametrize("method", METHODS)
def test_needles_and_haze_end_in_a_mesh(method):
    generator = torch.Generator().manual_seed(0)
    needles = splat(shell(count=1500), [0.2, 0.002, 0.002])
    rotations = F.normalize(torch.randn(1, 1500, 4, generator=generator), dim=-1)
    for gaussians in (
        replace(needles, rotations=rotations),
        splat(shell(count=100), 2.0, 0.5),
    ):
        mesh = extract(gaussians, **{**SMALL, "texture_size": None}, method=method)
        assert is_closed(mesh.faces.numpy())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "gaussians, words",
    [
        (splat(torch.zeros(0, 3), 0.1), "empty"),
        (splat(shell(), 0.1, opacity=0.001), "fainter than"),
        (splat(shell() * torch.nan, 0.1), "not finite"),
        (splat(torch.zeros(9, 3), 0.0), "no size"),
        (splat(shell(count=30), 0.01, opacity=0.3), "50%"),
    ],
)
def test_nothing_to_see_is_said(gaussians, words, method):
    with pytest.raises(ValueError, match=words):
        extract(gaussians, **SMALL, method=method)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"faces": 3}, "4 faces"),
        ({"resolution": 8}, "resolution of 16"),
        ({"texture_size": 1}, "texels"),
        ({"views": 0}, "one view"),
        ({"method": "magic"}, "outside or density"),
    ],
)
def test_settings_that_can_not_be_are_said(settings, words):
    with pytest.raises(ValueError, match=words):
        extract(ball(), **{**SMALL, **settings})


def test_budgets_of_ten_and_of_ten_million():
    settings = {**SMALL, "texture_size": None}
    many = extract(ball(), **{**settings, "faces": 10_000_000})
    few = extract(ball(), **{**settings, "faces": 10})
    assert 4 <= few.face_count < 40 < many.face_count  # not fewer than flat faces allow
    assert is_closed(few.faces.numpy()) and is_closed(many.faces.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_stops_soon_wherever_it_is(method):
    class Stop(Exception):
        pass

    gaussians, seen, calls = splat(shell(count=800), 0.04), [], [0]
    names = dict.fromkeys(STAGES, 0)

    def count():
        calls[0] += 1

    def progress(stage, part):
        names[stage] += 1
        seen.append(calls[0])

    settings = {**SMALL, "resolution": 32, "method": method}
    extract(gaussians, **settings, check=count, progress=progress)
    assert all(names.values())
    total = calls[0]
    assert total > 40
    for number in sorted({1, 3, *np.linspace(4, total, 12).astype(int).tolist()}):
        calls[0] = 0

        def check(number=number):
            calls[0] += 1
            if calls[0] >= number:
                raise Stop

        with pytest.raises(Stop):
            extract(gaussians, **settings, check=check)
        assert calls[0] == number  # nothing goes on behind its back


def test_the_command_says_where_it_can_not_write(tmp_path, capsys):
    """A file in place of a folder is as read-only as it gets, for the superuser too."""
    path = tmp_path / "ball.ply"
    io.write_splat_file(path, ball())
    arguments = ["mesh", str(path), "--out", str(path / "mesh.glb"), "--resolution", "32"]
    assert cli.main(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("lgm: ") and message.count("\n") == 1


@pytest.mark.parametrize("method", METHODS)
def test_the_command_takes_a_method(method, tmp_path):
    path = tmp_path / "ball.ply"
    io.write_splat_file(path, ball())
    small = ["--faces", "200", "--texture-size", "128", "--views", "6", "--resolution", "32"]
    out = tmp_path / f"{method}.glb"
    assert cli.main(["mesh", str(path), "--out", str(out), "--method", method, *small]) == 0
    assert out.read_bytes().startswith(b"glTF")
