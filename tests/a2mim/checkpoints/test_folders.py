import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.folders import files_in, weights_in
from a2mim.checkpoints.load import describe, fill, load_model
from a2mim.checkpoints.save import save_weights

OPTIONS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
LOOK = {
    "input_size": [3, 48, 48],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4] * 3,
    "crop_pct": 0.9,
    "interpolation": "bilinear",
}
ABOUT = {"architecture": "resnet18", "model_args": OPTIONS, "pretrained_cfg": LOOK}


def network(seed, classes=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("resnet18", num_classes=classes, **OPTIONS).eval()


def put(folder, name, seed=0, classes=0, about="json"):
    folder.mkdir(parents=True, exist_ok=True)
    model = network(seed, classes)
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    told = {**ABOUT, "num_classes": classes}
    (folder / (f"{name}.json" if about == "json" else about)).write_text(json.dumps(told))
    return model


def same(model, loaded):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), model(images))
    config = loaded.data_config
    assert config["input_size"] == (3, 48, 48)
    assert config["mean"] == (0.1, 0.2, 0.3)
    assert config["crop_pct"] == 0.9
    assert loaded.report.assumed == ()


def test_a_run_of_pretraining(tmp_path):
    """The last weights and the averaged ones, each with its own normalisation."""
    run = tmp_path / "run"
    last, averaged = put(run, "backbone"), put(run, "backbone-ema", seed=1)
    (run / "config.json").write_text('{"config": {}, "commit": ""}')
    same(last, load_model(run))
    same(averaged, load_model(run, ema="ema"))
    same(averaged, load_model(run / "backbone-ema.safetensors"))
    assert load_model(run).report.source == str(run)
    assert load_model(run, ema="ema").report.variant == "ema"
    assert describe(run).sha256 == load_model(run / "backbone.safetensors").report.sha256
    module = network(2)
    fill(module, run)
    assert torch.equal(module.conv1.weight, last.conv1.weight)
    for file in run.glob("*-ema*"):
        file.unlink()
    with pytest.raises(WeightsError):
        load_model(run, ema="ema")


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_of_timm(prefix, tmp_path):
    model = put(tmp_path / "timm", "model", about="config.json")
    name = f"{prefix}{tmp_path}/timm"
    same(model, load_model(name))
    by_timm = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True)
    same(by_timm.eval(), load_model(name))
    weights = load_file(tmp_path / "timm" / "model.safetensors")
    torch.save(weights, tmp_path / "timm" / "pytorch_model.bin")
    (tmp_path / "timm" / "model.safetensors").unlink()
    same(model, load_model(name))


def test_what_timm_itself_writes(tmp_path):
    """With a fixed size, which timm makes the network for, and settings that are not of images."""
    options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, **options).eval()
    cfg = {**model.pretrained_cfg, **LOOK, "input_size": [3, 32, 32], "fixed_input_size": True}
    about = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": options,
        "pretrained_cfg": cfg,
    }
    save_weights(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(about))
    loaded = load_model(tmp_path)
    assert (loaded.report.classes, loaded.report.image_size) == (5, 32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), timms(images))


def test_shards_in_a_folder(tmp_path):
    """A folder of shards is of one network."""
    model = put(tmp_path, "model", about="config.json")
    state, where = load_file(tmp_path / "model.safetensors"), {}
    (tmp_path / "model.safetensors").unlink()
    for k, names in enumerate((list(state)[::2], list(state)[1::2])):
        save_file({name: state[name] for name in names}, tmp_path / f"model-{k}.safetensors")
        where |= dict.fromkeys(names, f"model-{k}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    same(model, load_model(tmp_path))
    same(model, load_model(index))
    (tmp_path / "config.json").unlink()
    assert files_in(tmp_path) == []


def test_an_adapter_is_no_network(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"a.lora_A.weight": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"an adapter of PEFT; merge it"):
        load_model(tmp_path)


def test_a_run_of_fine_tuning(tmp_path):
    """One network is taken; of several, one has to be named."""
    run = tmp_path / "run"
    model = put(run / "part-000" / "seed-0", "model", classes=4)
    same(model, load_model(run))
    assert load_model(run).report.classes == 4
    other = put(run / "part-000" / "seed-1", "model", seed=1, classes=4)
    with pytest.raises(WeightsError) as caught:
        load_model(run)
    assert "part-000/seed-1" in str(caught.value)
    same(other, load_model(run / "part-000" / "seed-1"))


def test_folders_that_are_no_runs(tmp_path):
    finished, unfinished = tmp_path / "finished", tmp_path / "unfinished"
    (unfinished / "checkpoints").mkdir(parents=True)
    finished.mkdir()
    (finished / "rows.csv").write_text("run\n")
    for folder in (tmp_path, finished, unfinished, f"local-dir:{tmp_path}/none"):
        with pytest.raises(WeightsError) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


def test_damaged_descriptions(tmp_path):
    put(tmp_path, "model", about="config.json")
    for text in ("{", '{"architecture": "resnet18"}', json.dumps({**ABOUT, "model_args": 3})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(WeightsError):
            load_model(tmp_path)
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "backbone.safetensors")
    assert weights_in(tmp_path).name == "backbone.safetensors"
