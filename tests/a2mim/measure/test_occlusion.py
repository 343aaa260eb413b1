import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from safetensors.torch import save_file

from a2mim.data.arrays import subset
from a2mim.data.folders import DataError
from a2mim.data.samples import SomeSamples
from a2mim.data.sources import labelled_samples
from a2mim.measure import occlusion as module
from a2mim.measure.occlusion import GRIDLESS, occlusion
from a2mim.measure.occlusion_tables import read_images_table, summary
from a2mim.messages import UsageError
from a2mim.probes.features import extract
from a2mim.probes.linear import linear_probe
from a2mim.runs.table import read_table
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.weights import WeightsConfig
from interactions.occlusion import curves as summaries
from interactions.occlusion.masks import OCCLUDERS, TENTHS, Scene
from interactions.occlusion.predictions import occlude
from interactions.occlusion.saliency import from_attribution
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap, superpixels

OPTIONS = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
COUNT = 20
SALIENT = {"occluder": ("salient",)}
WIDE = WeightsConfig(("img_size=(96, 160)", "num_classes=10"))


def saved(folder, name, seed, classes=10, mean=0.5, crop_pct=1.0):
    """Weights of a tiny ViT, and beside them what ``a2mim pretrain`` writes."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=classes, **OPTIONS)
    if classes:
        torch.nn.init.normal_(model.head.weight)  # timm's hardly looks at the image
    path = folder / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    about = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, **OPTIONS},
        "pretrained_cfg": {"mean": [mean] * 3, "std": [0.25] * 3, "crop_pct": crop_pct},
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


@pytest.fixture
def config(tmp_path):
    return OcclusionConfig(
        (saved(tmp_path, "a", 1), saved(tmp_path, "b", 2)),
        data="digits",
        count=COUNT,
        grid=4,
        fractions=(0.0, 0.3, 0.8),
        device="cpu",
        out=tmp_path / "out",
    )


def images_of(config, number, occluder="random"):
    (path,) = (config.out / "images").glob(f"{number:02d}-*-{occluder}.csv.gz")
    return read_images_table(path)


def values(rows, measure, weights):
    found = rows[(rows["measure"] == f"occlusion_{measure}") & (rows["weights"] == weights)]
    return found["value"].to_numpy()


def written(config):
    """The bytes of all results; the label knows the time that the run took."""
    files = [path for path in sorted(config.out.rglob("*")) if path.is_file()]
    return {
        path.relative_to(config.out).as_posix(): path.read_bytes()
        for path in files
        if path.name != "config.json"
    }


def digits(mean=0.5, count=COUNT):
    """The test images of a run, normalised as by :func:`saved`, their classes and names."""

    def augment(image_CHW, generator):
        image_CHW = torch.nn.functional.interpolate(image_CHW[None].float(), 32)[0]
        return (image_CHW / 255 - mean) / 0.25

    samples = labelled_samples("digits", augment)[1]
    indices = subset(len(samples), count, 0)
    images = torch.stack([samples.load(k, 0) for k in indices])
    return images, samples.labels_I[indices], [samples.names[k] for k in indices]


def test_the_tables_are_what_the_library_measures(config, capsys, drawn):
    occlusion(replace(config, repeats=2, occluder=("random", "block")))
    rows = read_table(config.out / "rows.csv")
    images, labels, names = digits()
    expected = []
    for number, name in enumerate("ab"):
        path = config.checkpoints[number]
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, num_classes=10, checkpoint_path=path, **OPTIONS
        ).eval()
        expected.append(
            occlude(
                *(model, images, labels, PatchGrid(4, 4), OCCLUDERS["random"]),
                fractions=config.fractions,
                repeats=2,
                names=names,
            )
        )
        found = images_of(config, number)
        pd.testing.assert_frame_equal(found, expected[-1], rtol=1e-4, atol=1e-5)
        curves = summaries.by_fraction(found).set_index("measure")
        random = rows[rows["setting"].str.contains(r"occluder=random.*own$")]
        weights = f"{name}.safetensors"
        for ours, theirs in (("top1", "correct"), ("agreement", "agreement"), ("ece", "ece")):
            for end, column in (("", "estimate"), ("_low", "low"), ("_high", "high")):
                got = values(random, ours + end, weights)
                np.testing.assert_allclose(got, curves.loc[theirs, column], rtol=1e-6)
        scores = summaries.scores(found).set_index("score")["estimate"]
        for score in ("area", "relative", "half"):
            got = values(random, f"top1_{score}", weights)
            np.testing.assert_allclose(got, scores[[score]], rtol=1e-6)
        variance = summaries.mask_variance(found)["masks"]
        np.testing.assert_allclose(values(random, "top1_variance_masks", weights), variance)
    # What was really hidden: 5 and 13 of 16 patches.
    assert random["at"].unique().tolist() == [0, 5 / 16, 13 / 16]
    minus = rows[rows["setting"].str.contains("occluder=random.* minus=vit_tiny_patch16_224 b.saf")]
    compared = summaries.compare(images_of(config, 0), images_of(config, 1))
    for measure, column in (("top1_difference", "difference"), ("top1_p_holm", "p_holm")):
        got = values(minus, measure, "a.safetensors")
        np.testing.assert_allclose(got, compared[column], rtol=1e-6)
    assert set(rows["setting"].str.extract(r"occluder=(\S+)")[0]) == {"random", "block"}
    assert set(rows["samples"]) == {COUNT}
    assert sorted(path.name for path in config.out.iterdir()) == [
        *("config.json", "images", "occlusion.json"),
        *(f"occlusion.{kind}" for kind in ("pdf", "png", "svg")),
        *("rows.csv", "summary.csv", "summary_columns.csv"),
    ]
    assert len(list((config.out / "images").iterdir())) == 4
    about = json.loads((config.out / "occlusion.json").read_text())
    assert [one["probe"] for one in about] == [None, None]
    assert summary(rows) in capsys.readouterr().out


def test_a_finished_run_is_not_measured_again(config, monkeypatch, capsys):
    def unwanted(*_given):
        raise AssertionError("measured again")

    occlusion(config)
    monkeypatch.setattr(module, "_measure", unwanted)
    capsys.readouterr()
    occlusion(config)
    said = capsys.readouterr().out.splitlines()
    assert f"finished before: {config.out}; --no-resume measures it again" in said
    with pytest.raises(AssertionError, match="measured again"):
        occlusion(replace(config, resume=False))


@pytest.mark.integration
@pytest.mark.parametrize("batch_size", [0, 7])
def test_an_interrupted_run_goes_on_to_the_same_bytes(config, batch_size, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    config = replace(config, batch_size=batch_size)
    occlusion(config)
    again = replace(config, out=tmp_path / "again")
    real, parts = module.write_whole, []

    def dying(path, content):
        if len(parts) == 4:
            raise KeyboardInterrupt
        real(path, content)
        parts.append(path.name)

    monkeypatch.setattr(module, "write_whole", dying)
    with pytest.raises(KeyboardInterrupt):
        occlusion(again)
    assert not again.out.exists()
    before = list(parts)
    (work,) = tmp_path.glob("again.*.partial")
    (work / "parts" / "notes.txt").write_text("mine")

    def counting(path, content):
        real(path, content)
        parts.append(path.name)

    monkeypatch.setattr(module, "write_whole", counting)
    occlusion(again)
    assert [path.name for path in (again.out / "parts").iterdir()] == ["notes.txt"]
    (again.out / "parts" / "notes.txt").unlink()
    assert before[-1] == "001-random-00000.csv.gz"
    assert parts[len(before) :] == [
        *("001-random-00001.csv.gz", "001-random-00002.csv.gz", "occlusion.json")
    ]
    assert written(again) == written(config)


def brighter(config):
    path = config.images / "3.png"
    Image.open(path).point(lambda level: level // 2 + 128).save(path)


def relabelled(config):
    path = config.images / "labels.csv"
    path.write_text(path.read_text().replace("3.png,3", "3.png,2"))


@pytest.mark.parametrize("change", [brighter, relabelled])
def test_inputs_that_change_are_never_mixed(config, change, tmp_path, monkeypatch):
    """Killed, changed, and called again, it writes what a new run does; the earlier one stays."""
    monkeypatch.setattr(module, "CHUNK", 4)
    images, one = photographs(tmp_path), config.checkpoints[:1]
    config = replace(config, data="", images=images, checkpoints=one)
    occlusion(config)
    before = written(config)
    killed = replace(config, out=tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            occlusion(killed)
    change(config)
    for out in (config, killed):
        occlusion(out)
    assert written(killed) == written(config)
    assert written(config)["rows.csv"] != before["rows.csv"]
    assert written(replace(config, out=tmp_path / "out.previous")) == before


def stop(*_, **__):
    raise KeyboardInterrupt


def test_what_a_run_wrote_is_no_image_of_the_next(config, tmp_path, monkeypatch):
    """The folder of images is the one that is worked in."""
    monkeypatch.chdir(photographs(tmp_path))
    figure = Path("0.png").read_bytes()
    monkeypatch.setattr(module, "save", lambda _, run: (run / "occlusion.png").write_bytes(figure))
    config = replace(config, data="", images=Path(), label="prediction", out=None)
    outs = []
    for seed in (0, 0, 1):
        occlusion(replace(config, seed=seed))
        outs.append(Path("results/occlusion/latest").resolve())
        assert (outs[-1] / "occlusion.png").exists()
        assert set(read_table(outs[-1] / "rows.csv")["samples"]) == {6}
    assert outs[0] == outs[1] != outs[2]
    assert outs[0].name.startswith("a-b-")
    assert {path.name for path in outs[0].parent.iterdir()} == {
        *(out.name for out in outs),
        "latest",
    }


@pytest.mark.integration
def test_batches_and_chunks_change_nothing_but_rounding(config, monkeypatch):
    tables = []
    for chunk, batch_size in ((64, 1), (64, 0), (6, 5)):
        monkeypatch.setattr(module, "CHUNK", chunk)
        one = replace(config, batch_size=batch_size, fill="uniform_noise", resume=False)
        occlusion(one)
        tables.append(images_of(one, 1))
    for table in tables[1:]:
        exact = table.select_dtypes(exclude="float").columns
        pd.testing.assert_frame_equal(table[exact], tables[0][exact])
        pd.testing.assert_frame_equal(table, tables[0], rtol=5e-7, atol=2e-6)  # float32


@pytest.mark.integration
@pytest.mark.parametrize("fill", ["zero", "token_drop"])
def test_an_encoder_is_judged_by_a_probe_of_clean_images(config, fill, tmp_path):
    path = saved(tmp_path, "encoder", 3, classes=0)
    one = replace(config, checkpoints=(path,), fill=fill, probe_max_train=60)
    occlusion(one)
    rows = read_table(config.out / "rows.csv")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=0, checkpoint_path=path, **OPTIONS
    )

    def augment(image_CHW, generator):
        return (torch.nn.functional.interpolate(image_CHW[None].float(), 32)[0] / 255 - 0.5) / 0.25

    train, test = labelled_samples("digits", augment)
    features = [
        extract(model, SomeSamples(samples, subset(len(samples), count, 0)))
        for samples, count in ((train, 60), (test, COUNT))
    ]
    expected = linear_probe(*features)
    assert values(rows, "top1", "encoder.safetensors")[0] == pytest.approx(expected.accuracy)
    assert images_of(one, 0).query("fraction == 0")["predicted"].tolist() == (
        expected.predictions_J.tolist()
    )
    assert rows["setting"].str.contains(f"fill={fill} .* classifier=probe:digits").all()
    about = json.loads((config.out / "occlusion.json").read_text())
    assert about[0]["probe"]["weight_decay"] == expected.chosen
    with pytest.raises(UsageError, match=r"expected --probe-data for .*encoder"):
        occlusion(replace(one, data="", images=photographs(tmp_path), label="prediction"))


def test_predictions_stand_in_for_classes(config, tmp_path, monkeypatch):
    """Pictures without classes, and a network that would not know them; truth is not missed."""
    monkeypatch.setattr(module, "CHUNK", 4)
    folder = photographs(tmp_path)
    labels = folder / "labels.csv"
    (folder / "deep").mkdir()
    (folder / "0.png").rename(folder / "deep" / "0.png")
    labels.write_text(labels.read_text().replace("0.png", "deep/0.png"))
    config = replace(config, data="", images=folder)
    occlusion(config)
    truth = read_table(config.out / "rows.csv")
    labels.unlink()
    with pytest.raises(UsageError, match=r"classes in .*labels\.csv.*or give --label prediction"):
        occlusion(replace(config, label="truth"))
    small = saved(tmp_path, "small", 3, classes=4)
    whole = replace(
        config,
        checkpoints=(config.checkpoints[0], small),
        label="prediction",
        out=tmp_path / "whole",
    )
    occlusion(whole)
    rows = read_table(whole.out / "rows.csv")
    assert rows["setting"].str.contains(" classifier=own label=prediction").all()
    assert not truth["setting"].str.contains("label").any()
    assert not rows["measure"].str.contains("top1|top5|ece|nll|brier|true|kept|drop|over").any()
    for measure in ("agreement", "agreement_high", "kl", "js", "confidence", "class_entropy"):
        np.testing.assert_array_equal(
            values(rows, measure, "a.safetensors"), values(truth, measure, "a.safetensors")
        )
    tables = [images_of(whole, k) for k in (0, 1)]
    assert set(tables[0]["image"]) == {"deep/0.png", *(f"{k}.png" for k in range(1, 6))}
    assert not {"label", "correct", "nll"} & set(tables[0].columns)
    compared = summaries.compare(*tables, "agreement")
    minus = rows[rows["setting"].str.endswith(" minus=vit_tiny_patch16_224 small.safetensors")]
    np.testing.assert_allclose(
        values(minus, "agreement_difference", "a.safetensors"), compared["difference"], rtol=1e-6
    )

    real, parts = module.write_whole, []

    def dying(path, content):
        if len(parts) == 3:
            raise KeyboardInterrupt
        real(path, content)
        parts.append(path.name)

    again = replace(whole, batch_size=3, out=tmp_path / "again")
    monkeypatch.setattr(module, "write_whole", dying)
    with pytest.raises(KeyboardInterrupt):
        occlusion(again)
    assert parts[-1] == "001-random-00000.csv.gz"
    monkeypatch.setattr(module, "write_whole", real)
    occlusion(again)
    resumed = read_table(again.out / "rows.csv")
    pd.testing.assert_frame_equal(resumed, rows, rtol=0, atol=2e-6)


def test_encoders_of_other_families(config, tmp_path):
    """On photographs, with a probe of other images."""
    folder = photographs(tmp_path)
    one = replace(config, checkpoints=("untrained:test_resnet",), data="", images=folder)
    options = module.WeightsConfig(("num_classes=0",), image_size=32)
    occlusion(replace(one, weights=options, probe_data="digits", probe_max_train=40, count=5))
    rows = read_table(config.out / "rows.csv")
    assert set(rows["dataset"]) == {"folder:photos"}
    assert set(rows["samples"]) == {5}
    assert rows["setting"].str.contains("classifier=probe:digits").all()


def photographs(folder):
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["file,class_index"]
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(photos / f"{k}.png")
        lines.append(f"{k}.png,{k}")
    (photos / "labels.csv").write_text("\n".join(lines))
    return photos


def test_saliency_is_that_of_the_images_as_the_salient_network_sees_them(config, tmp_path):
    """Networks of other normalisations see the same masks; those of other cuts are refused."""
    other = saved(tmp_path, "other", 2, mean=0.2)
    salient = replace(
        config,
        checkpoints=(config.checkpoints[0], other),
        occluder=("salient", "non_salient_mass"),
        saliency=saved(tmp_path, "saliency", 5, mean=0.3),
    )
    occlusion(salient)
    masks = [images_of(salient, k, "salient")["mask"] for k in (0, 1)]
    assert masks[0].tolist() == masks[1].tolist()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        num_classes=10,
        checkpoint_path=salient.saliency,
        **OPTIONS,
    ).eval()
    model.blocks[-1].attn.fused_attn = False
    seen = []
    model.blocks[-1].attn.attn_drop.register_forward_hook(lambda _, args, out: seen.append(out))
    images, labels, names = digits(mean=0.3)
    with torch.inference_mode():
        model(images)
    expected = occlude(
        *(lambda images: images.flatten(1)[:, :10], digits()[0], labels, PatchGrid(4, 4)),
        OCCLUDERS["salient"],
        fractions=config.fractions,
        names=names,
        saliency_IN=seen[0][:, 1, 0, 1:].double(),
    )
    assert masks[0].tolist() == expected["mask"].tolist()
    cut = saved(tmp_path, "cut", 2, crop_pct=0.9)
    with pytest.raises(UsageError, match="the same cut of an image"):
        occlusion(replace(salient, checkpoints=(config.checkpoints[0], cut)))


def test_saliency_by_an_attribution(config, tmp_path):
    """It is captum's, of the images as the salient network sees them, and kept for all networks."""
    salient = replace(
        config,
        occluder=("salient",),
        saliency=saved(tmp_path, "saliency", 5, mean=0.3),
        saliency_method="IntegratedGradients",
    )
    occlusion(salient)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        num_classes=10,
        checkpoint_path=salient.saliency,
        **OPTIONS,
    ).eval()
    images, labels, names = digits(mean=0.3)
    maps = [
        IntegratedGradients(model).attribute(image, target=int(model(image).argmax()))
        for image in images.split(1)
    ]
    expected = occlude(
        *(lambda images: images.flatten(1)[:, :10], digits()[0], labels, PatchGrid(4, 4)),
        OCCLUDERS["salient"],
        fractions=config.fractions,
        names=names,
        saliency_IN=from_attribution(torch.cat(maps), PatchGrid(4, 4)),
    )
    for number in (0, 1):
        assert images_of(salient, number, "salient")["mask"].tolist() == expected["mask"].tolist()
    settings = read_table(config.out / "rows.csv")["setting"]
    named = Path(salient.saliency).name  # without folders of this machine
    assert settings.str.contains(f" saliency={named}:IntegratedGradients").all()


