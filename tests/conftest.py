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


SHARED = ("test_demo.py", "test_figures.py", "test_report.py")  # one run of the demo for all


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """A file's tests stay in one process, and so its fixtures are made once."""
    for item in items:
        file = "demo" if item.path.name in SHARED else str(item.path)
        item.add_marker(pytest.mark.xdist_group(file))


@pytest.fixture(autouse=True)
def _seeded():
    """Weights that a test leaves to chance are the same in every run."""
    torch.manual_seed(0)
