import pytest
from torch import nn

from experiments.bench import features as module
from experiments.bench.features import features, invariance_row, memory, occlusion, peak_of
from experiments.bench.memory import STATUS
from experiments.bench.table import COLUMNS, merged, read
from interactions.patches import PatchGrid


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "IMAGES", 5)
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "OCCLUDED", 2)
    monkeypatch.setattr(module, "OCCLUDED_SIZE", 56)
    small = ("test_vit", {"img_size": 64}), ("test_resnet", {})
    monkeypatch.setattr(
        module, "STEP_MODELS", dict(zip(("vit_tiny", "resnet18"), small, strict=True))
    )


@pytest.fixture
def batches_of_sides(monkeypatch):
    """Sizes of the batches that the network sees on each side."""
    seen, sides = [], []

    def counted(name, **options):
        network = make(name, **options)
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        return network

    def one_by_one(ours, baseline, repeats, after_each):
        for side in (ours, baseline):
            seen.clear()
            side()
            sides.append(list(seen))
        return 3.0, 2.0

    make = module._network
    monkeypatch.setattr(module, "_network", counted)
    monkeypatch.setattr(module, "alternate", one_by_one)
    return sides


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
@pytest.mark.parametrize("what", ["extract", "evaluate"])
def test_both_sides_of_a_features_row_see_the_same_batches(what, name, batches_of_sides):
    row = features("a name", what, name, repeats=4)
    assert batches_of_sides == [[2, 2, 1]] * 2
    assert (row.row, row.ratio, row.unit, row.n, row.target) == ("a name", 1.5, "s", 4, 1.05)


def test_both_sides_of_an_occlusion_row_see_the_same_batches(batches_of_sides, monkeypatch):
    monkeypatch.setattr(module, "STEP_MODELS", {"resnet18": ("test_resnet", {})})
    row = occlusion("a name", "resnet18", repeats=4)
    assert batches_of_sides == [[2] * 10] * 2  # clean and nine fractions
    assert (row.row, row.ratio, row.unit, row.n, row.target) == ("a name", 1.5, "s", 4, 1.05)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
def test_both_sides_of_an_invariance_row_see_as_many_images(name, monkeypatch):
    seen, sides = [], []

    def counted(make, seed):
        network = create(make, seed)
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        return network

    def one_by_one(ours, baseline, repeats, after_each):
        for side in (ours, baseline):
            seen.clear()
            side()
            sides.append(list(seen))
        return 3.0, 2.0

    create = module.untrained
    small = {"vit_tiny": ("test_vit", {}), "resnet18": ("test_resnet", {})}
    monkeypatch.setattr(module, "STEP_MODELS", small)
    monkeypatch.setattr(module, "OCCLUDED", 4)
    monkeypatch.setattr(module, "OCCLUDED_SIZE", {"vit_tiny": 160, "resnet18": 56}[name])
    if name == "vit_tiny":
        monkeypatch.setattr(module, "PatchGrid", lambda rows, cols: PatchGrid(10, 10))
    monkeypatch.setattr(module, "untrained", counted)
    monkeypatch.setattr(module, "alternate", one_by_one)
    row = invariance_row("a name", name, repeats=4)
    assert sides == [[4] * 2 * 5] * 2  # both networks, whole and at four fractions
    assert (row.row, row.ratio, row.unit, row.n) == ("a name", 1.5, "s", 4)
    assert row.target == pytest.approx(1 / 0.6)


def test_a_row_is_timed_and_fits_the_table(tmp_path):
    row = features("a name", "extract", "resnet18", repeats=1)
    table = merged(read(tmp_path / "none.csv"), row, "abc")
    assert list(table) == COLUMNS
    assert 0 < row.ratio < 100


def test_the_memory_row(monkeypatch):
    """Peaks beyond the idle process, medians over repeats."""
    peaks = iter([100, 140, 150, 101, 141, 171, 102, 142, 152])
    jobs = []

    def pretend(images):
        jobs.append(images)
        return float(next(peaks))

    monkeypatch.setattr(module, "_in_a_process", pretend)
    row = memory("a name", repeats=3)
    assert jobs == [0, module.FEW, 4 * module.FEW] * 3
    assert (row.ours, row.baseline) == (152 - 101, 141 - 101)
    assert (row.unit, row.n, row.target) == ("MiB", 3, 1.1)


@pytest.mark.skipif(not STATUS.exists(), reason="Linux only")
@pytest.mark.parametrize("images", [0, 4])
def test_every_memory_job_runs(images, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BATCH", 4)
    monkeypatch.setattr(module, "WIDTH", 12)
    assert peak_of(images) > 0
