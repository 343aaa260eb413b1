import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.data import DataError, subset
from a2mim.features import extract
from a2mim.probe import linear_probe
from a2mim.samples import SomeSamples
from experiments import occlusion as module
from experiments.configs.occlusion import OcclusionConfig
from experiments.occlusion import FILLS, occlusion
from experiments.occlusion_tables import read_images_table, summary
from experiments.results import read_table
from experiments.runs import UsageError
from experiments.sources import labelled_samples
from interactions import summaries
from interactions.effects import effects
from interactions.occluders import OCCLUDERS
from interactions.patches import PatchGrid

OPTIONS = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
COUNT = 20


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


def changed(config, **changes):
    return OcclusionConfig(**{**vars(config), **changes})


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


def digits(mean=0.5):
    """The test images of a run, normalised as by :func:`saved`, their classes and names."""

    def augment(image_CHW, generator):
        image_CHW = torch.nn.functional.interpolate(image_CHW[None].float(), 32)[0]
        return (image_CHW / 255 - mean) / 0.25

    samples = labelled_samples("digits", augment)[1]
    indices = subset(len(samples), COUNT, 0)
    images = torch.stack([samples.load(k, 0) for k in indices])
    return images, samples.labels_I[indices], [samples.names[k] for k in indices]


def test_the_tables_are_what_the_library_measures(config, capsys):
    occlusion(changed(config, repeats=2, occluder=("random", "block")))
    rows = read_table(config.out / "rows.csv")
    images, labels, names = digits()
    expected = []
    for number, name in enumerate("ab"):
        path = config.checkpoints[number]
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, num_classes=10, checkpoint_path=path, **OPTIONS
        ).eval()
        expected.append(
            effects(
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
        *("config.json", "images", "occlusion.json", "occlusion.png", "occlusion.svg", "rows.csv")
    ]
    assert len(list((config.out / "images").iterdir())) == 4
    about = json.loads((config.out / "occlusion.json").read_text())
    assert [one["probe"] for one in about] == [None, None]
    assert summary(rows) in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [0, 7])
