"""Help pages, translations and tooltips say what the nodes' schemas say, and leave nothing out."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json"))
CHINESE = re.compile("[\u4e00-\u9fff]")
SHORTEST_TOOLTIP = 15  # characters: less only repeats the name


def read_locale(language: str) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def inputs_of(schema) -> dict[str, tuple[str, str]]:
    """name and tooltip of every input, by the key under which the page looks for its translation:
    the name on the wire (`combo.nested`) with an underscore for the dot."""
    found: dict[str, tuple[str, str]] = {}

    def collect(groups: dict, prefix: str = "") -> None:
        for group in groups.values():
            for name, (_, options) in group.items():
                text = options.get("display_name", name), options.get("tooltip", "")
                key = (prefix + name).replace(".", "_")
                assert found.setdefault(key, text) == text, f"{key} stands for two inputs"
                for option in options.get("options", []):
                    if isinstance(option, dict):
                        collect(option["inputs"], f"{prefix}{name}.")

    collect(schema.info()["input"])
    return found


def outputs_of(schema) -> dict[str, tuple[str, str]]:
    info = schema.info()
    pairs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {str(place): (name, tooltip or "") for place, (name, tooltip) in enumerate(pairs)}


def texts_of(entry: dict) -> dict[str, str]:
    """All texts of a node in a locale file, by their path."""
    texts = {}
    for key, value in entry.items():
        inner = texts_of(value) if isinstance(value, dict) else {"": value}
        texts |= {f"{key}.{path}".rstrip("."): text for path, text in inner.items()}
    return texts


def nested_sockets(schema) -> set[str]:
    """Keys of the inputs in dynamic combos that have no widget."""
    return {
        f"{entry.id}_{inner.id}"
        for entry in schema.inputs
        if entry.io_type == "COMFY_DYNAMICCOMBO_V3"
        for option in entry.options["options"]
        for inner in option.inputs
        if "default" not in inner.options
    }


def expected_english(schema) -> dict:
    """A socket of a dynamic combo must stay without a name, or the page doesn't find its tooltip:
    it looks under `inputs.<name>`. With none it falls back to the name on the wire."""

    def entries(found):
        texts = {key: {"name": name, "tooltip": tip} for key, (name, tip) in found.items()}
        for key in nested_sockets(schema) & set(texts):
            del texts[key]["name"]
        return texts

    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": entries(inputs_of(schema)),
        "outputs": entries(outputs_of(schema)),
    }


@pytest.fixture
def schemas(pack):
    return {node_id: node.define_schema() for node_id, node in pack.items()}


def test_everything_has_a_tooltip(schemas):
    bare = [
        f"{node_id}.{key}: {tooltip!r}"
        for node_id, schema in schemas.items()
        for found in (inputs_of(schema), outputs_of(schema))
        for key, (_, tooltip) in found.items()
        if len(tooltip) < SHORTEST_TOOLTIP
    ]
    assert not bare


def test_nodes_can_be_found(schemas):
    for node_id, schema in schemas.items():
        assert len(schema.description) > 40, node_id
        assert len(set(schema.search_aliases)) >= 2, node_id


def test_every_node_has_its_help_page_and_no_other_exists(schemas):
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(schemas)


def test_help_pages_name_everything(schemas):
    for node_id, schema in schemas.items():
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
        assert page.startswith(f"# {schema.display_name}\n"), node_id
        named = set(re.findall(r"`([^`\n]+)`", page))
        found = [*inputs_of(schema).values(), *outputs_of(schema).values()]
        assert not {name for name, _ in found} - named, node_id


def test_help_tables_have_no_inputs_of_old(schemas):
    """What the first column of an input or output table names, exists."""
    for node_id, schema in schemas.items():
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
        known = {name for name, _ in [*inputs_of(schema).values(), *outputs_of(schema).values()]}
        for table in re.findall(r"^\| (?:Input|Output) .*\n(?:\|.*\n)+", page, flags=re.M):
            rows = table.splitlines()[2:]
            first = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
            assert first and first <= known, (node_id, first - known)


def test_english_is_what_the_schemas_say(schemas):
    expected = {node_id: expected_english(schema) for node_id, schema in schemas.items()}
    assert read_locale("en") == expected, "out of date: run `python tools/locales.py`"


def test_the_tool_writes_the_same(schemas):
    english = runpy.run_path(str(ROOT / "tools" / "locales.py"))["english"]
    assert english(list(schemas.values())) == read_locale("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_complete_and_not_stale(schemas, language):
    translated = read_locale(language)
    assert list(translated) == list(schemas)
    for node_id, schema in schemas.items():
        assert set(texts_of(translated[node_id])) == set(texts_of(expected_english(schema)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_read_names_and_descriptions(language):
    """vue-i18n takes these characters for its own syntax, except in tooltips."""
    for node_id, entry in read_locale(language).items():
        for path, text in texts_of(entry).items():
            assert path.endswith("tooltip") or not re.search(r"[@{}|%]", text), (node_id, path)


def test_chinese_is_chinese(schemas):
    for node_id, entry in read_locale("zh").items():
        english = texts_of(expected_english(schemas[node_id]))
        for path, text in texts_of(entry).items():
            assert CHINESE.search(text), (node_id, path)
            assert text != english[path], (node_id, path)


def test_choices_keep_their_names_in_translations(schemas):
    """The page shows a combo's options untranslated: a tooltip that quotes one must, too."""
    for language in LANGUAGES:
        translated = read_locale(language)
        for node_id, schema in schemas.items():
            for key, (_, tooltip) in inputs_of(schema).items():
                quoted = set(re.findall(r"(?<!\w)'([^']+)'(?!\w)", tooltip))
                ours = translated[node_id]["inputs"][key]["tooltip"]
                assert not {q for q in quoted if q not in ours}, (language, node_id, key)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_numbers(schemas, language):
    """A value that changed in a schema is seldom remembered in a translation."""
    numbers = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
    for node_id, schema in schemas.items():
        english = texts_of(expected_english(schema))
        for path, text in texts_of(read_locale(language)[node_id]).items():
            missing = set(numbers.findall(english[path])) - set(numbers.findall(text))
            assert not missing, (node_id, path)


def test_two_languages():
    assert {"en", "zh"} <= set(LANGUAGES)
