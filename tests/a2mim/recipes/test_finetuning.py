from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from scipy import stats
from timm.data import create_transform

from a2mim.checkpoints.load import load_model
from a2mim.data.augment import CentreCrop, PilTransform
from a2mim.data.folders import DataError
from a2mim.data.resident import ResidentSamples
from a2mim.data.samples import ArraySamples, SomeSamples
from a2mim.data.sources import labelled_samples
from a2mim.messages import UsageError
from a2mim.recipes.finetune import RECIPES
from a2mim.recipes.finetuning import (
    TOP1,
    Judge,
    Pretrained,
    check,
    classes_of,
    description,
    finetune,
    finetune_seeds,
    method_of,
    over_seeds,
    samples_of,
    setting_of,
    training_transform,
)
from a2mim.runs.table import COLUMNS, read_table
from a2mim.training.loop import StepReport

OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
VIT = Pretrained("vit_tiny_patch16_224", "untrained", OPTIONS)
QUICK = {
    "epochs": 2,
    "warmup": 0.5,
    "batch_size": 64,
    "mix_group": 16,
    "save_every": 1,
    "lr": 0.01,
}
TRAIN, TEST = 200, 120


def make(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(VIT.architecture, num_classes=0, **OPTIONS, **options)


def quick(**changes):
    return replace(RECIPES["digits"](), **QUICK | changes)


def few(config):
    train, test = samples_of(config)
    return SomeSamples(train, range(TRAIN)), SomeSamples(test, range(TEST))


def run(work, config, *, model=None):
    train, test = few(config)
    return finetune(model or make(), VIT, config, train, test, work, "cpu", recipe="digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    work = tmp_path_factory.mktemp("finetune") / "run"
    config = quick(ema=0.5, eval_every=1, pooling="mean")
    model = make()
    return work, config, model, run(work, config, model=model)


def test_rows_and_files(finished):
    work, _, _, rows = finished
    assert sorted(path.name for path in work.iterdir()) == [
        *("log.jsonl", "model-ema.json", "model-ema.safetensors"),
        *("model.json", "model.safetensors"),
        *("predictions.csv", "rows.csv", "tensorboard"),
    ]
    assert tuple(rows.columns) == COLUMNS
    pd.testing.assert_frame_equal(read_table(work / "rows.csv"), rows, check_dtype=False)
    last = "recipe=digits epochs=2 optimiser=adamw lr=0.01 layer_decay=1 pool=avg norm=after "
    last += "batchnorm=running train=32 test=32->32 weights="
    found = rows[rows["measure"].str.startswith(TOP1)]
    assert list(zip(found["measure"], found["setting"], found["at"], strict=True)) == [
        (TOP1, last + "last", 1.0),
        (TOP1, last + "last", 2.0),
        (TOP1 + "_low", last + "last", 2.0),
        (TOP1 + "_high", last + "last", 2.0),
        (TOP1, last + "ema", 2.0),
        (TOP1 + "_low", last + "ema", 2.0),
        (TOP1 + "_high", last + "ema", 2.0),
    ]
    assert set(found["samples"]) == {TEST}
    assert set(rows["weights"]) == {"untrained"}


@pytest.mark.parametrize(("kind", "file"), [("last", "model"), ("ema", "model-ema")])
def test_saved_weights_have_the_accuracy_of_the_table(finished, kind, file):
    """Judged a second time: by what the file says of itself, image by image."""
    work, config, _, rows = finished
    loaded = load_model(work / f"{file}.safetensors")
    transform = PilTransform(create_transform(**loaded.data_config))
    test = SomeSamples(labelled_samples(config.data, transform)[1], range(TEST))
    images = torch.stack([test.load(k, 0) for k in range(len(test))])
    with torch.no_grad():
        correct = loaded.model(images).argmax(1) == test.labels_I
    if kind == "last":
        told = pd.read_csv(work / "predictions.csv")
        assert told["image"].tolist() == list(range(TEST))
        assert torch.equal(torch.tensor(told["label"]), test.labels_I)
        assert (told["label"] == told["predicted"]).tolist() == correct.tolist()
    values = rows[rows["setting"].str.endswith(kind) & (rows["at"] == 2)].set_index("measure")
    assert values["value"][TOP1] == pytest.approx(correct.double().mean().item())
    wilson = stats.binomtest(int(correct.sum()), TEST).proportion_ci(method="wilson")
    interval = [values["value"][TOP1 + end] for end in ("_low", "_high")]
    assert interval == pytest.approx([wilson.low, wilson.high])


def test_images_held_in_memory_are_seen_as_those_that_are_read():
    """Without a crop that is drawn: the training images, and the test images."""
    changes = {"crop": (1.0, 1.0), "resident": 8, "interpolation": "bilinear"}
    for samples in zip(samples_of(quick(**changes)), labelled(), strict=True):
        a, b = (torch.stack([of.load(k, 0) for k in range(8)]) for of in samples)
        assert torch.equal(samples[0].labels_I, samples[1].labels_I)
        assert (a - b).abs().max() < 1e-5
    train, _ = samples_of(quick(resident=8))
    assert isinstance(train, ResidentSamples)
    assert isinstance(samples_of(quick(resident=1))[0], ArraySamples)  # they need 2.6 MiB


def labelled():
    crop = CentreCrop(32, 1.0, (0.5,) * 3, (0.25,) * 3, "bilinear")
    return labelled_samples("digits", crop)


def test_all_weights_are_trained(finished):
    _, _, model, _ = finished
    start = make().state_dict()
    for name, value in model.state_dict().items():
        assert name not in start or not torch.equal(value, start[name]), name
    assert not model.training


def test_an_interrupted_run_goes_on_to_the_same_rows(finished, tmp_path, monkeypatch):
    work, config, _, rows = finished

    def broken(self, report):
        if report.step == 5:
            raise InterruptedError
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "measure", broken)
        with pytest.raises(InterruptedError):
            run(tmp_path, config)
    assert list((tmp_path / "checkpoints").glob("*.safetensors"))
    again = run(tmp_path, config)
    for file in ("model.safetensors", "model-ema.safetensors"):
        assert (tmp_path / file).read_bytes() == (work / file).read_bytes()
    final = rows["at"] == 2
    assert again[again["at"] == 2]["value"].tolist() == rows[final]["value"].tolist()


@pytest.mark.integration
def test_lamb_goes_on_too(tmp_path):
    """It keeps its step in the groups, as a tensor."""
    config = quick(optimiser="lamb", loss="binary", schedule="plain-cosine", cutmix=1.0)
    whole = run(tmp_path / "a", config)
    train, test = few(config)

    class Broken(SomeSamples):
        def load(self, index, epoch):
            if epoch == 1:
                raise InterruptedError
            return super().load(index, epoch)

    train = Broken(train, range(TRAIN))
    with pytest.raises(InterruptedError):
        finetune(make(), VIT, config, train, test, tmp_path / "b", "cpu", recipe="digits")
    again = run(tmp_path / "b", config)
    assert again["value"].tolist() == whole["value"].tolist()
    files = [(tmp_path / part / "model.safetensors").read_bytes() for part in "ab"]
    assert files[0] == files[1]


@pytest.mark.integration
def test_micro_batches_change_nothing_but_rounding(tmp_path):
    one = run(tmp_path / "one", quick())
    four = run(tmp_path / "four", quick(accumulate=4))
    losses = [t[t["measure"] == "finetune_loss"]["value"].to_numpy() for t in (one, four)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.integration
def test_seeds(tmp_path, monkeypatch):
    config = quick(epochs=1)
    monkeypatch.setattr("a2mim.recipes.finetuning.samples_of", few)
    how = {"recipe": "digits"}
    rows = finetune_seeds(make, VIT, config, [0, 1, 2], tmp_path, "cpu", **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0", "seed-1", "seed-2"]
    found = over_seeds(rows)
    values = rows[rows["measure"] == TOP1]["value"].tolist()
    assert len({round(x, 9) for x in rows[rows["measure"] == "finetune_loss"]["value"]}) == 9
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.estimate == pytest.approx(sum(values) / 3)
    # complete seeds are not done again
    monkeypatch.setattr("a2mim.recipes.finetuning.finetune", None)
    again = finetune_seeds(make, VIT, config, [0, 1, 2], tmp_path, "cpu", **how)
    np.testing.assert_allclose(again["value"], rows["value"], rtol=1e-7)


@pytest.mark.parametrize("pooling", ["own", "mean", "token"])
@pytest.mark.parametrize("fc_norm", [False, None])
def test_a_network_is_made_again_as_described(pooling, fc_norm):
    options = OPTIONS | {"fc_norm": fc_norm, "global_pool": "avg"}
    pretrained = Pretrained(VIT.architecture, "untrained", options)
    model = timm.create_model(VIT.architecture, num_classes=3, **options)
    config = quick(pooling=pooling)
    method_of(model, config, 10)
    about = description(model, pretrained, config)
    made = timm.create_model(about["architecture"], **about["model_args"]).eval()
    made.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(made(images), model.eval()(images))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_224", "pool=token norm=before"),
        ("swin_tiny_patch4_window7_224", "pool=avg norm=before"),
        ("convnext_atto", "pool=avg norm=after"),
        ("resnet18", "pool=avg norm=none"),
    ],
)
def test_pooling_and_norm_are_written_beside(name, words):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert words in setting_of(model, quick(), "digits")


def test_bad_seeds(tmp_path):
    with pytest.raises(UsageError, match=r"expected different seeds, got \[1, 1\]"):
        finetune_seeds(make, VIT, quick(), [1, 1], tmp_path, "cpu", recipe="digits")
    rows = pd.DataFrame(
        {"measure": [TOP1], "setting": ["weights=last"], "at": [1], "value": [0.5], "seed": [0]}
    )
    with pytest.raises(ValueError, match=r"each of 2 or more seeds, got those of seeds \[0\]"):
        over_seeds(rows)


def test_it_is_judged_once_in_every_so_many_epochs(monkeypatch):
    """At ends of epochs, which are always reported, and not at the last step."""
    monkeypatch.setattr(Judge, "__call__", lambda self, model: type("E", (), {"accuracy": 1.0}))
    config = replace(RECIPES["digits"](), eval_every=2)
    for log_every in (1, 3, 7):
        judge = Judge(None, None, config, 60, 10, "cpu")
        reports = [s for s in range(1, 61) if s % log_every == 0 or s % 10 == 0]
        judged = [s for s in reports if judge.measure(StepReport(s, 0, 0.0, {}, None, 0.0))]
        assert judged == [20, 40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 100}, "warmup (100) must be below epochs (100)"),
        ({"test_resize": 16}, "a crop of 32 px out of at least as many, got test_resize=16"),
        ({"repeats": 0}, "expected --repeats of at least 1"),
        ({"flip": 2}, "expected --flip of at least 0 and at most 1, got 2"),
        ({"ema": 1.0}, "expected ema between 0 and 1"),
        ({"resident": -1}, "expected --resident of at least 0"),
        ({"resident": 8, "erasing": 0.25}, "expected resident=0 with erasing=0.25"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UsageError) as caught:
        check(replace(RECIPES["digits"](), **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 8}, "whole groups of 16 images that are mixed, got 8"),
        ({"batch_size": 2000}, "2000"),
        ({"mix_group": 1}, "groups of at least 2 images"),
        ({"layer_decay": 2.0}, "layer decay in (0, 1]"),
        ({"drop_path": 1.5}, "drop-path rate in [0, 1), got 1.5"),
        ({"train_size": 16}, "expected a model for images of 16 px"),
        ({"test_size": 64, "test_resize": 64}, "expected a model for images of 64 px"),
    ],
)
def test_bad_runs(changes, message, tmp_path):
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "work", quick(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_images_without_classes():
    train, test = few(quick())
    test.labels_I = None
    with pytest.raises(ValueError, match="images with classes to fine-tune"):
        classes_of(train, test)


def test_unreadable_training_images_are_put_up_with_as_the_setting_says(tmp_path):
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (40, 40)).save(tmp_path / part / label / f"{k}.png")
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"damaged")
    for share, allowed in ((0.5, True), (0, False)):
        config = replace(RECIPES["digits"](), data=f"folder:{tmp_path}", unreadable=share)
        train, _ = samples_of(config)
        with nullcontext() if allowed else pytest.raises(DataError, match="at most 0 unreadable"):
            train.load(0, 0)


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_colours_of_no_bits_are_black(bits):
    """What the strongest posterising of RandAugment asks for: Pillow 13 refuses it."""
    config = replace(RECIPES["mae-vit-b"](), train_size=8)
    (augment,) = (x for x in training_transform(config).transform.transforms if hasattr(x, "ops"))
    (operation,) = (op for op in augment.ops if op.name == "PosterizeIncreasing")
    levels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    found = np.asarray(operation.aug_fn(Image.fromarray(levels), bits))
    np.testing.assert_array_equal(found, levels & (0xFF << (8 - bits) & 0xFF))
