"""What ComfyUI serves of the pack beside its nodes."""

import json
from urllib.parse import quote

import pytest

from .comfyui import PACK, ROOT
from .test_nodes import NODES
from .workflows import BLUEPRINTS, EXAMPLES

WEB = f"/extensions/{quote(PACK)}"
LANGUAGES = sorted(path.name for path in (ROOT / "locales").glob("*") if path.is_dir())


@pytest.mark.parametrize("node", sorted(NODES))
def test_help_page_is_served(server, node):
    status, body = server.fetch(f"{WEB}/docs/{node}.md")
    assert status == 200
    assert body.decode().startswith("#")


def test_scripts_are_announced_and_served(server):
    ours = [path for path in server.json("/extensions") if path.startswith(WEB)]
    assert len(ours) == len(list((ROOT / "web").rglob("*.js")))
    assert all(server.fetch(path)[0] == 200 for path in ours)


def test_translations_name_every_node(server, object_info):
    i18n = server.json("/api/i18n")
    assert {"en"} < set(LANGUAGES) <= set(i18n)
    for language in LANGUAGES:
        assert set(i18n[language]["nodeDefs"]) >= NODES, language


def test_templates_are_listed_with_their_thumbnails(server):
    listed = server.json("/api/workflow_templates").get(PACK, [])
    assert sorted(listed) == [path.stem for path in EXAMPLES]
    assert listed
    for name in listed:
        for suffix in ("json", "jpg"):
            path = f"/api/workflow_templates/{quote(PACK)}/{quote(name)}.{suffix}"
            assert server.fetch(path)[0] == 200, path


def test_blueprints_are_offered(server):
    offered = server.json("/api/global_subgraphs")
    ours = {key: entry for key, entry in offered.items() if PACK in json.dumps(entry)}
    assert {entry["name"] for entry in ours.values()} == {path.stem for path in BLUEPRINTS}
    assert ours
    for key, entry in ours.items():
        graph = json.loads(server.json(f"/api/global_subgraphs/{key}")["data"])
        assert graph["definitions"]["subgraphs"], entry["name"]
