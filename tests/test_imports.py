"""The tree is the architecture: no import circles, arrows point down, files stay small."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From top to bottom; what stands on one line doesn't import each other. docs/architecture.md shows
# the same lines.
LAYERS = (
    "command/",
    "training/",
    "pipeline.py",
    "multiview/ network/ mesh/",
    "splats/ releases/",
    "render/ io/",
    "layers/ pictures/",
    "camera_paths.py",
    "gaussians.py",
    "spherical_harmonics.py",
    "cameras.py",
    "machine/ rotations.py colors.py",
)
TRAINING_LAYERS = (
    "train.py evaluate.py",
    "furniture.py",
    "learning/",
    "batches/",
    "renders/",
    "evaluation_set.py",
    "packs/ procedural/",
    "rasterize.py recipe.py",
)
FACES = {"lgm", "lgm.__main__", "lgm.cli", "lgm.training", "lgm.training.__main__"}
MAX_LINES = 500
MAX_FILES = 12  # at the root of a package


@cache
def modules() -> dict[str, Path]:
    paths = [p for top in ("lgm", "nodes") for p in (ROOT / top).rglob("*.py")]
    names = (".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths)
    return {n.removesuffix(".__init__"): p for n, p in zip(names, paths, strict=True)}


def absolute(name: str, module: str, is_package: bool) -> str:
    """The absolute name of `.name`, `..name` or `name`, as written in a module."""
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    parts = module.split(".")
    base = parts[: len(parts) - dots + is_package]
    return ".".join([*base, *filter(None, name[dots:].split("."))])


def dynamic_names(call: ast.Call, tree: ast.Module) -> Iterator[str]:
    """What `importlib.import_module` or `__import__` may import. Each of the file's strings may
    stand in an f-string's hole."""
    argument = call.args[0]
    if isinstance(argument, ast.Constant):
        yield argument.value
    elif isinstance(argument, ast.JoinedStr) and len(argument.values) <= 2:
        start = argument.values[0].value if len(argument.values) == 2 else ""
        strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
        yield from {
            start + text for text in strings if isinstance(text, str) and text.isidentifier()
        }
    else:
        raise AssertionError(f"Nobody can read what {ast.unparse(call)} imports.")


def imported_names(source: str) -> Iterator[str]:
    """All names that a file imports, relative as written; in functions and for types, too."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            joint = "" if base.endswith(".") else "."
            yield from (base + joint + name.name for name in node.names)
        elif isinstance(node, ast.Call) and re.search(
            r"(^|\.)(import_module|__import__)$", ast.unparse(node.func)
        ):
            yield from dynamic_names(node, tree)


def module_of(name: str) -> str | None:
    """The module of ours that holds a name, or is it."""
    holder = name.rpartition(".")[0]
    return next((n for n in (name, holder) if n in modules()), None)


@cache
def arrows() -> dict[str, set[str]]:
    """From every module to those that it imports."""
    found = {}
    for module, path in modules().items():
        names = imported_names(path.read_text(encoding="utf-8"))
        is_package = path.name == "__init__.py"
        targets = {module_of(absolute(name, module, is_package)) for name in names}
        found[module] = targets - {None, module}
    return found


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Modules that reach each other, in groups."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            new = arrows[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    reach = {module: reached(module) for module in arrows}
    found = []
    for module in arrows:
        group = {other for other in reach[module] if module in reach[other]}
        if group and group not in found:
            found.append(group)
    return found


def edges() -> Iterator[tuple[str, str]]:
    return ((a, b) for a, targets in arrows().items() for b in targets)


def test_the_reader_sees_every_kind_of_import():
    source = (
        "import os.path\n"
        "from . import near\n"
        "from ..up import thing\n"
        "def late():\n from .inside import x\n"
        "if TYPE_CHECKING:\n from .types import T\n"
        "importlib.import_module('.literal', __name__)\n"
        "__import__('plain')\n"
        "NAMES = {'key': 'value'}\n"
        "import_module(f'.{NAMES[key]}', __name__)\n"
    )
    expected = {"os.path", ".near", "..up.thing", ".inside.x", ".types.T", ".literal", "plain"}
    assert expected | {".key", ".value"} <= set(imported_names(source))
    with pytest.raises(AssertionError, match="Nobody can read"):
        list(imported_names("import_module(name)"))
    assert absolute("..up.thing", "lgm.a.b", False) == "lgm.up.thing"
    assert absolute(".near", "lgm.a", True) == "lgm.a.near"
    assert absolute("..", "lgm.a.b", False) == "lgm"


def test_the_reader_finds_what_is_known_to_be_there():
    assert {("lgm.render", "lgm.render.torch_tiles"), ("lgm.multiview", "lgm.multiview.pipeline"),
            ("lgm.command.main", "lgm.command.train")} <= set(edges())  # fmt: skip
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]


def test_there_is_no_circle():
    assert not circles(arrows())


def test_only_the_command_line_imports_training():
    outside = [
        (a, b)
        for a, b in edges()
        if b.startswith("lgm.training") and not a.startswith(("lgm.training", "lgm.command"))
    ]
    assert not outside


def test_the_library_knows_no_nodes():
    assert not [(a, b) for a, b in edges() if a.startswith("lgm") and b.startswith("nodes")]


def floors(layers: tuple[str, ...]) -> dict[str, int]:
    return {
        part.rstrip("/").removesuffix(".py"): floor
        for floor, line in enumerate(layers)
        for part in line.split()
    }


@pytest.mark.parametrize(("top", "layers"), [("lgm", LAYERS), ("lgm.training", TRAINING_LAYERS)])
def test_arrows_point_down(top: str, layers: tuple[str, ...]):
    floor = floors(layers)
    mistakes = []
    for a, b in edges():
        if not (a.startswith(f"{top}.") and b.startswith(f"{top}.")) or a in FACES:
            continue
        start, end = (module.removeprefix(f"{top}.").split(".")[0] for module in (a, b))
        if start != end and floor[start] >= floor[end]:
            mistakes.append(f"{a} -> {b}")
    assert not mistakes


@pytest.mark.parametrize("layers", [LAYERS, TRAINING_LAYERS])
def test_the_page_shows_these_layers(layers: tuple[str, ...]):
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", page, re.S)
    parts = [
        tuple(" ".join(re.findall(r"\w+(?:/|\.py)", line)) for line in block.splitlines())
        for block in blocks
    ]
    assert layers in parts


@pytest.mark.parametrize(("top", "layers"), [("lgm", LAYERS), ("lgm/training", TRAINING_LAYERS)])
def test_every_folder_and_file_has_its_layer(top: str, layers: tuple[str, ...]):
    there = {p.name for p in (ROOT / top).glob("*.py")}
    there |= {f"{p.parent.name}/" for p in (ROOT / top).glob("*/__init__.py")}
    faces = {"__init__.py", "__main__.py", "cli.py"}
    assert there - faces == {part for line in layers for part in line.split()}


@pytest.mark.parametrize("top", ["lgm", "lgm/training"])
def test_few_files_stand_at_the_root(top: str):
    assert len(list((ROOT / top).glob("*.py"))) <= MAX_FILES


def test_no_file_is_long():
    suffixes = {".py", ".js", ".mjs", ".css", ".html"}
    files = [
        p
        for top in ("lgm", "nodes", "web", "benchmarks")
        for p in (ROOT / top).rglob("*")
        if p.suffix in suffixes and "vendor" not in p.parts
    ]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in files}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
