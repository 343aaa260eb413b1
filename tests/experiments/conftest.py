"""One small run of the demo, shared by the tests of what comes out of it."""

import pytest

from experiments.configs.demo import DemoConfig
from experiments.demo import demo

TINY = {
    "pretrain_steps": 3,
    "finetune_steps": 3,
    "batch_size": 16,
    "images": 2,
    "pairs": 2,
    "occlusion_images": 3,
    "max_test": 100,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "demo"
    demo(DemoConfig(out=out, **TINY))
    return out
