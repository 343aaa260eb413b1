import pandas as pd
import pytest

from experiments import bench as module
from experiments.bench import alternate, bench
from experiments.runs import UsageError


def test_the_two_sides_take_turns_and_medians_are_taken(monkeypatch):
    clock = iter([0, 3, 10, 11, 20, 24, 30, 32, 40, 50, 60, 63])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls = []
    ours, baseline = alternate(
        lambda: calls.append("ours"), lambda: calls.append("bare"), 3, lambda: None
    )
    assert calls == ["ours", "bare"] * 3
    assert (ours, baseline) == (4, 2)  # of 3, 4, 10 and of 1, 2, 3


def test_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CPU_MODELS", ("test_resnet",))
    monkeypatch.setattr(module, "IMAGE_SIZE", 56)
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    bench(tmp_path / "bench", repeats=1)
    rows = pd.read_csv(tmp_path / "bench" / "cpu.csv")
    assert list(rows) == ["row", "ours", "baseline", "ratio", "target", "unit", "n", "commit"]
    assert rows["row"].tolist() == ["interactions/overhead/test_resnet"]
    assert rows["ratio"][0] == pytest.approx(rows["ours"][0] / rows["baseline"][0], rel=1e-3)
    with pytest.raises(UsageError, match="at least 1 repeat"):
        bench(tmp_path, 0)
