import shutil
from pathlib import Path

import pandas as pd
import pytest

from experiments.photographs import figures, report, tables

COMMITTED = Path(__file__).parents[3] / "results/photographs"
MEASURED = ("records.npz", "records-50.npz", "occlusion.csv.gz")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name in MEASURED:
        if (COMMITTED / name).exists():
            shutil.copy(COMMITTED / name, folder)
    return folder, report.written(folder)


def test_nothing_to_draw_is_said(tmp_path, capsys):
    report.main(tmp_path)
    assert "no measurements" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.parametrize("name", [*figures.TABLES, "occlusion-differences"])
def test_committed_tables_are_those_of_the_measured_files(again, name):
    found, expected = (pd.read_csv(one / f"{name}.csv") for one in (again[0], COMMITTED))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.integration
def test_the_committed_page_is_that_of_the_measured_files(again):
    assert (again[0] / "README.md").read_text() == (COMMITTED / "README.md").read_text()


@pytest.mark.integration
def test_captions_say_what_was_measured(again):
    records = tables.read_packed(COMMITTED / "records.npz")
    count = len(next(iter(records.values())))
    assert set(again[1]) == {path.stem for path in COMMITTED.glob("*.svg")}
    for name in ("orders", "noise", "contexts", "verdicts"):
        assert f"{count} photographs, 2 pairs each, 8 contexts" in again[1][name]


def test_nothing_of_the_photographs_is_committed():
    kinds = {path.suffix for path in COMMITTED.iterdir()}
    assert kinds <= {".npz", ".gz", ".csv", ".md", ".svg", ".pdf"}
    assert sum((COMMITTED / name).stat().st_size for name in MEASURED) < 2**20
