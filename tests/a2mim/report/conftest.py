"""The committed demo in place of a new one: its figures and page are what these tests look at."""

import shutil
from pathlib import Path

import pytest

from a2mim.report.demo import redraw

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "demo"
    shutil.copytree(ROOT / "results" / "demo", folder)
    redraw(folder)
    return folder
