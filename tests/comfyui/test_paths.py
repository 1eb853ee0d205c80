"""A workflow may come from anybody: the names in it can't lead out of ComfyUI's folders."""

import pytest

from .prompts import saved

ESCAPES = [
    "../escaped",
    "../../escaped",
    "sub/../../escaped",
    "..\\..\\escaped",
    "/tmp/escaped",
    "C:\\escaped",
    "\\\\server\\share\\escaped",
    "~/../../escaped/..",
    "",
]


@pytest.mark.parametrize("prefix", ESCAPES)
def test_name_that_leads_outside_is_refused(server, object_info, prefix):
    output = server.base / "output"
    before = set(output.rglob("*"))
    run = server.run(saved(object_info, prefix))
    assert run.status in ("error", "refused")
    assert repr(prefix)[1:-1] in run.reasons() or "output folder" in run.reasons()
    assert set(output.rglob("*")) == before
    assert not list(server.base.rglob("escaped*"))
    assert not list(server.base.parent.glob("escaped*"))


def test_name_may_make_a_subfolder(server, object_info):
    run = server.run(saved(object_info, "a folder/an object"))
    assert run.status == "success", run.reasons()
    assert list((server.base / "output" / "a folder").glob("an object*.ply"))