def test_a_preset_decides(config):
    sized = replace(
        config,
        checkpoints=("untrained:test_vit",),
        preset="openmixup",
        grid=None,
        fractions=TENTHS,
        weights=module.WeightsConfig(("num_classes=10",), image_size=224),
        count=3,
    )
    occlusion(sized)
    table = images_of(sized, 0, "openmixup")
    assert table["fraction"].max() == 1  # everything hidden
    masks = table.groupby("fraction")["mask"].nunique()
    assert (masks == 1).all()  # all images share their masks
    rows = read_table(config.out / "rows.csv")
    assert rows["setting"][0].startswith("occluder=openmixup grid=14x14 fill=zero repeats=1")


@pytest.mark.parametrize(
    ("grid", "hidden"), [(4, [1, 4, 12, 14]), ("4x8", [3, 9, 25, 28]), ("8x8", [6, 19, 51, 57])]
)
def test_ipvit_has_several_grids(config, grid, hidden):
    """The counts of section 3.1 of the specification at 1, 3, 8 and 9 tenths."""
    preset = replace(config, preset="ipvit", grid=grid, fractions=TENTHS, count=3)
    occlusion(preset)
    table = images_of(preset, 0, "ipvit").query("image == image.iloc[0]")
    rows, cols = (4, 4) if grid == 4 else map(int, grid.split("x"))
    np.testing.assert_allclose(table["hidden"].iloc[[1, 3, 8, 9]], np.divide(hidden, rows * cols))
    settings = read_table(config.out / "rows.csv")["setting"]
    assert settings.str.startswith(f"occluder=ipvit grid={rows}x{cols} fill=black").all()


