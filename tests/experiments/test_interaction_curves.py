import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm import create_model
from timm.data import create_transform, resolve_model_data_config

import experiments.interaction_curves as module
import interactions as ix
from a2mim.data import DataError
from experiments import measuring
from experiments.configs.interactions import InteractionsConfig
from experiments.configs.weights import WeightsConfig
from experiments.figures import of
from experiments.interaction_curves import interaction_curves
from experiments.records import read_records
from experiments.results import read_table, strength_from
from experiments.runs import UsageError

CLASSES = [3, 7, 3]


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    names = ["a/0.png", "a/1.png", "2.png"]
    for name in names:
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(30, 0).repeat(30, 1)
        Image.fromarray(pixels).save(folder / name)
    lines = [f"{name},{label}" for name, label in zip(names, CLASSES, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,class_index", *lines]) + "\n")
    return folder


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "net.safetensors"
    torch.manual_seed(1)
    model = create_model("test_resnet")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)  # larger than timm's, so that interactions vary with context
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def config(images, weights, tmp_path):
    return InteractionsConfig(
        models=(f"test_resnet={weights}",),
        images=images,
        weights=WeightsConfig(image_size=64),  # small, and so quick
        grid=4,
        pairs=2,
        orders=(0.0, 0.5, 1.0),
        label="truth",
        device="cpu",
        out=tmp_path / "out",
    )


def changed(config, **changes):
    return InteractionsConfig(**{**vars(config), **changes})


def rows_of(config):
    return (config.out / "rows.csv").read_bytes()


def test_the_table_is_what_the_library_measures(config, images, weights, capsys):
    interaction_curves(config)
    rows = read_table(config.out / "rows.csv")
    got = strength_from(of(rows, "test_resnet", "net.safetensors"))
    model = create_model("test_resnet", checkpoint_path=str(weights)).eval()
    transform = create_transform(
        **(resolve_model_data_config(model) | {"input_size": (3, 64, 64)}), is_training=False
    )
    names = sorted(["a/0.png", "a/1.png", "2.png"])
    labels = {"a/0.png": 3, "a/1.png": 7, "2.png": 3}
    with torch.inference_mode():
        stack = torch.stack([transform(Image.open(images / n).convert("RGB")) for n in names])
    grid = ix.PatchGrid(4, 4)
    games = ix.PatchGames(model, stack, [labels[n] for n in names], grid, names=names)
    design = ix.Design(ix.NeighbourPairs(grid, 2, 2), ix.Windows(4, 2), config.orders)
    expected = ix.strength(ix.measure(games, design))
    by_name = dict(zip(expected.images, expected.per_image_IO, strict=True))
    for name, row in zip(got.images, got.per_image_IO, strict=True):
        np.testing.assert_allclose(row, by_name[name], rtol=1e-3)
    printed = capsys.readouterr().out
    (report,) = json.loads((config.out / "weights.json").read_text())
    assert report["sha256"] in printed
    assert "3 images" in printed
    assert "noise floor of one difference" in printed
    floor = rows[rows["measure"] == "noise_floor"]["value"].item()
    assert 0 < floor < 0.01 * got.S.min()
    assert sorted(p.name for p in config.out.iterdir()) == [
        *("config.json", "interaction_curves.png", "interaction_curves.svg", "records", "rows.csv"),
        "weights.json",
    ]
    assert str(images.parent) not in rows_of(config).decode()
    (folder,) = (config.out / "records").iterdir()
    assert folder.name == "test_resnet-net.safetensors"
    kept = ix.strength(read_records(folder))
    np.testing.assert_allclose(kept.per_image_IO, got.per_image_IO, rtol=1e-6)


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bytes(config, tmp_path, monkeypatch):
    interaction_curves(config)
    measured = []
    real = measuring.write_record

    def dying(record, path, label):
        if len(measured) == 2:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"PK half a record")  # as a crash of the machine might leave it
            raise Stop
        measured.append(record.image)
        real(record, path, label)

    monkeypatch.setattr(measuring, "write_record", dying)
    again = changed(config, out=tmp_path / "again")
    with pytest.raises(Stop):
        interaction_curves(again)
    assert not again.out.exists()
    measured.clear()

    def counting(record, path, label):
        measured.append(record.image)
        real(record, path, label)

    monkeypatch.setattr(measuring, "write_record", counting)
    interaction_curves(again)
    assert len(measured) == 1
    assert rows_of(again) == rows_of(config)


