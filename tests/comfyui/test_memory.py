"""Runs in a row keep nothing behind."""

from .prompts import rendered

RUNS = 50
WARM_UP = 10  # lazily imported modules and thread pools settle in these
# Each run makes a splat of 17,000 Gaussians, 0.9 MB: the slope if one were kept per run.
BYTES_PER_RUN = 300_000
# glibc keeps 200 to 300 MB of freed blocks for later use, of which pieces of 12 to 50 MB come and
# go between runs: -190 to +520 kB per run were seen where nothing stayed. Blocks larger than these
# bytes go back to the system as soon as they are freed, and then no run differed by 1 MB.
LARGE_BLOCK = 65_536


def test_fifty_runs_do_not_grow(start_server, monkeypatch, tell):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(LARGE_BLOCK))
    # The default cache keeps old results as long as there is free memory. The classic one holds
    # the last run's only, so that all that stays is a leak.
    server = start_server("--cache-classic")
    object_info = server.json("/object_info")
    prompt = rendered(object_info, frames=2, width=64, height=64)
    resident, tensors = [], []
    for number in range(RUNS):
        prompt["splat"]["inputs"]["elevation"] = number / 10
        run = server.run(prompt)
        assert run.status == "success", run.reasons()
        assert {"splat", "render", "preview"} <= set(run.executed)
        state = server.json("/lgm_probe")
        resident.append(state["resident_bytes"])
        tensors.append(state["tensor_bytes"])
    growth = slope(resident[WARM_UP:])
    tell(f"{RUNS} runs: {resident[0] / 1e6:.0f} MB resident, then {growth / 1e3:+.0f} kB per run")
    assert growth < BYTES_PER_RUN
    # Splats of a hundred Gaussians more or less are no growth.
    assert slope(tensors[WARM_UP:]) < 20_000


def slope(values: list[int]) -> float:
    """Of the least-squares line through values at 0, 1, 2, ..."""
    middle = (len(values) - 1) / 2
    spread = sum((index - middle) ** 2 for index in range(len(values)))
    return sum((index - middle) * value for index, value in enumerate(values)) / spread
