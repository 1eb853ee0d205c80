"""README, docs and help pages: their links lead somewhere, and what they list is what there is."""

from __future__ import annotations

import re
import runpy
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

import lgm
from lgm import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "TRAINING_DATA.md")),
    ROOT / "CHANGELOG.md",
    ROOT / "lgm" / "models" / "README.md",
    ROOT / "example_workflows" / "inputs" / "CREDITS.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
]
SITE = "https://github.com/lgm-splats/lgm-splats/blob/main/"
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
PROMISED = re.compile(r"`((?:lgm|nodes|web|tests|tools|benchmarks|docs|locales)/[\w./-]*\w)`")


def prose(text: str) -> str:
    """Without code, where brackets are no links."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", text)
    return re.sub(r"`[^`\n]*`", "", text)


@cache
def anchors(page: Path) -> set[str]:
    """The ids that mkdocs and GitHub both give to a page's headings."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text("utf-8"))
    headings = re.findall(r"(?m)^#{1,6} (.+)$", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    return {re.sub(r"[^\w\s-]", "", line).strip().lower().replace(" ", "-") for line in headings}


def broken(page: Path, link: str) -> str:
    """Why a link leads nowhere; empty if it leads somewhere, or out of the repository."""
    link = link.removeprefix(SITE) if (ours := link.startswith(SITE)) else link
    if not ours and re.match(r"[a-z]+:", link):
        return ""
    place, _, anchor = unquote(link).partition("#")
    target = (ROOT if ours else page.parent) / place if place else page
    if not target.exists():
        return f"{link}: there is no {place}"
    if anchor and anchor not in anchors(target.resolve()):
        return f"{link}: no heading of {target.name} is called {anchor}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = LINK.findall(prose(page.read_text("utf-8")))
    assert not [reason for link in links if (reason := broken(page, link))]


@pytest.mark.parametrize("form", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda f: f.name)
def test_links_of_the_forms_lead_somewhere(form):
    links = re.findall(re.escape(SITE) + r"[^\s)]+", form.read_text("utf-8"))
    assert not [reason for link in links if (reason := broken(form, link))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    if page.name == "CHANGELOG.md":  # names what was
        pytest.skip("names what was")
    named = PROMISED.findall(page.read_text("utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `word`, and two\n[a](page.md#one-word-and-two) [b](no.md) [c](#three)")
    links = LINK.findall(prose(page.read_text()))
    assert [bool(broken(page, link)) for link in links] == [False, True, True]


def test_every_page_is_on_the_site():
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in config]
    assert not missing


# README ---------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text("utf-8")


def test_readme_is_short():
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1200


@pytest.mark.parametrize("page", ["README.md", "docs/nodes.md"])
def test_every_node_is_listed_with_its_help_page(page):
    text = (ROOT / page).read_text("utf-8")
    linked = re.findall(r"(?m)^\| \[[^\]]+\]\((?:\.\./)?web/docs/(\w+)\.md\) \|", text)
    assert sorted(linked) == sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))


def test_every_template_is_listed():
    templates = {path.stem for path in (ROOT / "example_workflows").glob("*.json")}
    assert {name for name in templates if f"*{name}*" in README} == templates


def test_every_command_is_listed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = set(re.findall(r"(?m)^    ([a-z]+)\b", capsys.readouterr().out))
    table = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    assert {"demo", "doctor"} <= commands == set(re.findall(r"(?m)^\| `lgm (\w+)", table))


def test_the_lines_of_python_run(tmp_path, monkeypatch):
    """On the included model, at 64 px and without correction rounds, with a coarse mesh."""
    folder = ROOT / "example_workflows" / "inputs" / "spot"
    files = [folder / f"{azimuth}.png" for azimuth in (0, 90, 180, 270)]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGBA")) for file in files])
    views = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    reconstruct, extract = lgm.LGM.reconstruct, lgm.mesh.extract
    monkeypatch.setattr(
        lgm.LGM, "reconstruct", lambda model, views: reconstruct(model, views, size=64, rounds=0)
    )
    monkeypatch.setattr(lgm.mesh, "extract", partial(extract, resolution=48, views=6))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", README)
    assert len(blocks) == 1 and blocks[0] in (ROOT / "docs" / "python.md").read_text("utf-8")
    lines = tmp_path / "lines.py"
    lines.write_text(blocks[0])
    result = runpy.run_path(str(lines), init_globals={"views": views})
    assert result["out"].images.shape == (1, 1, 3, 512, 512)
    assert lgm.io.read_splat_file("object.spz").count > 1000
    assert (tmp_path / "object.glb").read_bytes().startswith(b"glTF")