def test_other_weights_or_settings_are_measured_anew(config, weights, tmp_path, monkeypatch):
    def stopped(config):
        """Measure all images, and stop before the records are put away."""
        measured = []
        real = measuring.write_record

        def counting(*arguments, **options):
            measured.append(1)
            real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(measuring, "write_record", counting)
            patch.setattr(module, "write_table", lambda *args: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                interaction_curves(config)
        return len(measured)

    assert stopped(config) == 3
    assert stopped(config) == 0
    assert stopped(changed(config, fill="image_mean")) == 3
    torch.manual_seed(2)
    save_file(create_model("test_resnet").state_dict(), weights)
    assert stopped(config) == 3


def test_batch_size_does_not_change_the_draws(config, tmp_path):
    interaction_curves(config)
    other = changed(config, batch_size=7, out=tmp_path / "other")
    interaction_curves(other)
    one, two = (strength_from(read_table(c.out / "rows.csv")).per_image_IO for c in (config, other))
    # logits in the thousands: float32 kernels of other batch sizes differ by some 1e-4
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_two_processes_give_the_table_of_one(config, tmp_path):
    two = changed(config, bias_tol=1e-6, max_contexts=16, out=tmp_path / "two")
    arguments = command(
        two,
        *("--pairs", "2", "--orders", "0", "0.5", "1"),
        *("--bias-tol", "1e-6", "--max-contexts", "16"),
    )
    processes = [
        subprocess.Popen(
            arguments,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-500:]
    one = changed(two, out=tmp_path / "one")
    interaction_curves(one)
    assert rows_of(one) == rows_of(two)
    samples = read_table(one.out / "rows.csv").query("measure == 'interaction_strength'")["samples"]
    assert samples.max() == 2 * 16  # doubled once: 8 -> 16 contexts


def test_several_models_share_pairs_and_contexts(config, weights, tmp_path):
    twin = weights.with_name("twin.safetensors")
    twin.write_bytes(weights.read_bytes())
    both = changed(config, models=(f"test_resnet={weights}", f"test_resnet={twin}"))
    # the same network twice: every paired difference is exactly 0
    interaction_curves(both)
    with pytest.raises(UsageError, match="expected every network once"):
        interaction_curves(changed(both, models=config.models * 2))
    rows = read_table(both.out / "rows.csv")
    values = rows[rows["measure"] == "interaction_strength"]["value"].to_numpy()
    half = len(values) // 2
    np.testing.assert_array_equal(values[:half], values[half:])


def command(config, *more):
    """The command line of a run."""
    return [
        *(sys.executable, "-m", "experiments.interaction_curves", *config.models),
        *("--images", str(config.images), "--image-size", "64"),
        *("--out", str(config.out), "--grid", "4", "--label", "truth", "--device", "cpu"),
        *more,
    ]


def test_a_killed_run_goes_on_to_the_same_bytes(config, images, tmp_path):
    """``kill -9`` in the middle, then the same command again."""
    for k in range(3):  # more images
        Image.open(images / "2.png").rotate(90 * k).save(images / f"{k}.jpg")
    with (images / "labels.csv").open("a") as lines:
        lines.writelines(f"{k}.jpg,{k}\n" for k in range(3))
    killed, whole = (
        changed(config, out=tmp_path / "killed"),
        changed(config, out=tmp_path / "whole"),
    )
    more = ("--pairs", "2", "--orders", "0", "0.5", "1")
    process = subprocess.Popen(
        command(killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before = time.monotonic()
    while len(written := list(tmp_path.glob("killed.*.partial/records/*/*.npz"))) < 2:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() - before < 100
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not killed.out.exists()
    assert 2 <= len(written) < 6
    marks = {path.name: path.stat().st_mtime_ns for path in written}
    for run in (killed, whole):
        interaction_curves(run)
    files = {
        run.out: {
            path.relative_to(run.out): path.read_bytes()
            for path in run.out.rglob("*")
            if path.is_file() and path.name != "config.json"  # holds how long it took
        }
        for run in (killed, whole)
    }
    assert files[killed.out] == files[whole.out]
    assert len(files[whole.out]) == 7 + 3
    kept = {path.name: path.stat().st_mtime_ns for path in killed.out.glob("records/*/*")}
    assert marks.items() <= kept.items()  # what was measured before was not measured again


def test_starting_anew_forgets_what_was_measured(config, monkeypatch):
    stop = pytest.MonkeyPatch()
    stop.setattr(module, "write_table", lambda *args: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        interaction_curves(config)
    stop.undo()
    measured = []
    real = measuring.write_record
    monkeypatch.setattr(
        measuring, "write_record", lambda *args, **kw: (measured.append(1), real(*args, **kw))
    )
    interaction_curves(changed(config, resume=False))
    assert len(measured) == 3


def test_a_budget_is_planned_for_and_kept(config, capsys):
    budget = changed(config, budget=1500, count=3, orders=(0.0, 0.5, 1.0))
    interaction_curves(budget)
    printed = capsys.readouterr().out
    assert "plan: " in printed
    assert "expected standard error of J" in printed
    rows = read_table(budget.out / "rows.csv")
    found = re.search(r"pairs=(\d+) .*contexts=(\d+)x2", rows["setting"][0])
    pairs, replicates = int(found[1]), int(found[2])
    images = rows.query("measure == 'interaction_strength'")["image"].nunique()
    pilot = 3 * 4 * 3 * (8 + 2)  # images, coalitions, pairs, contexts at m = 7 and the ends
    assert images * 4 * pairs * (2 * replicates + 2) <= 1500
    assert images * 4 * pairs * (2 * replicates + 2) > 0.6 * (1500 - pilot)
    assert len(read_records(budget.out / "records" / "test_resnet-net.safetensors")) == images


def test_replicates_that_the_diagnostic_cannot_split_are_reported_without_it(config, capsys):
    interaction_curves(changed(config, replicates=6))
    said = capsys.readouterr().out
    assert "may be biased" not in said
    assert "figure: " in said


def test_a_data_set_by_name(config, tmp_path):
    torch.manual_seed(1)
    ten = tmp_path / "ten.safetensors"
    save_file(create_model("test_resnet", num_classes=10).state_dict(), ten)
    named = changed(config, images=None, data="digits", models=(f"test_resnet={ten}",), count=2)
    interaction_curves(named)
    rows = read_table(named.out / "rows.csv")
    assert set(rows["dataset"]) == {"digits"}
    assert rows["image"].str.startswith("digits/").sum() == 2 * 2 * 3 + 1


def test_weights_without_a_classifier(config, tmp_path):
    torch.manual_seed(1)
    encoder = tmp_path / "encoder.safetensors"
    save_file(create_model("test_resnet", num_classes=0).state_dict(), encoder)
    without = changed(config, models=(f"test_resnet={encoder}",))
    headless = changed(without, reward="projection", label="prediction")
    interaction_curves(headless)
    rows = read_table(headless.out / "rows.csv")
    assert "reward=projection label=none" in rows["setting"][0]
    vectors = changed(headless, reward="features", out=tmp_path / "vectors")
    interaction_curves(vectors)
    assert read_table(vectors.out / "rows.csv")["value"].gt(0).sum() > 10
    with pytest.raises(UsageError, match="measure features with --reward projection"):
        interaction_curves(without)


def test_token_drop_is_another_game(config, tmp_path):
    torch.manual_seed(1)
    vit = tmp_path / "vit.safetensors"
    save_file(create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), vit)
    dropped = changed(
        config,
        models=(f"vit_tiny_patch16_224={vit}",),
        weights=WeightsConfig(),
        label="3",
        game="token_drop",
        grid=7,
        pairs=1,
        count=2,
    )
    interaction_curves(dropped)
    assert "game=token_drop" in read_table(dropped.out / "rows.csv")["setting"][0]


def test_half_precision_is_said(config, capsys):
    interaction_curves(changed(config, precision="float16", pairs=1, count=2))
    rows = read_table(config.out / "rows.csv")
    assert "precision=float16" in rows["setting"][0]
    assert rows.query("measure == 'noise_floor'")["value"].item() > 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "at least one network, got none"),
        (
            {"models": ("resnot18",)},
            "the name of a timm model, hf-hub:user/repo or a file",
        ),
        ({"count": 1}, "--count of at least 2"),
        ({"pairs": 1000}, "pairs per image, got 1000"),
        ({"orders": (0.0, 2.0)}, "ratios between 0 and 1"),
        ({"replicates": 3}, "even number of --replicates"),
        ({"bias_tol": 0.1, "replicates": 2}, "multiples of 4"),
        ({"bias_tol": -1.0}, "--bias-tol of at least 0"),
        ({"images": None}, "either --images DIR or --data NAME"),
        ({"data": "digits"}, "either --images DIR or --data NAME"),
        ({"budget": 10}, "--budget of at least"),
        ({"budget": 10**6, "bias_tol": 0.1}, "--budget without --protocol and --bias-tol"),
        ({"reward": "features", "bias_tol": 0.1}, "numbers with --bias-tol, got features"),
        ({"game": "token_drop", "fill": "blur"}, "what is dropped is not filled"),
        ({"game": "token_drop"}, "timm VisionTransformer, whose tokens can be dropped, got ResNet"),
        ({"batch_size": -1}, "--batch-size of at least 0"),
        ({"precision": "bfloat16"}, "got bfloat16: with its 8 bits"),
        ({"label": "cat"}, "prediction, truth or a class index, got 'cat'"),
        ({"label": "5000"}, "label 5000 is not one of the model's 1000 classes"),
        ({"grid": 7}, "a 7 x 7 grid divides"),
        ({"models": ("test_resnet",)}, "cannot make test_resnet of timm: OSError: no network"),
    ],
)
def test_bad_input(config, changes, message, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    with pytest.raises(UsageError) as caught:
        interaction_curves(changed(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(config, images, weights):
    (images / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read .*2\.png"):
        interaction_curves(config)
    (images / "labels.csv").write_text("file,class_index\na/0.png,x\n")
    with pytest.raises(UsageError, match="a row for every image"):
        interaction_curves(config)
    weights.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"net\.safetensors"):
        interaction_curves(changed(config, label="1"))
    torch.save({"state_dict": create_model("test_vit").state_dict()}, weights.with_suffix(".pth"))
    other = changed(config, label="1", models=(f"test_resnet={weights.with_suffix('.pth')}",))
    with pytest.raises(UsageError, match="to fit test_resnet in every tensor"):
        interaction_curves(other)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_not_opened(config, tmp_path, capsys):
    torch.save(Malicious(), tmp_path / "evil.pth")
    with pytest.raises(UsageError, match=r"evil\.pth"):
        interaction_curves(changed(config, models=(f"test_resnet={tmp_path / 'evil.pth'}",)))
    assert "executed" not in capsys.readouterr().out
