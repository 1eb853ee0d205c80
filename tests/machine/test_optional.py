"""numba that is installed and does not work costs speed, nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CODE = """
import torch
from lgm import load_model
from lgm.cameras import orbit_poses
from lgm.machine.optional import why_no_numba
from lgm.render import available_backends, render

views = torch.ones(4, 3, 128, 128)
views[:, :, 40:88, 40:88] = torch.rand(3, 1, 1)
gaussians = load_model("demo").reconstruct(views, size=128, rounds=1)
picture = render(gaussians, orbit_poses([30.0]), 32).images
assert picture.isfinite().all() and picture.min() < 0.9
assert "numba" not in available_backends()
print(why_no_numba())
"""


@pytest.mark.slow
def test_numba_that_refuses_to_be_imported_is_done_without(tmp_path):
    broken = tmp_path / "numba"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.3.')"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == (
        "numba does not work here (ImportError: Numba needs NumPy 2.2 or less. Got NumPy 2.3.): "
        "upgrade it"
    )