def test_grids_need_not_be_square(config, tmp_path):
    one = replace(config, grid="4x8")
    occlusion(one)
    images, labels, names = digits()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        num_classes=10,
        checkpoint_path=config.checkpoints[0],
        **OPTIONS,
    ).eval()
    expected = occlude(
        *(model, images, labels, PatchGrid(4, 8), OCCLUDERS["random"]),
        fractions=config.fractions,
        names=names,
    )
    pd.testing.assert_frame_equal(images_of(one, 0), expected, rtol=1e-4, atol=1e-5)
    assert read_table(one.out / "rows.csv")["setting"].str.contains("grid=4x8").all()
    assert json.loads((one.out / "config.json").read_text())["config"]["grid"] == "4x8"
    for grid in (4, "4", "4x4"):  # the same run
        same = replace(config, grid=grid, count=2, out=tmp_path / "same")
        occlusion(same)
        assert json.loads((same.out / "config.json").read_text())["config"]["grid"] == 4
    assert not (tmp_path / "same.previous").exists()


def cut_up(config, tmp_path, **changes):
    """A run on superpixels of networks of other normalisations."""
    other = saved(tmp_path, "other", 2, mean=0.2)
    return replace(
        config,
        checkpoints=(config.checkpoints[0], other),
        grid=None,
        superpixels=9,
        fractions=(0.0, 0.4, 0.8),
        occluder=("random", "mae"),
        count=5,
        **changes,
    )


