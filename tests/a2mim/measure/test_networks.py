import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm import create_model

from a2mim.checkpoints.load import LoadReport
from a2mim.data.folders import DataError, read_pixels
from a2mim.data.sources import Source
from a2mim.measure import networks as module
from a2mim.measure.networks import (
    Networks,
    called,
    check_different,
    identity,
    kept,
    load,
    model_options,
    models,
    nicknames,
    recorded,
    short,
    subject_of,
    without_path,
    write_reports,
)
from a2mim.measure.scores import named_networks
from a2mim.messages import UsageError
from a2mim.settings.weights import ModelsConfig, WeightsConfig


def saved(tmp_path, name="test_resnet", classes=10):
    torch.manual_seed(1)
    model = create_model(name, num_classes=classes).eval()
    path = tmp_path / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("classes", [10, 1000, 0])
def test_a_file_tells_its_number_of_classes(tmp_path, classes):
    model, path = saved(tmp_path, classes=classes)
    name = f"test_resnet={path}"
    subject = subject_of(name, WeightsConfig(), "cpu", headless=classes == 0)
    image = subject.transform(Image.new("RGB", (300, 200), (200, 10, 90)))[None]
    assert image.shape == (1, 3, *model.default_cfg["input_size"][1:])
    with torch.inference_mode():
        torch.testing.assert_close(subject.model(image), model(image))
    assert (subject.name, subject.weights) == ("test_resnet", "test_resnet.safetensors")
    assert subject.report.classes == classes
    assert not subject.model.training


def test_the_classifier_can_be_taken_off_but_not_invented(tmp_path):
    model, path = saved(tmp_path)
    subject = subject_of(f"test_resnet={path}", WeightsConfig(), "cpu", headless=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(subject.model(images), expected)
    _, path = saved(tmp_path, classes=0)
    with pytest.raises(UsageError, match="measure features with --reward projection"):
        subject_of(f"test_resnet={path}", WeightsConfig(), "cpu")


def test_options_and_normalisation(tmp_path):
    assert model_options(["in_chans=3", "global_pool=max"]) == {"in_chans": 3, "global_pool": "max"}
    _, path = saved(tmp_path)
    grey = WeightsConfig(("global_pool=max",), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)
    subject = subject_of(f"test_resnet={path}", grey, "cpu")
    assert subject.model.global_pool.pool_type == "max"
    image = subject.transform(Image.new("RGB", (300, 200), (255, 0, 0)))
    np.testing.assert_allclose(image[:, 0, 0], [2, -2, -2])
    for bad in ("pad_type", "=same", "a b=1"):
        with pytest.raises(UsageError, match="expected --model-kwargs NAME=VALUE, got"):
            model_options([bad])
    with pytest.raises(UsageError, match="flavour"):
        load(f"test_resnet={path}", WeightsConfig(("flavour=sweet",)))
    for bad, told in (
        (WeightsConfig(mean=(0.5,)), "of 3 numbers for images of 3 channels, got 1 and 3"),
        (WeightsConfig(std=(0.5, 0.0, 0.5)), "above 0"),
        (WeightsConfig(std=(0.5, math.inf, 0.5)), "finite"),
    ):
        with pytest.raises(UsageError, match=told):
            load(f"test_resnet={path}", bad)


def test_networks_of_other_channels_see_such_images(tmp_path):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (160, 160, 4), np.uint8)
    Image.fromarray(levels[..., :3]).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", levels)

    def seen(file, **look):
        config = WeightsConfig(crop_pct=1.0, **look)
        subject = subject_of("untrained:test_resnet", config, "cpu", headless=True)
        image = subject.see(Source("a", partial(read_pixels, tmp_path / file), None))
        fresh = subject.untrained(1)
        with torch.inference_mode():
            assert subject.model(image[None]).shape == fresh(image[None]).shape
        return image

    grey = np.asarray(Image.fromarray(levels[..., :3]).convert("L")) / 255
    expected = (grey - 0.5) / 0.5
    found = seen("a.png", model_kwargs=("in_chans=1",))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    four = {"model_kwargs": ("in_chans=4",), "mean": (0.5,) * 4, "std": (0.1, 0.2, 0.3, 0.4)}
    expected = (np.moveaxis(levels, 2, 0) / 255 - 0.5) / np.reshape(four["std"], (4, 1, 1))
    np.testing.assert_allclose(seen("a.npy", **four), expected, atol=1e-5)
    with pytest.raises(DataError, match=r"a\.png: expected 4 channels, got 3"):
        seen("a.png", **four)
    with pytest.raises(UsageError, match="of 4 numbers for images of 4 channels"):
        seen("a.npy", model_kwargs=("in_chans=4",))


