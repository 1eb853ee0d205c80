import os

# Tests run in parallel processes: one thread each is faster than many that fight for the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    """The folder with numbers recorded from the original implementation."""
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton's interpreter takes its time, whatever it is asked."""
    for item in items:
        if "interpreted" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
