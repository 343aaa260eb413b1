import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.commands import probe as probe_module
from a2mim.commands.probe import probe
from a2mim.data.folders import DataError
from a2mim.measure.networks import load
from a2mim.messages import UsageError
from a2mim.recipes.finetune import RECIPES
from a2mim.runs.table import read_table
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.weights import WeightsConfig

OPTIONS = {
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
}


def saved(folder, name, seed, classes=0):
    """Weights of a tiny ViT, and beside them what ``a2mim pretrain`` writes."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=classes, **OPTIONS)
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    about = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, **OPTIONS},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0},
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


@pytest.fixture
def config(tmp_path):
    return ProbeConfig(
        (saved(tmp_path, "a", 1), saved(tmp_path, "b", 2)),
        data="digits",
        max_train=200,
        max_test=100,
        weight_decays=(1e-3, 1e-2, 1e-1),
        workers=0,
        device="cpu",
        out=tmp_path / "out",
    )


def table(config):
    return (config.out / "rows.csv").read_bytes()


def test_a_linear_probe_and_all_that_explains_it(config, capsys):
    probe(replace(config, seeds=2))
    rows = read_table(config.out / "rows.csv")
    top1 = rows.query("measure == 'linear_top1'")
    assert top1[["weights", "seed"]].values.tolist() == [
        [name, seed] for name in ("a.safetensors", "b.safetensors") for seed in (0, 1)
    ]
    assert (top1["value"] > 0.1).all()  # chance
    assert set(top1["at"]) == {200}
    assert set(top1["samples"]) == {100}
    assert top1["setting"].str.contains("pool=pooled normalise=standardise weight_decay=").all()
    means = rows.query("measure == 'linear_top1_mean'")["value"].to_numpy()
    np.testing.assert_allclose(means, top1["value"].to_numpy().reshape(2, 2).mean(1), rtol=1e-6)
    predicted = pd.read_csv(config.out / "predictions.csv")
    right = (predicted["label"] == predicted["predicted"]).groupby(
        [predicted["weights"], predicted["seed"]]
    )
    np.testing.assert_allclose(right.mean().to_numpy(), top1["value"], rtol=1e-6)
    about = json.loads((config.out / "probe.json").read_text())
    assert about[0]["weights"]["sha256"] != about[1]["weights"]["sha256"]
    assert about[0]["weights"]["source"] == "a.safetensors"
    assert len(about[0]["numbers"][0]["grid"]) == 3
    assert "a.safetensors" in capsys.readouterr().out


@pytest.mark.integration
def test_a_pool_that_pre_training_left_random_is_named(config, tmp_path, capsys):
    """In the table, in the run and on the screen, where features are read through it."""
    described = tmp_path / "a.json"
    about = json.loads(described.read_text())
    described.write_text(json.dumps(about | {"without_gradient": ["attn_pool"]}))
    told = (
        "a.safetensors: its features are read through attn_pool, which got no gradient in "
        "pre-training and is as random as it was made; --pool mean reads the patches instead."
    )
    for pool, idle in (("pooled", True), ("mean", False)):
        one = replace(config, method="knn", pool=pool, out=tmp_path / pool)
        probe(one)
        assert (told in capsys.readouterr().out) == idle
        rows = read_table(one.out / "rows.csv")
        named = rows["setting"].str.contains("without_gradient=attn_pool")
        assert named.tolist() == (idle & (rows["weights"] == "a.safetensors")).tolist()
        label = json.loads((one.out / "config.json").read_text())["config"]
        assert label.get("doubts", []) == ([told] if idle else [])
        about = json.loads((one.out / "probe.json").read_text())
        assert about[0]["numbers"][0].get("without_gradient") == (["attn_pool"] if idle else None)


def test_a_finished_run_is_not_measured_again(config, monkeypatch, capsys):
    def unwanted(*_given):
        raise AssertionError("measured again")

    config = replace(config, method="knn")
    probe(config)
    monkeypatch.setattr(probe_module, "judge", unwanted)
    capsys.readouterr()
    probe(config)
    said = capsys.readouterr().out.splitlines()
    assert f"finished before: {config.out}; --no-resume measures it again" in said
    with pytest.raises(AssertionError, match="measured again"):
        probe(replace(config, resume=False))


@pytest.mark.integration
@pytest.mark.parametrize("method", ["knn", "linear"])
def test_batches_workers_and_resume_change_nothing(config, method, monkeypatch):
    whole = replace(config, method=method, out=config.out.with_name("whole"))
    probe(whole)
    odd = replace(config, method=method, batch_size=17, workers=2)
    judge = probe_module.judge

    def stopped(config, name, loaded, part, device):
        if part.name == "part-001":
            raise KeyboardInterrupt
        return judge(config, name, loaded, part, device)

    monkeypatch.setattr(probe_module, "judge", stopped)
    with pytest.raises(KeyboardInterrupt):
        probe(odd)
    assert not odd.out.exists()
    (part,) = odd.out.parent.glob("out.*.partial/part-000")
    (part / "notes.txt").write_text("mine")
    judged = []
    monkeypatch.setattr(
        probe_module, "judge", lambda *given: judged.append(given[3].name) or judge(*given)
    )
    probe(odd)
    assert judged == ["part-001"]  # the first is not judged again
    assert table(odd) == table(whole)
    assert [str(path.relative_to(odd.out)) for path in odd.out.rglob("part-*/*")] == [
        "part-000/notes.txt"
    ]


def test_images_that_change_are_never_mixed(config, tmp_path, monkeypatch):
    """Killed, changed, and called again, it writes what a new run does."""
    folder, rng = tmp_path / "set", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for k in range(count):
            path = folder / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    config = replace(config, data=f"folder:{folder}", method="knn", neighbours=3)
    judge = probe_module.judge

    def stopped(config, name, loaded, part, device):
        if part.name == "part-001":
            raise KeyboardInterrupt
        return judge(config, name, loaded, part, device)

    with monkeypatch.context() as patch:
        patch.setattr(probe_module, "judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            probe(config)
    for path in folder.glob("train/a/*.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    probe(config)
    whole = replace(config, out=tmp_path / "whole")
    probe(whole)
    for file in ("rows.csv", "predictions.csv"):
        assert (config.out / file).read_bytes() == (whole.out / file).read_bytes()
    assert len(list(tmp_path.glob("out.*.partial"))) == 1  # of the images that were


def test_the_published_recipe_and_a_choice_of_rates(config):
    sgd = replace(config, method="sgd", recipe="cifar100-resnet50", lrs=(0.1, 1.0), max_train=500)
    probe(replace(sgd, checkpoints=sgd.checkpoints[:1]))
    rows = read_table(config.out / "rows.csv")
    assert "recipe=cifar100-resnet50 lr=" in rows["setting"][0]


@pytest.mark.integration
def test_readouts_differ(config):
    tables = []
    for number, readout in enumerate(({}, {"pool": "mean", "block": 1, "final_norm": False})):
        out = config.out.with_name(f"out{number}")
        probe(replace(config, method="knn", out=out, **readout))
        tables.append(read_table(out / "rows.csv"))
    assert "block=1 final_norm=no" in tables[1]["setting"][0]
    assert tables[0]["value"].tolist() != tables[1]["value"].tolist()


@pytest.mark.integration
def test_fine_tuning_by_a_recipe(config):
    settings = {"epochs": 2, "warmup": 0, "batch_size": 128, "workers": 0}
    tuned = replace(
        config,
        checkpoints=config.checkpoints[:1],
        method="finetune",
        recipe="digits",
        finetune=replace(RECIPES["digits"](), **settings),
        max_train=None,
        max_test=None,
        seeds=2,
    )
    probe(tuned)
    rows = read_table(config.out / "rows.csv")
    mean = rows.query("measure == 'finetune_top1_mean'")["value"].item()
    each = rows.query("measure == 'finetune_top1' and at == 2")["value"]
    assert mean == pytest.approx(each.mean())
    # One of them is judged again, by the name of its folder.
    one = config.out / "part-000" / "seed-1"
    with pytest.raises(UsageError):
        load(str(config.out), WeightsConfig())
    again = replace(
        config,
        checkpoints=(str(one),),
        method="clean",
        max_test=None,
        out=config.out.with_name("again"),
    )
    probe(again)
    found = read_table(again.out / "rows.csv").set_index("measure")
    assert found["value"]["clean_top1"] == pytest.approx(each.iloc[1])
    assert set(found["weights"]) == {f"{config.out.name}/part-000/seed-1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        ({"data": ""}, "--method linear, got none"),
        ({"data": "digitss"}, "did you mean digits?"),
        ({"data": "tar:x"}, "expected --data NAME or folder:PATH, with classes"),
        ({"method": "clean", "data": ""}, "either --images DIR or --data for --method clean"),
        ({"method": "sgd", "recipe": "in1k"}, "did you mean in1k-vit"),
        ({"method": "finetune", "recipe": "digit"}, "did you mean digits"),
        ({"method": "finetune", "recipe": "digits"}, "all images for --method finetune"),
        ({"seeds": 0}, "--seeds of at least 1, got 0"),
        ({"method": "knn", "seeds": 2}, "one seed for --method knn"),
        ({"method": "knn", "neighbours": 1000}, "1 to 200 neighbours"),
        ({"block": 1}, "'pooled' without a block"),
        ({"pool": "class_token"}, "class"),
        ({"pool": "mean", "block": 9}, "a block from 1 to 2"),
        ({"weights": WeightsConfig(("depth=3",))}, "to fit vit_tiny_patch16_224 in every tensor"),
        ({"checkpoints": ("nowhere.safetensors",)}, "nowhere.safetensors"),
    ],
)
def test_bad_input(config, changes, message, tmp_path):
    with pytest.raises((DataError, UsageError)) as caught:
        probe(replace(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()
