"""The page's part of the pack, as far as it can be tested without a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
ENGINE = WEB / "vendor" / "viewer-engine.mjs"
SOURCES = sorted(path for path in WEB.rglob("*") if path.suffix in (".js", ".mjs", ".css"))

# Names of XML dialects, which nothing is loaded from, and a paper that a shader's comment names.
NOT_FETCHED = {
    "http://www.w3.org/2000/svg",
    "http://www.w3.org/1999/xhtml",
    "https://jcgt.org/published/0007/04/01/",
}


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"needs Node.js 20, found {version.strip()}")
    return found


def test_modules():
    tests = sorted(map(str, (ROOT / "tests" / "web").glob("*.test.mjs")))
    assert tests
    run = subprocess.run([node(), "--test", *tests], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr
    assert re.search(r"^(# |ℹ )fail 0$", run.stdout, re.MULTILINE)


def test_types():
    """The JSDoc types, by tools/web/tsconfig.json."""
    compiler = ROOT / "build/web/node_modules/typescript/bin/tsc"
    if not compiler.is_file():
        pytest.skip("needs TypeScript: make build/web/node_modules")
    command = [node(), str(compiler), "--project", "tools/web", "--pretty", "false"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_types_are_checked_everywhere():
    """A script that asks not to be checked would pass unseen."""
    for path in SOURCES:
        if path != ENGINE and path.suffix != ".css":
            assert "@ts-" not in path.read_text(encoding="utf-8"), path.name


def test_no_script_is_too_long_to_read():
    for path in SOURCES:
        if path != ENGINE:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_syntax(path):
    if path.suffix == ".css":
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert text.count("{") == text.count("}")
        return
    # As a module, whatever its ending.
    run = subprocess.run(
        [node(), "--input-type=module", "--check"],
        input=path.read_bytes(),
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode()


def test_page_imports_one_small_script_by_itself():
    """ComfyUI's page imports every .js it finds, and no .mjs."""
    assert [path.name for path in SOURCES if path.suffix == ".js"] == ["lgm.js"]
    assert (WEB / "lgm.js").stat().st_size <= 15_000


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w./-]+", text)) <= NOT_FETCHED
    assert not re.search(r"""(from|import\(|src=|href=)\s*["']//""", text)


def test_paths_are_relative():
    """Behind a reverse proxy the page does not lie at the root of its server."""
    for path in SOURCES:
        if path != ENGINE:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"""(from|import\(|URL\()\s*["']/""", text), path.name


def test_bundle_is_what_the_lockfile_says_with_its_licenses():
    banner = re.match(r"/\* (.+): see LICENSES\.txt\. \*/", ENGINE.read_text(encoding="utf-8"))
    bundled = [name.rsplit(" ", 1) for name in banner[1].split(", ")]
    packages = json.loads((ROOT / "tools/web/package-lock.json").read_text())["packages"]
    licenses = (WEB / "vendor" / "LICENSES.txt").read_text(encoding="utf-8")
    assert {name for name, _ in bundled} >= {"three", "@sparkjsdev/spark"}
    for name, version in bundled:
        assert packages[f"node_modules/{name}"]["version"] == version
        assert f"{name} {version}\n" in licenses
    assert licenses.count("Permission is hereby granted") == len(bundled)


def test_lockfile_checks_what_it_installs_from_anywhere():
    packages = json.loads((ROOT / "tools/web/package-lock.json").read_text())["packages"]
    installed = {name: entry for name, entry in packages.items() if name}
    assert installed
    assert all(entry["integrity"].startswith("sha512-") for entry in installed.values())
    assert not any("resolved" in entry for entry in installed.values())
