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


def pytest_collection_modifyitems(items):
    """Without an accelerator what needs one is skipped."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeded():
    """Weights that a test leaves to chance are the same in every run."""
    torch.manual_seed(0)
