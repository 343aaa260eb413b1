"""One thread per process: the tests run in two processes on two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# The same examples in every run, and no deadline that a busy machine could miss.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


SHARED = {  # files that share a fixture, which takes long
    "test_demo.py": "demo",
    "test_figures.py": "demo",
    "test_report.py": "demo",
    "test_compare.py": "comparison",
    "test_comparison.py": "comparison",
    "test_comparison_page.py": "comparison",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """A file's tests stay in one process, so its fixtures are made once; no GPU, no GPU tests."""
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        file = SHARED.get(item.path.name, str(item.path))
        item.add_marker(pytest.mark.xdist_group(file))


@pytest.fixture(autouse=True)
def _seeded():
    """Weights that a test leaves to chance are the same in every run."""
    torch.manual_seed(0)
