"""Workflows on users' disks open and run after a restart, whichever version saved them."""

from urllib.parse import quote

import pytest

from .page import open_page
from .test_workflows import finished
from .workflows import SAVED, essence, label, read, twin


@pytest.fixture(scope="module")
def restarted(server, object_info, with_models):
    """The server with the saved workflows in its user folder, gone and come back."""
    for workflow in SAVED:
        status, _ = server.fetch(f"/userdata/{stored(workflow)}", read(workflow))
        assert status == 200
    server.restart()
    return server


@pytest.fixture(scope="module")
def page(chromium, restarted):
    with open_page(chromium, restarted, vue=True) as opened:
        yield opened


def stored(workflow) -> str:
    return quote(f"workflows/{label(workflow)}.json".replace(" ", "_"), safe="")


@pytest.mark.parametrize("workflow", SAVED, ids=label)
def test_saved_workflow_runs_after_a_restart(restarted, object_info, workflow):
    assert restarted.json(f"/userdata/{stored(workflow)}") == read(workflow)
    finished(restarted, object_info, read(twin(workflow)))


@pytest.mark.parametrize("workflow", SAVED, ids=label)
def test_saved_workflow_opens_after_a_restart(restarted, page, workflow):
    page.problems()  # of the test before, if it failed
    page.load(restarted.json(f"/userdata/{stored(workflow)}"))
    page.settle()
    assert not page.missing_nodes()
    prompt = page.prompt()
    # A later version may have more inputs, but none that was saved may get lost or another value.
    opened = essence(prompt)
    for key, (class_type, inputs) in essence(read(twin(workflow))).items():
        assert opened[key][0] == class_type
        assert inputs.items() <= opened[key][1].items()
    assert page.run() == "success"
    page.settle(4000)  # core's 3D preview complains when it is taken away while it loads
    assert not page.problems()