def test_an_interrupted_run_goes_on_to_the_same_bytes(config, batch_size, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    config = changed(config, batch_size=batch_size)
    occlusion(config)
    again = changed(config, out=tmp_path / "again")
    real, parts = module.write_atomic, []

    def dying(path, content):
        if len(parts) == 4:
            raise KeyboardInterrupt
        real(path, content)
        parts.append(path.name)

    monkeypatch.setattr(module, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        occlusion(again)
    assert not again.out.exists()
    before = list(parts)

    def counting(path, content):
        real(path, content)
        parts.append(path.name)

    monkeypatch.setattr(module, "write_atomic", counting)
    occlusion(again)
    assert before[-1] == "001-random-00000.csv.gz"
    assert parts[len(before) :] == [
        *("001-random-00001.csv.gz", "001-random-00002.csv.gz", "occlusion.json")
    ]
    assert written(again) == written(config)


def test_batches_and_chunks_change_nothing_but_rounding(config, monkeypatch):
    tables = []
    for chunk, batch_size in ((64, 1), (64, 0), (6, 5)):
        monkeypatch.setattr(module, "CHUNK", chunk)
        one = changed(config, batch_size=batch_size, fill="uniform_noise")
        occlusion(one)
        tables.append(images_of(one, 1))
    for table in tables[1:]:
        exact = table.select_dtypes(exclude="float").columns
        pd.testing.assert_frame_equal(table[exact], tables[0][exact])
        pd.testing.assert_frame_equal(table, tables[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("fill", ["zero", "token_drop"])
def test_an_encoder_is_judged_by_a_probe_of_clean_images(config, fill, tmp_path):
    path = saved(tmp_path, "encoder", 3, classes=0)
    one = changed(config, checkpoints=(path,), fill=fill, probe_max_train=60)
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
        occlusion(changed(one, data="", images=photographs(tmp_path), label="prediction"))


def test_predictions_stand_in_for_classes(config, tmp_path, monkeypatch):
    """Pictures without classes, and a network that would not know them; truth is not missed."""
    monkeypatch.setattr(module, "CHUNK", 4)
    folder = photographs(tmp_path)
    labels = folder / "labels.csv"
    (folder / "deep").mkdir()
    (folder / "0.png").rename(folder / "deep" / "0.png")
    labels.write_text(labels.read_text().replace("0.png", "deep/0.png"))
    config = changed(config, data="", images=folder)
    occlusion(config)
    truth = read_table(config.out / "rows.csv")
    labels.unlink()
    with pytest.raises(UsageError, match=r"classes in .*labels\.csv.*or give --label prediction"):
        occlusion(config)
    small = saved(tmp_path, "small", 3, classes=4)
    whole = changed(
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

    real, parts = module.write_atomic, []

    def dying(path, content):
        if len(parts) == 3:
            raise KeyboardInterrupt
        real(path, content)
        parts.append(path.name)

    again = changed(whole, batch_size=3, out=tmp_path / "again")
    monkeypatch.setattr(module, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        occlusion(again)
    assert parts[-1] == "001-random-00000.csv.gz"
    monkeypatch.setattr(module, "write_atomic", real)
    occlusion(again)
    resumed = read_table(again.out / "rows.csv")
    pd.testing.assert_frame_equal(resumed, rows, rtol=0, atol=2e-6)


def test_encoders_of_other_families(config, tmp_path):
    """On photographs, with a probe of other images."""
    folder = photographs(tmp_path)
    one = changed(config, checkpoints=("untrained:test_resnet",), data="", images=folder)
    options = module.WeightsConfig(("num_classes=0",), image_size=32)
    occlusion(changed(one, weights=options, probe_data="digits", probe_max_train=40, count=5))
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
    salient = changed(
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
    expected = effects(
        *(lambda images: images.flatten(1)[:, :10], digits()[0], labels, PatchGrid(4, 4)),
        OCCLUDERS["salient"],
        fractions=config.fractions,
        names=names,
        saliency_IN=seen[0][:, 1, 0, 1:].double(),
    )
    assert masks[0].tolist() == expected["mask"].tolist()
    cut = saved(tmp_path, "cut", 2, crop_pct=0.9)
    with pytest.raises(UsageError, match="the same cut of an image"):
        occlusion(changed(salient, checkpoints=(config.checkpoints[0], cut)))


def test_a_preset_decides(config):
    sized = changed(
        config,
        checkpoints=("untrained:test_vit",),
        preset="openmixup",
        grid=14,
        fractions=OcclusionConfig(()).fractions,
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


@pytest.mark.parametrize("fill", FILLS)
def test_every_fill_is_its_own(fill):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def filled(name):
        made = FILLS[name]((0.4,) * 3, (0.2,) * 3, 0)
        if not callable(made):
            made = made.for_images(["a", "b"])
        return made(images).expand_as(images)

    assert all(not torch.equal(filled(fill), filled(other)) for other in FILLS if other != fill)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        ({"data": ""}, "either --images DIR or --data"),
        ({"data": "digitss"}, "did you mean digits?"),
        ({"data": "tar:x"}, "expected --data NAME or folder:PATH, with classes"),
        ({"label": "both"}, "expected --label truth or prediction, got 'both'"),
        ({"count": 1}, "--count of at least 2, got 1"),
        ({"occluder": ("randon",)}, "expected --occluder of random, complement,"),
        ({"occluder": ("random", "random")}, "each once, got random random"),
        ({"fractions": (0.5,)}, "at least 2 distinct ascending --fractions"),
        ({"fractions": (0.5, 1.5)}, "fractions between 0 and 1"),
        ({"fractions": (0.0, 0.01, 0.5)}, "that random tells apart on 16 patches"),
        ({"grid": 5}, "an image that a 5 x 5 grid divides"),
        ({"grid": 8, "fill": "token_drop"}, "players made of whole patches"),
        ({"repeats": 0}, "--repeats of at least 1, got 0"),
        ({"preset": "ipvitt"}, "expected --preset ipvit, ipvit_offset,"),
        ({"preset": "ipvit"}, "expected --preset or --grid, got both"),
        ({"precision": "bf16"}, "float32, tf32 or float16"),
        ({"occluder": ("salient",), "saliency": "untrained:test_resnet"}, "vision transformer"),
        ({"occluder": ("simmim",), "grid": 1}, "units of 2 x 2 cells"),
        ({"checkpoints": ("nowhere.safetensors",)}, "nowhere.safetensors"),
        ({"device": "tpu"}, "--device auto, cpu or cuda"),
    ],
)
def test_bad_input(config, changes, message, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises((DataError, UsageError)) as caught:
        occlusion(changed(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_classes_that_a_network_does_not_know(config, tmp_path):
    small = saved(tmp_path, "small", 3, classes=4)
    with pytest.raises(UsageError, match="expected a class from 0 to 3, got 9"):
        occlusion(changed(config, checkpoints=(small,)))


def test_damaged_images_are_named(config, tmp_path):
    folder = photographs(tmp_path)
    (folder / "2.png").write_bytes(b"no image")
    with pytest.raises((DataError, UsageError), match=r"1 cannot: 2\.png; repair"):
        occlusion(changed(config, data="", images=folder))
    assert not config.out.exists()