def test_superpixels_are_those_of_the_pixels_that_networks_see(config, tmp_path):
    config = cut_up(config, tmp_path, repeats=2)
    occlusion(config)
    pixels, labels, names = digits(mean=0, count=5)  # 4 times as large, which is no matter
    maps = {name: superpixels(0.25 * image, 9) for name, image in zip(names, pixels, strict=True)}
    assert all(players.n == 9 for players in maps.values())
    for number, (seed, mean) in enumerate(((1, 0.5), (2, 0.2))):
        path = saved(tmp_path, "again", seed, mean=mean)
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, num_classes=10, checkpoint_path=path, **OPTIONS
        ).eval()
        expected = occlude(
            *(model, digits(mean, count=5)[0], labels, maps, OCCLUDERS["mae"]),
            fractions=config.fractions,
            repeats=2,
            names=names,
        )
        found = images_of(config, number, "mae")
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
    rows = read_table(config.out / "rows.csv")
    assert rows["setting"].str.contains("occluder=(?:random|mae) superpixels=9 fill=zero").all()
    label = json.loads((config.out / "config.json").read_text())["config"]
    assert label["superpixels"] == 9
    assert "grid" not in label


@pytest.mark.integration
def test_superpixels_depend_on_no_chunk_batch_or_interruption(config, tmp_path, monkeypatch):
    config = cut_up(config, tmp_path)
    occlusion(config)
    tables = [images_of(config, k) for k in (0, 1)]
    again = replace(config, batch_size=3, out=tmp_path / "again")
    monkeypatch.setattr(module, "CHUNK", 2)
    real, cuts = module.superpixels, []

    def counting(image, count):
        cuts.append(count)
        return real(image, count)

    def dying(image, count):
        if len(cuts) == 5:  # of both networks on trial, and of the first chunk and a half
            raise KeyboardInterrupt
        return counting(image, count)

    monkeypatch.setattr(module, "superpixels", dying)
    with pytest.raises(KeyboardInterrupt):
        occlusion(again)
    monkeypatch.setattr(module, "superpixels", counting)
    occlusion(again)
    assert len(cuts) == 5 + 2 + 3  # each image is cut once for all networks, and what is left
    for k, table in enumerate(tables):
        found = images_of(again, k)
        assert found["mask"].tolist() == table["mask"].tolist()
        pd.testing.assert_frame_equal(found, table, rtol=0, atol=2e-6)


