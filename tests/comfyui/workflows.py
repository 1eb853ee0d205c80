"""The workflow files: those that come with the pack, and those that earlier versions saved.

`tests/data/workflows/<version>/` keeps, for each example workflow of that version, the file itself
and its twin in API format (`.api.json`), as the page made it. Files of released versions never
change: they stand for what users have on their disks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .comfyui import ROOT

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
KEPT = ROOT / "tests" / "data" / "workflows"
SAVED = sorted(path for path in KEPT.glob("*/*.json") if not path.name.endswith(".api.json"))


def version() -> str:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def twin(workflow: Path) -> Path:
    return workflow.with_suffix(".api.json")


def keep(workflow: Path, prompt: dict) -> None:
    """Writes an example of this version, and its twin, to where they stay."""
    kept = KEPT / version() / workflow.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(workflow.read_bytes())
    text = json.dumps(prompt, indent=1, ensure_ascii=False, sort_keys=True)
    twin(kept).write_text(text + "\n", encoding="utf-8")


def essence(prompt: dict) -> dict:
    """Types and inputs of the nodes. Dicts are what core viewers remember of its camera."""
    return {
        key: (
            node["class_type"],
            {name: value for name, value in node["inputs"].items() if not isinstance(value, dict)},
        )
        for key, node in prompt.items()
    }


def models_of(workflow: dict) -> dict[str, str]:
    """Files that a workflow offers when they are missing: "folder/name" in models -> address."""
    inside = [graph["nodes"] for graph in workflow.get("definitions", {}).get("subgraphs", [])]
    return {
        f"{model['directory']}/{model['name']}": model["url"]
        for node in sum(inside, workflow["nodes"])
        for model in node["properties"].get("models", [])
    }


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"
