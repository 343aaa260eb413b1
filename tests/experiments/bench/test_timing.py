from experiments.bench import timing as module
from experiments.bench.timing import Row, alternate, overhead, short


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
    row = overhead("a name", "test_resnet", repeats=1)
    assert (row.row, row.unit, row.n, row.target) == ("a name", "s", 1, 1.05)
    assert 0 < row.ours < 60
    assert 0 < row.baseline < 60


def test_names_of_rows_are_short():
    assert [short(model) for model in module.CPU_MODELS] == ["vit_tiny", "resnet18"]