def test_names_in_tables(tmp_path):
    _, path = saved(tmp_path)
    reports = [
        load(name, WeightsConfig()).report
        for name in (f"test_resnet={path}", "untrained:test_resnet")
    ]
    assert [called(report) for report in reports] == [
        "test_resnet.safetensors",
        "untrained, seed 0",
    ]
    check_different(reports)
    with pytest.raises(
        UsageError,
        match=r"every network once, got test_resnet test_resnet\.safetensors twice; .* rename the",
    ):
        check_different([*reports, reports[0]])


def test_names_of_folders_are_those_of_files_or_of_timm(tmp_path):
    _, path = saved(tmp_path)
    names = (f"test_resnet={path}", "untrained:test_vit")
    reports = [load(name, WeightsConfig()).report for name in names]
    assert nicknames(reports) == ["test_resnet", "test_vit"]
    path.rename(tmp_path / "mine.safetensors")
    report = load(f"test_resnet={tmp_path / 'mine.safetensors'}", WeightsConfig()).report
    assert nicknames([report]) == ["mine"]


def test_another_look_is_another_network(tmp_path):
    _, path = saved(tmp_path)
    one, two = (
        identity(str(path), load(f"test_resnet={path}", WeightsConfig(crop_pct=crop)).report)
        for crop in (0.9, 0.8)
    )
    assert one != two


def test_files_that_are_all_called_the_same_are_called_with_their_folder(tmp_path, monkeypatch):
    """As ``a2mim pretrain`` and others write them."""

    def name(source):
        return called(LoadReport(str(source), "a2mim", "vit"))

    runs = [tmp_path / run / "backbone.safetensors" for run in ("runA", "runB")]
    check_different([LoadReport(str(path), "a2mim", "vit") for path in runs])
    assert [name(path) for path in runs] == [
        f"{run}/backbone.safetensors" for run in ("runA", "runB")
    ]
    for file in ("model_best.pth.tar", "pytorch_model.bin", "last.ckpt", "checkpoint.pth"):
        assert name(f"x/runA/{file}") == f"runA/{file}"
    assert name("x/runA/mae.pth") == "mae.pth"
    monkeypatch.chdir(tmp_path)
    assert name("model.pth") == f"{tmp_path.name}/model.pth"


def test_runs_are_called_as_their_folder(tmp_path):
    """And what lies in them with the way there; nothing of these names is taken for an ending."""
    run = tmp_path / "lr=0.1"
    for inside in (".", "timm", "exports/epoch-0020", "part-000/seed-1"):
        (run / inside).mkdir(parents=True, exist_ok=True)
        model = create_model("test_resnet", num_classes=0)
        save_file(model.state_dict(), run / inside / "model.safetensors")
        about = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1] * 3}}
        (run / inside / "model.json").write_text(json.dumps({**about, "model_args": {}}))
    (run / "part-000" / "seed-1").rename(run / "seed-1")  # else the run would be fine-tuning's
    marks = dict.fromkeys(("config", "commit", "versions", "machine"))
    (run / "config.json").write_text(json.dumps(marks))
    (run / "rows.csv").touch()
    (tmp_path / "latest").symlink_to(run)
    names = ("", "/timm", "/exports/epoch-0020", "/seed-1")
    reports = [load(f"{run}{name}", WeightsConfig()).report for name in names]
    assert [called(report) for report in reports] == [
        *("lr=0.1", "lr=0.1", "lr=0.1/epoch-0020", "lr=0.1/seed-1")
    ]
    assert [short(report) for report in reports] == [called(report) for report in reports]
    assert kept(reports[2])["source"] == "lr=0.1/epoch-0020"
    for name in (f"{tmp_path}/latest", f"local-dir:{run}"):
        report = load(name, WeightsConfig()).report
        assert (called(report), report.look["mean"]) == ("lr=0.1", (0.1,) * 3)
    with pytest.raises(UsageError):
        load(str(tmp_path), WeightsConfig())


