import re
from dataclasses import replace

import pandas as pd
import pytest

from a2mim.commands.demo import demo
from a2mim.commands.figures import redraw
from a2mim.measure import demo as measures
from a2mim.messages import UsageError
from a2mim.recipes.demo import ALL, FEW, NETWORKS
from a2mim.runs.table import read_table
from a2mim.settings.demo import DemoConfig

TINY = DemoConfig(
    seeds=2,
    labels=8,
    effort=0.001,
    count=2,
    pairs=1,
    replicates=2,
    occlusion_images=4,
    device="cpu",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "--seeds of at least 2, got 1"),
        ({"pairs": 0}, "--pairs of at least 1, got 0"),
        ({"pairs": 10_000}, "--pairs of at most "),
        ({"replicates": 3}, "an even number of --replicates, got 3"),
        ({"effort": 0.0}, "--effort above 0 and at most 1, got 0"),
        ({"effort": float("nan")}, "--effort above 0 and at most 1, got nan"),
        ({"workers": -1}, "--workers of at least 0, got -1"),
        ({"device": "tpu"}, "--device auto, cpu, cuda or mps, got 'tpu'"),
    ],
)
def test_bad_settings_fail_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        demo(replace(TINY, out=tmp_path / "demo", **change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_tiny_demo_goes_on_and_is_the_same_for_any_number_of_processes(
    tmp_path, monkeypatch, capsys
):
    alone = replace(TINY, out=tmp_path / "alone", workers=1)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measures, "interaction_curves", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(alone)
    assert not alone.out.exists()
    demo(alone)
    said = capsys.readouterr().out
    assert "pre-training makes it" in said
    demo(alone)
    assert "finished before" in capsys.readouterr().out
    together = replace(TINY, out=tmp_path / "together", workers=2)
    demo(together)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together"]
    tables = [
        read_table(config.out / "rows.csv").drop(columns="commit") for config in (alone, together)
    ]
    pd.testing.assert_frame_equal(*tables)
    rows = tables[0]
    assert set(zip(rows["model"], rows["seed"], strict=True)) == {
        (name, seed) for name in NETWORKS for seed in range(2)
    }
    counts = rows.groupby(["measure", "weights"]).size()
    for arm in (*ALL, *FEW):
        assert counts["accuracy", arm] == 4 * 898
    for arm in ALL:
        assert counts["interaction_energy", arm] == 4 * 2 * 13
        assert counts["occlusion_accuracy", arm] == 4 * 4 * 5
    # Both arms of a seed start from the same weights and see the same labels; seeds differ.
    sums = rows.groupby(["model", "weights", "seed"])["value"].sum()
    assert sums.nunique() > 4
    page = (alone.out / "report.html").read_text()
    (alone.out / "report.html").unlink()
    redraw(alone.out)
    assert (alone.out / "report.html").read_text() == page
    assert page.count("data:image/") == 2
