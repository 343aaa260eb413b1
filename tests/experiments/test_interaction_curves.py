import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm import create_model
from timm.data import create_transform, resolve_model_data_config

import experiments.interaction_curves as module
import interactions as ix
from experiments.configs.interactions import InteractionsConfig
from experiments.figures import of
from experiments.interaction_curves import interaction_curves
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
    path = tmp_path / "weights.safetensors"
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
        models=("test_resnet",),
        images=images,
        weights=(weights,),
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
    got = strength_from(of(rows, "test_resnet", "weights.safetensors"))
    model = create_model("test_resnet", checkpoint_path=str(weights)).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
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
    assert "3 images" in printed
    assert "noise floor of one difference" in printed
    floor = rows[rows["measure"] == "noise_floor"]["value"].item()
    assert 0 < floor < 0.01 * got.S.min()
    assert sorted(p.name for p in config.out.iterdir()) == [
        *("config.json", "interaction_curves.png", "interaction_curves.svg", "rows.csv"),
    ]
    assert str(images.parent) not in rows_of(config).decode()


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bytes(config, tmp_path, monkeypatch):
    interaction_curves(config)
    measured = []
    real = module.write_record

    def dying(record, path):
        if len(measured) == 2:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"PK half a record")  # as a crash of the machine might leave it
            raise Stop
        measured.append(record.image)
        real(record, path)

    monkeypatch.setattr(module, "write_record", dying)
    again = changed(config, out=tmp_path / "again")
    with pytest.raises(Stop):
        interaction_curves(again)
    assert not again.out.exists()
    measured.clear()
    monkeypatch.setattr(module, "write_record", lambda r, p: (measured.append(r.image), real(r, p)))
    interaction_curves(again)
    assert len(measured) == 1
    assert rows_of(again) == rows_of(config)


def test_other_weights_or_settings_are_measured_anew(config, weights, tmp_path, monkeypatch):
    def stopped(config):
        """Measure all images, and stop before the records are put away."""
        measured = []
        real = module.write_record
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_record", lambda r, p: (measured.append(1), real(r, p)))
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
    arguments = [
        *(sys.executable, "-m", "experiments.interaction_curves", "test_resnet"),
        *("--images", str(two.images), "--weights", str(two.weights[0]), "--out", str(two.out)),
        *("--grid", "4", "--pairs", "2", "--orders", "0", "0.5", "1", "--label", "truth"),
        *("--bias-tol", "1e-6", "--max-contexts", "16", "--device", "cpu"),
    ]
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
    both = changed(config, models=("test_resnet",) * 2, weights=(weights, twin))
    # the same network twice: every paired difference is exactly 0
    interaction_curves(both)
    with pytest.raises(UsageError, match="expected every network once"):
        interaction_curves(changed(both, weights=(weights, weights)))
    rows = read_table(both.out / "rows.csv")
    values = rows[rows["measure"] == "interaction_strength"]["value"].to_numpy()
    half = len(values) // 2
    np.testing.assert_array_equal(values[:half], values[half:])


def test_labels(config, images):
    assert list(module._truth(config, [images / "a/1.png"]).values()) == [7]
    five = changed(config, label="5")
    assert list(module._truth(five, [images / "2.png"]).values()) == [5]
    predicted = changed(config, label="prediction")
    assert list(module._truth(predicted, [images / "2.png"]).values()) == [None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("resnot18",)}, "expected the name of a timm model, got 'resnot18'"),
        ({"count": 1}, "--count of at least 2"),
        ({"pairs": 1000}, "pairs per image, got 1000"),
        ({"orders": (0.0, 2.0)}, "ratios between 0 and 1"),
        ({"replicates": 3}, "even number of --replicates"),
        ({"bias_tol": 0.1, "replicates": 2}, "multiples of 4"),
        ({"bias_tol": -1.0}, "--bias-tol of at least 0"),
        ({"label": "cat"}, "prediction, truth or a class index, got 'cat'"),
        ({"label": "5000"}, "label 5000 is not one of the model's 1000 classes"),
        ({"grid": 7}, "a 7 x 7 grid divides"),
        ({"weights": ()}, "cannot load weights for test_resnet"),
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
    with pytest.raises(UsageError, match=r"cannot read .*2\.png"):
        interaction_curves(config)
    (images / "labels.csv").write_text("file,class_index\na/0.png,x\n")
    with pytest.raises(UsageError, match="a row for every image"):
        interaction_curves(config)
    weights.write_bytes(b"no weights")
    with pytest.raises(UsageError, match="cannot load weights for test_resnet"):
        interaction_curves(changed(config, label="1"))
    torch.save({"state_dict": create_model("test_vit").state_dict()}, weights.with_suffix(".pth"))
    with pytest.raises(UsageError, match="Missing key"):
        interaction_curves(changed(config, label="1", weights=(weights.with_suffix(".pth"),)))


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_not_opened(config, tmp_path, capsys):
    torch.save(Malicious(), tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="holds more than weights and is not opened"):
        interaction_curves(changed(config, weights=(tmp_path / "evil.pth",)))
    assert "executed" not in capsys.readouterr().out