def test_what_is_kept_names_no_folder_of_the_machine(tmp_path):
    for source, expected in (
        (f"{tmp_path}/a.pth", "a.pth"),
        (f"untrained:{tmp_path}/nets.py:net", "untrained:nets.py:net"),
        ("untrained:resnet50", "untrained:resnet50"),
        ("hf-hub:user/net", "hf-hub:user/net"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
    ):
        assert without_path(source) == expected
    write_reports([LoadReport(f"{tmp_path}/a.pth", "plain", "vit")], tmp_path / "weights.json")
    assert str(tmp_path) not in (tmp_path / "weights.json").read_text()


def test_our_own_checkpoints_tell_their_network(tmp_path):
    model, path = saved(tmp_path, classes=0)
    about = {
        "architecture": "test_resnet",
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.1] * 3, "std": [0.2] * 3},
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    loaded = load(str(path), WeightsConfig())
    assert loaded.data_config["mean"] == (0.1,) * 3
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(images), model(images))


def test_what_the_models_command_says(tmp_path, capsys):
    models(ModelsConfig())
    assert "openmixup" in capsys.readouterr().out
    models(ModelsConfig(find="vit_base_patch16_224.mae"))
    assert capsys.readouterr().out == "vit_base_patch16_224.mae\n"
    _, path = saved(tmp_path)
    models(ModelsConfig((f"test_resnet={path}", "untrained:test_resnet")))
    out = capsys.readouterr().out
    assert "-> test_resnet(num_classes=10)" in out
    assert "random weights of seed 0" in out
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(UsageError, match=r"page\.pth"):
        models(ModelsConfig((str(tmp_path / "page.pth"), f"test_resnet={path}")))
    assert "-> test_resnet" in capsys.readouterr().out  # the others are told all the same
    with pytest.raises(UsageError, match="none has 'no such network'"):
        models(ModelsConfig(find="no such network"))
    with pytest.raises(UsageError, match=r"did you mean test_resnet.*CODE\.py:FUNCTION=FILE"):
        models(ModelsConfig((f"testresnet={path}",)))
    own = WeightsConfig(per_network=((path.name, "mean=.5,.5,.5"),))
    models(ModelsConfig((f"test_resnet={path}",), weights=own))
    assert "mean 0.5 0.5 0.5" in capsys.readouterr().out
    with pytest.raises(UsageError, match="one of the checkpoints"):
        models(ModelsConfig(("untrained:test_resnet",), weights=own))
    odd = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(2)}, odd)
    with pytest.raises(UsageError, match="here: NETWORK=FILE"):
        models(ModelsConfig((str(odd),)))


def test_settings_of_one_network_reach_it_alone_and_its_name_the_tables(tmp_path):
    _, path = saved(tmp_path)
    ours = ("test_resnet.safetensors", "name=Ours", "std=.2,.2,.2", "global_pool=max")
    config = WeightsConfig(per_network=(ours,))
    one = subject_of(f"test_resnet={path}", config, "cpu")
    other = subject_of("untrained:test_resnet", config, "cpu")
    assert (one.weights, other.weights) == ("Ours", "untrained, seed 0")
    assert one.colours[1] == (0.2,) * 3
    assert other.colours[1] == (0.5,) * 3
    assert one.model.global_pool.pool_type == "max"
    assert other.model.global_pool.pool_type == "avg"
    (network, _) = named_networks([one.report, other.report])
    assert network.title == "Ours"
    assert recorded(WeightsConfig()).keys() == vars(WeightsConfig()).keys() - {
        "per_network",
        "apart",
    }
    folder = WeightsConfig(per_network=((str(path), "name=Ours"),))
    assert recorded(folder)["per_network"] == [("test_resnet.safetensors", "name=Ours")]


def test_networks_are_loaded_once_as_far_as_they_are_kept(monkeypatch):
    names, loads, real = ("untrained:test_vit", "untrained:test_resnet"), [], module.load

    def counting(name, config):
        loads.append(name)
        return real(name, config)

    monkeypatch.setattr(module, "load", counting)
    networks = Networks(WeightsConfig())
    sights = networks.sights(names)
    assert [(sight.height, sight.classes) for sight in sights] == [(160, 1000)] * 2
    tried = [networks(name) for name in names]
    assert all(networks.take(name) is one for name, one in zip(names, tried, strict=True))
    assert loads == list(names)
    networks.take(names[0])
    assert len(loads) == 3  # taken before
    monkeypatch.setattr(module, "KEPT", tried[0].report.parameters)
    loads.clear()
    few = Networks(WeightsConfig())
    for name in (*names, *names):
        few(name)
    assert loads == [*names, names[1]]
