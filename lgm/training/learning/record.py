"""run.json: how a run was started. It is compared when a run is resumed."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ..recipe import Recipe
from .processes import world
from .run import FORMAT


def describe(
    recipe: Recipe, seed: int, data: dict[str, str], start: str, spread: str = ""
) -> dict[str, object]:
    """The contents of run.json."""
    return {
        "format": FORMAT,
        "recipe": asdict(recipe),
        "seed": seed,
        "data": data,
        "start": start,
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processes": world(),
        "spread": spread,
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def commit() -> str:
    """The checkout's commit, with a plus if files were changed since; empty outside a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except OSError:
        return ""


def check_same(path: Path, now: dict[str, object]) -> None:
    """Refuse to resume a run with other settings than it was started with.

    Raises:
        ValueError: names the settings that differ from run.json.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}): train without --resume.") from error
    if before.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of another version ({before.get('format')}, needed is {FORMAT}): start "
            "anew with --weights."
        )
    now = json.loads(json.dumps(now))
    differences = [key for key in ("seed", "data") if before.get(key) != now[key]]
    # A run.json of an older version lacks newer fields: they had today's defaults.
    old = json.loads(json.dumps(asdict(Recipe()))) | before.get("recipe", {})
    for name, value in now["recipe"].items():
        if old[name] != value:
            differences.append(f"{name} ({old[name]} then, {value} now)")
    if differences:
        raise ValueError(
            f"--resume goes on with what {path} says, but these differ: {', '.join(differences)}. "
            "Repeat the first command, or start anew with --weights."
        )
