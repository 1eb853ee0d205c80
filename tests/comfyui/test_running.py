"""Runs through the server's API: progress, cancel, broken branches, the cache."""

import pytest

from .client import files
from .prompts import four_views, node, rendered, saved


def test_four_views_become_a_file(server, object_info):
    run = server.run(saved(object_info))
    assert run.status == "success", run.reasons()
    (file, *_) = files(run.outputs["save"])
    assert server.download(file).startswith(b"ply\n")


def test_running_nodes_tell_the_page_how_far_they_are(server, object_info):
    server.forget()
    run = server.run(rendered(object_info, frames=4, width=64, height=64))
    assert run.status == "success", run.reasons()
    for name, steps in (("splat", 2), ("render", 4)):
        values = [value for value, _ in run.progress[name]]
        assert values == sorted(values)
        assert run.progress[name][-1][1] >= steps
        assert run.texts[name], f"{name} says nothing about what it does"
    assert run.previews


def cancel_at_first_progress(server, prompt, name):
    """Presses Cancel once node `name` reports a step; returns the run and how long it took, s."""
    asked = []

    def cancel(kind, data):
        if kind != "progress_state" or asked or name not in data["nodes"]:
            return
        if data["nodes"][name]["value"] >= 1:
            asked.append(server.interrupt())

    run = server.run(prompt, cancel)
    assert asked, f"{name} reported no step before it ended: {run.status} {run.reasons()}"
    return run, run.ended_at - asked[0]


def test_cancel_stops_the_renderer_and_the_next_run_works(server, object_info, tell):
    prompt = rendered(object_info, frames=500, width=256, height=256)
    run, seconds = cancel_at_first_progress(server, prompt, "render")
    assert run.status == "interrupted"
    assert run.progress["render"][-1][0] < 500
    tell(f"the renderer stopped {seconds:.2f} s after Cancel")
    again = server.run(rendered(object_info, frames=1, width=64, height=64))
    assert again.status == "success", again.reasons()
    # What was done before Cancel need not be done again.
    assert "splat" in again.cached


def test_cancel_stops_the_network_and_the_next_run_works(server, object_info, tell):
    server.forget()
    batch = {"class_type": "RepeatImageBatch", "inputs": {"image": ["views", 0], "amount": 50}}
    prompt = saved(object_info) | {"many": batch}
    prompt["splat"]["inputs"]["views"] = ["many", 0]
    run, seconds = cancel_at_first_progress(server, prompt, "splat")
    assert run.status == "interrupted"
    done, total = run.progress["splat"][-1]
    assert done < total
    tell(f"the network stopped {seconds:.2f} s after Cancel")
    again = server.run(saved(object_info))
    assert again.status == "success", again.reasons()


def test_invalid_branch_is_named_and_the_rest_runs(server, object_info):
    prompt = saved(object_info) | {
        "bad": node(object_info, "LGM_RenderSplat", splat=["splat", 0], frames=0),
        "preview": node(object_info, "PreviewImage", images=["bad", 0]),
    }
    run = server.run(prompt)
    assert run.status == "success"
    assert run.outputs.keys() == {"save"}
    assert run.node_errors.keys() == {"bad"}
    assert "frames" in run.reasons()


def test_failing_node_says_what_it_needed(server, object_info):
    prompt = saved(object_info)
    prompt["three"] = {
        "class_type": "ImageFromBatch",
        "inputs": {"image": ["views", 0], "batch_index": 0, "length": 3},
    }
    prompt["splat"]["inputs"]["views"] = ["three", 0]
    run = server.run(prompt)
    assert run.status == "error"
    assert "4 views" in run.error and "3" in run.error


def test_same_inputs_run_nothing_again(server, object_info):
    prompt = saved(object_info)
    assert server.run(prompt).status == "success"
    run = server.run(prompt)
    assert run.status == "success"
    assert not run.executed
    assert set(run.cached) == set(prompt)


def test_changed_input_runs_only_what_depends_on_it(server, object_info):
    assert server.run(saved(object_info)).status == "success"
    prompt = saved(object_info)
    prompt["splat"]["inputs"]["opacity_threshold"] = 0.1
    run = server.run(prompt)
    assert set(run.executed) == {"splat", "save"}
    assert {"model", "views"} <= set(run.cached)


def test_computing_again_gives_the_same_bytes(server, object_info):
    contents = []
    for _ in range(2):
        server.forget()
        run = server.run(saved(object_info))
        assert "splat" in run.executed
        contents.append(server.download(files(run.outputs["save"])[0]))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("format", ["ply", "splat", "spz", "glb"])
def test_batch_stays_a_batch_to_the_end(server, object_info, format):
    prompt = saved(object_info, format=format)
    prompt["two"] = {
        "class_type": "RepeatImageBatch",
        "inputs": {"image": ["views", 0], "amount": 2},
    }
    prompt["splat"]["inputs"]["views"] = ["two", 0]
    run = server.run(prompt)
    assert run.status == "success", run.reasons()
    named = {file["filename"] for file in files(run.outputs["save"])}
    assert len(named) == 2
    assert all(name.endswith(f".{format}") for name in named)


def test_core_nodes_take_the_splat(server, object_info):
    """ComfyUI's own nodes on both ends: its renderer draws ours, ours draws its edited one."""
    prompt = four_views(object_info) | {
        "turned": node(object_info, "TransformSplat", splat=["splat", 0]),
        "core": node(object_info, "RenderSplat", splat=["splat", 0], width=64, height=64),
        "ours": node(
            object_info, "LGM_RenderSplat", splat=["turned", 0], frames=1, width=64, height=64
        ),
        "preview core": node(object_info, "PreviewImage", images=["core", 0]),
        "preview ours": node(object_info, "PreviewImage", images=["ours", 0]),
    }
    run = server.run(prompt)
    assert run.status == "success", run.reasons()
    assert not run.node_errors, run.reasons()


def test_a_splat_becomes_a_textured_glb(server, object_info):
    """Our mesh and texture, written by core's own node."""
    prompt = four_views(object_info) | {
        "mesh": node(object_info, "LGM_SplatToMesh", splat=["splat", 0], faces=2000, resolution=64),
        "painted": node(
            object_info,
            "LGM_BakeSplatTexture",
            mesh=["mesh", 0],
            splat=["splat", 0],
            size=256,
            views=8,
        ),
        "glb": node(object_info, "SaveGLB", mesh=["painted", 0]),
    }
    run = server.run(prompt)
    assert run.status == "success", run.reasons()
    content = server.download(files(run.outputs["glb"])[0])
    assert content.startswith(b"glTF") and b"baseColorTexture" in content
    assert b"TEXCOORD_0" in content
