import pytest
import torch

from experiments.bench import timing as module
from experiments.bench.timing import Row, alternate, beside_the_best, overhead, overhead_names


def test_the_two_sides_take_turns_and_medians_are_taken(monkeypatch):
    clock = iter([0, 3, 10, 11, 20, 24, 30, 32, 40, 50, 60, 63])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls = []
    ours, baseline = alternate(
        lambda: calls.append("ours"), lambda: calls.append("bare"), 3, lambda: None
    )
    assert calls == ["ours", "bare"] * 3
    assert (ours, baseline) == (4, 2)  # of 3, 4, 10 and of 1, 2, 3


def test_the_ratio_is_ours_to_the_baseline():
    assert Row("x", 3.0, 4.0, 1.0, "s", 1).ratio == 0.75


def test_overhead_on_a_small_model(monkeypatch):
    monkeypatch.setattr(module, "IMAGE_SIZE", 56)
    row = overhead("a name", "test_resnet", repeats=1, on_gpu=False)
    assert (row.row, row.unit, row.n, row.target) == ("a name", "s", 1, 1.05)
    assert 0 < row.ours < 60
    assert 0 < row.baseline < 60


def test_the_row_of_a_gpu_names_the_best_bare_forward(monkeypatch):
    """On a CPU, and small; nothing is compiled."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 5)).eval()
    small = {
        "GPU_BATCH": 64,
        "GPU_IMAGES": 2,
        "GPU_PAIRS": 1,
        "_network": lambda name, device: (network, torch.rand(3, 28, 28)),
    }
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(module, "_second_try", lambda run: run() or 1.0)
    row = beside_the_best("a name", "tiny", repeats=1, device=torch.device("cpu"))
    assert (row.row, row.unit, row.target) == ("a name", "s", 1.053)
    assert row.ours > 0
    assert row.baseline > 0
    assert "forwards; baseline: autocast; " in row.notes[0]
    assert "half, channels_last, compiled" in row.notes[0]
    assert "ours: eager" in row.notes[1]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_overhead_rows_have_short_names(on_gpu):
    names = overhead_names(on_gpu)
    assert len(names) == (4 if on_gpu else 2)
    assert all(("/gpu/" in name) == on_gpu for name in names)
    assert all("patch16" not in name for name in names)