def test_superpixels_need_the_same_pixels_for_all(config, tmp_path):
    config = cut_up(config, tmp_path)
    cut = saved(tmp_path, "cut", 2, crop_pct=0.9)
    with pytest.raises(UsageError, match=r"same pixels of an image.*crop_pct 1\.0 and 0\.9; give"):
        occlusion(replace(config, checkpoints=(config.checkpoints[0], cut)))


def test_sizes_from_the_hub_are_lists(config, tmp_path):
    config = cut_up(config, tmp_path)
    data = module.load(config.checkpoints[0], config.weights).data_config
    size = list(data["input_size"])
    plan = module._plan(config)
    regions = module._Regions.of(config, plan, [data, data | {"input_size": size}])
    assert regions.count == 9
    with pytest.raises(UsageError, match=r"got input_size 3, 32, 32 and 3, 64, 32; give"):
        module._Regions.of(config, plan, [data, data | {"input_size": [3, 64, 32]}])


def test_superpixels_are_for_the_occluders_that_need_no_grid():
    scene = Scene(PlayerMap(torch.arange(12).reshape(3, 4)), ("a",))
    able = []
    for name, occluder in OCCLUDERS.items():
        try:
            occluder(scene, (0.5,))
        except ValueError:
            continue
        able.append(name)
    assert tuple(able) == GRIDLESS


def test_a_note_says_where_ipvit_saw_images_otherwise(config, capsys, monkeypatch):
    def notes(config):
        with pytest.raises(KeyboardInterrupt):
            occlusion(config)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]

    monkeypatch.setattr(module, "open_run", stop)  # they come before anything is measured
    one = replace(
        config,
        checkpoints=("untrained:test_vit", "untrained:test_resnet"),
        preset="ipvit",
        grid=4,
        fractions=TENTHS,
        count=2,
        weights=module.WeightsConfig(("num_classes=10",)),
    )
    (note,) = notes(one)
    for name in ("test_vit", "test_resnet"):
        data = timm.create_model(name).pretrained_cfg
        assert (data["input_size"], data["crop_pct"] != 0.875) == ((3, 160, 160), True)
        told = (
            f"160x160 pixels (--image-size 224), crop_pct {data['crop_pct']:g} (--crop-pct 0.875)"
        )
        if data["interpolation"] != "bilinear":
            told += f", {data['interpolation']} (--interpolation bilinear)"
        assert f"{name} (untrained, seed 0) has {told}; " in note
    published = module.WeightsConfig(
        ("num_classes=10",), image_size=224, crop_pct=0.875, interpolation="bilinear"
    )
    assert notes(replace(one, weights=published)) == []
    partly = module.WeightsConfig(
        ("num_classes=10",), image_size=224, crop_pct=0.875, interpolation="bicubic"
    )
    (note,) = notes(replace(one, checkpoints=("untrained:test_vit",), weights=partly))
    assert "has bicubic (--interpolation bilinear); what" in note
    assert notes(replace(one, preset="", checkpoints=("untrained:test_vit",))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        ({"data": ""}, "either --images DIR or --data"),
        ({"data": "digitss"}, "did you mean digits?"),
        ({"data": "tar:x"}, "expected --data NAME or folder:PATH, with classes"),
        ({"label": "both"}, "expected --label auto, truth, prediction, got 'both'"),
        ({"count": 1}, "--count of at least 2, got 1"),
        ({"occluder": ("randon",)}, "expected --occluder of random, complement,"),
        ({"occluder": ("random", "random")}, "each once, got random random"),
        ({"fractions": (0.5,)}, "at least 2 distinct ascending --fractions"),
        ({"fractions": (0.5, 1.5)}, "fractions between 0 and 1"),
        ({"fractions": (0.0, 0.01, 0.5)}, "that random tells apart on 16 patches"),
        ({"grid": 5}, "an image that a 5 x 5 grid divides"),
        ({"grid": 0}, "--grid of N or ROWSxCOLS, such as 14 or 4x8, got 0"),
        ({"grid": "4x"}, "such as 14 or 4x8, got 4x"),
        ({"grid": "4x8x2"}, "such as 14 or 4x8, got 4x8x2"),
        ({"grid": "3x8"}, "an image that a 3 x 8 grid divides"),
        ({"grid": 8, "fill": "token_drop"}, "players made of whole patches"),
        ({"repeats": 0}, "--repeats of at least 1, got 0"),
        ({"superpixels": -1}, "--superpixels of at least 0, got -1"),
        ({"superpixels": 2}, "--superpixels of at least 3, or 0 for patches, got 2"),
        ({"superpixels": 9}, "expected --grid or --superpixels, got both"),
        (
            {"superpixels": 9, "grid": None, "preset": "ipvit"},
            "--superpixels, got both; the preset",
        ),
        (
            {"superpixels": 9, "grid": None, "occluder": ("random", "block", "salient")},
            "--occluder of random, complement, mae for --superpixels, got block salient",
        ),
        ({"superpixels": 9, "grid": None, "fill": "token_drop"}, "a --fill of pixels"),
        ({"superpixels": 2000, "grid": None}, "between 3 and 1024 superpixels"),
        ({"superpixels": 3, "grid": None, "fractions": (0.3, 0.4)}, "tells apart on 3 superpixels"),
        ({"preset": "ipvitt"}, "expected --preset ipvit, ipvit_offset,"),
        ({"preset": "openmixup", "fractions": TENTHS}, "expected --preset or --grid, got both"),
        ({"preset": "ipvit", "fill": "blur"}, "expected --preset or --fill, got both"),
        (
            {"preset": "ipvit", "grid": "2x2", "fractions": TENTHS},
            "--grid of 4x4, 4x8, 7x7, 8x8, 14x14, 16x16 for --preset ipvit, as published, got 2x2",
        ),
        ({"precision": "bf16"}, "float32, tf32, float16, bfloat16, model"),
        ({"occluder": ("salient",), "saliency": "untrained:test_resnet"}, "vision transformer"),
        (
            {"checkpoints": ("untrained:test_vit",), "weights": WIDE, "occluder": ("salient",)},
            "networks of square images for --saliency, got one of 96 x 160 px",
        ),
        (SALIENT | {"saliency_method": "Integrated"}, "'Integrated'; did you mean IntegratedGr"),
        ({"saliency_method": "Saliency"}, "of salient, non_salient, salient_mass, non_salient_ma"),
        (SALIENT | {"saliency_method": "Saliency", "saliency_head": 0}, "--saliency-head or --s"),
        (
            {"occluder": ("salient_mass",), "saliency_method": "Occlusion"},
            "attention or Saliency for salient_mass, got Occlusion",
        ),
        (
            SALIENT | {"saliency_method": "GuidedBackprop", "saliency": "untrained:test_vit"},
            "expected a network with nn.ReLU for GuidedBackprop, got VisionTransformer",
        ),
        ({"occluder": ("simmim",), "grid": 1}, "units of 2 x 2 cells"),
        ({"checkpoints": ("nowhere.safetensors",)}, "nowhere.safetensors"),
        ({"device": "tpu"}, "--device auto, cpu, cuda"),
    ],
)
def test_bad_input(config, changes, message, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises((DataError, UsageError)) as caught:
        occlusion(replace(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_classes_that_a_network_does_not_know(config, tmp_path):
    small = saved(tmp_path, "small", 3, classes=4)
    with pytest.raises(UsageError, match="expected a class from 0 to 3, got 9"):
        occlusion(replace(config, checkpoints=(small,), label="truth"))


@pytest.mark.parametrize(
    ("classes", "label", "why"),
    [
        (10, "truth", "the classes of digits"),
        (4, "prediction", "classifiers have 4 classes and digits has 10"),
    ],
)
def test_classes_judge_the_networks_that_know_them(config, tmp_path, classes, label, why):
    """And the grid is that of the tokens, where none is given."""
    network = saved(tmp_path, "net", 3, classes=classes)
    networks = module.Networks(config.weights)
    fitted = module._fitted(replace(config, checkpoints=(network,), grid=None), networks)
    assert (fitted.label, fitted.grid) == (label, 4)
    assert module._label(config, [classes]) == (label, why)
    photos = photographs(tmp_path)
    one = replace(config, data="", images=photos)
    assert module._label(one, [10]) == ("truth", "the classes of folder:photos")
    (photos / "labels.csv").unlink()
    assert module._label(one, [10])[0] == "prediction"


def test_superpixels_need_scikit_image(config, monkeypatch, tmp_path):
    before = set(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)  # as if it were not there
    with pytest.raises(UsageError, match=r"pip install 'a2mim\[superpixels\]'") as told:
        occlusion(replace(config, superpixels=9, grid=None))
    assert "\n" not in str(told.value)
    assert set(tmp_path.iterdir()) == before


def test_an_attribution_needs_a_classifier(config, tmp_path):
    encoder = saved(tmp_path, "encoder", 3, classes=0)
    salient = replace(config, **SALIENT, saliency=encoder, saliency_method="Saliency")
    with pytest.raises(UsageError, match="expected --saliency with a classifier for Saliency"):
        occlusion(salient)


def test_damaged_images_are_left_out_and_named(config, tmp_path, caplog):
    folder = photographs(tmp_path)
    (folder / "2.png").write_bytes(b"no image")
    occlusion(replace(config, data="", images=folder))
    assert "2.png" in caplog.text
    for path in (config.out / "images").iterdir():
        assert set(read_images_table(path)["image"]) == {f"{k}.png" for k in (0, 1, 3, 4, 5)}
    for path in folder.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises((DataError, UsageError), match="at least 2 images"):
        occlusion(replace(config, data="", images=folder, out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
