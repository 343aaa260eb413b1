import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.checkpoints.load import load_model
from a2mim.data.folders import DataError
from a2mim.data.sampler import keyed_generator
from a2mim.data.sources import folder_images
from a2mim.measure import invariance as module
from a2mim.measure.invariance import (
    BESIDE,
    batches,
    invariance,
    read_batch,
    read_images_table,
    summary,
)
from a2mim.measure.networks import Subject, subject_of
from a2mim.messages import UsageError
from a2mim.report.figures_features import BASELINES, invariance_table
from a2mim.runs.progress import forwards
from a2mim.runs.table import read_table
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.weights import WeightsConfig
from interactions.features import invariance as similarity
from interactions.features.invariance import MEASURES, summarised
from interactions.fills import black, image_mean
from interactions.patches import PatchGrid

VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
RATIOS = (0.0, 0.25, 0.75)


def saved(folder, seed, classes=0):
    """Weights of a tiny ViT, and beside them what ``a2mim pretrain`` writes."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=classes, **VIT)
    path = folder / f"net{seed}.safetensors"
    save_file(model.state_dict(), path)
    about = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, **VIT},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0},
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    return str(path)


@pytest.fixture
def config(tmp_path):
    """A headless encoder and a classifier, on 10 photographs in batches of 5."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(10):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((48, 40)).save(folder / f"{k}.png")
    return InvarianceConfig(
        (saved(tmp_path, 1), saved(tmp_path, 2, classes=7)),
        images=folder,
        grid=4,
        fractions=RATIOS,
        repeats=2,
        cka_batch=5,
        device="cpu",
        out=tmp_path / "out",
    )


def table(config):
    return invariance_table(read_table(config.out / "rows.csv"))


@pytest.mark.parametrize(
    ("hiding", "fill"),
    [("image_mean", image_mean), ("black", black((0.5,) * 3, (0.25,) * 3))],
    ids=["image_mean", "black"],
)
def test_every_number_and_its_baselines(config, capsys, hiding, fill):
    """Against the library, called as a reader would call it."""
    invariance(replace(config, fill=hiding, checkpoints=config.checkpoints[:1]))
    rows = read_table(config.out / "rows.csv")
    side_by_side = pd.read_csv(config.out / "summary.csv")
    pd.testing.assert_frame_equal(
        side_by_side, table(config)[list(side_by_side)], check_dtype=False, rtol=1e-7
    )
    legend = pd.read_csv(config.out / "summary_columns.csv")
    assert legend["column"].tolist() == list(side_by_side)
    assert legend["meaning"].notna().all()
    loaded = load_model(config.checkpoints[0])
    fresh = load_model("untrained:vit_tiny_patch16_224", options=loaded.report.options, seed=1)
    subject = subject_of(config.checkpoints[0], config.weights, "cpu", headless=True)
    order = torch.randperm(10, generator=keyed_generator("batches", 0)).tolist()
    assert order != sorted(order)
    by_name = folder_images(config.images, 10, 0, truth=False)
    sources = [by_name[k] for k in order]
    expected = similarity.invariance(
        loaded.model,
        [torch.stack([subject.transform(source.read()) for source in sources])],
        PatchGrid(4, 4),
        untrained=fresh.model,
        fill=fill,
        fractions=RATIOS,
        repeats=2,
        names=[source.name for source in sources],
        cka_batch=5,
    )
    found = table(config)
    assert len(found) == len(expected) == (3 * 3 + 1) * 3 * (1 + 4 * 3 + 2)
    for column in ("layer", "readout", "ratio"):
        assert found[column].tolist() == expected[column].tolist()
    for column in ("value", "low", "high", "mask_sd", *BASELINES):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-5, atol=1e-6)
    assert found["metric"].iloc[[1, 5]].tolist() == ["cosine", "cosine_median"]
    row = rows.query("measure == 'invariance_centred_cosine_p05_untrained'").iloc[0]
    assert row["setting"] == (
        f"layer=blocks.0 readout=class hiding={hiding} grid=4x4 repeats=2 precision=float32 "
        "batch=5 batches=2"
    )
    assert (row["at"], row["samples"], row["dataset"]) == (0, 10, "folder:photos")
    assert "10 images x (1 + 3 fractions x 2 masks)" in capsys.readouterr().out


@pytest.mark.parametrize("hiding", ["zero", "token_drop"])
def test_controls_and_what_is_printed(config, hiding):
    invariance(replace(config, fill=hiding, repeats=1, checkpoints=config.checkpoints[:1]))
    found = table(config)
    whole = found.query("ratio == 0 and metric in ('cka', 'cosine', 'recall@1')")
    assert (whole[["value", "untrained", "pixels"]] == 1).all(axis=None)
    assert (found.query("metric == 'cka'")["permuted"].abs() < 0.6).all()  # batches of 5
    assert ("visible" in set(found["readout"])) == (hiding == "zero")
    said = summary(read_table(config.out / "rows.csv"))
    assert "layer output, readout output" in said
    assert "CKA with nothing hidden 1.000 (expected: 1); permuted CKA in all layers" in said
    last = found.query("layer == 'output' and metric == 'cka' and ratio == 0.75").iloc[0]
    line = [f"{last[name]:.3f}" for name in ("value", "low", "high", *BASELINES)]
    assert " ".join(["cka", "0.750", *line]) in " ".join(said.split())


@pytest.mark.integration
def test_the_figures_are_there(config, drawn):
    some = {"layers": ("blocks.1", "output"), "readouts": ("mean",), "repeats": 1}
    invariance(replace(config, checkpoints=config.checkpoints[:1], **some))
    for name in ("invariance", "layers-vit_tiny_patch16_224-net1.safetensors"):
        assert (config.out / f"{name}.png").stat().st_size > 1000
        assert (config.out / f"{name}.svg").read_text().startswith("<?xml")
    assert not list(config.out.glob("part-*"))


def images_tables(folder):
    return {path.name: read_images_table(path) for path in sorted(folder.glob("images/*"))}


def test_forward_batches_and_resume_change_nothing(config, monkeypatch):
    config = replace(config, fractions=(0.5,), layers=("blocks.1", "output"))
    whole = replace(config, out=config.out.with_name("whole"))
    invariance(whole)
    other = replace(config, batch_size=3)
    measure, measured = module._measure, []

    def once(config, prepared, sizes, subject, *others):
        if measured:
            raise KeyboardInterrupt
        measured.append(subject.weights)
        return measure(config, prepared, sizes, subject, *others)

    monkeypatch.setattr(module, "_measure", once)
    with pytest.raises(KeyboardInterrupt):
        invariance(other)
    assert not other.out.exists()
    first, *_ = sorted(other.out.parent.glob("out.*.partial/batches/*/*"))
    before = first.stat().st_mtime_ns
    measured.clear()
    invariance(other)  # only the second checkpoint is left
    assert measured == ["net2.safetensors"]
    kept = other.out / "batches" / first.parent.name / first.name
    assert kept.stat().st_mtime_ns == before
    assert (other.out / "rows.csv").read_bytes() == (whole.out / "rows.csv").read_bytes()
    found, expected = images_tables(other.out), images_tables(whole.out)
    names = [f"{k:02d}-vit_tiny_patch16_224-net{k + 1}.safetensors.csv.gz" for k in (0, 1)]
    assert list(found) == list(expected) == names
    for name in names:
        pd.testing.assert_frame_equal(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_interrupted_within_a_network_it_goes_on_behind_the_last_batch(config, monkeypatch):
    # 10 images in two batches
    some = {"cka_batch": 6, "fractions": (0.25, 0.5), "checkpoints": config.checkpoints[:1]}
    whole = replace(config, out=config.out.with_name("whole"), **some)
    invariance(whole)
    config = replace(config, **some)
    read, seen = Subject.see_all, []

    def interrupted(subject, sources):
        seen.extend(source.name for source in sources)
        if len(seen) == 14:  # the first was read to try the network, and four to look at it
            raise KeyboardInterrupt
        return read(subject, sources)

    monkeypatch.setattr(Subject, "see_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        invariance(replace(config, batch_size=1))
    first_batch = seen[5:10]
    seen.clear()
    monkeypatch.setattr(
        Subject, "see_all", lambda s, k: seen.extend(x.name for x in k) or read(s, k)
    )
    invariance(replace(config, batch_size=3))
    assert len(seen) == 1 + 4 + 5
    assert not set(seen[5:]) & set(first_batch)
    assert (config.out / "rows.csv").read_bytes() == (whole.out / "rows.csv").read_bytes()
    found, expected = images_tables(config.out), images_tables(whole.out)
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, rtol=1e-4, atol=1e-6)
    assert {path.name for path in config.out.iterdir()} == {
        path.name for path in whole.out.iterdir()
    }


def test_everything_is_computed_from_raw_rows(config):
    some = {"cka_batch": 6, "fractions": (0.25, 0.5), "checkpoints": config.checkpoints[:1]}
    invariance(replace(config, **some))
    paths = sorted((config.out / "batches").glob("*/*.npz"))
    batches_of_images = [read_batch(path) for path in paths]
    assert [len(rows.images) for rows in batches_of_images] == [5, 5]
    found = summarised(batches_of_images)
    expected = table(config)
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-7)
    raw = pd.concat([rows.to_frame() for rows in batches_of_images])
    # 2 blocks and the norm in 3 readouts, output; own, untrained and permuted; and pixels in 2.
    assert len(raw) == 10 * 2 * 2 * ((3 * 3 + 1) * 3 + 2)
    (images,) = images_tables(config.out).values()
    own = raw[(raw["pairing"] == "value") & (raw["layer"] == "output")]
    means = own.groupby(["image", "ratio"])["centred cosine"].mean()
    np.testing.assert_allclose(images["centred_cosine"], means, rtol=1e-6)


@pytest.mark.parametrize("layers", [(), ("blocks.1", "blocks.0")])
def test_the_means_of_images_are_those_of_the_last_layer(config, layers):
    some = {"cka_batch": 6, "fractions": (0.25, 0.7), "checkpoints": config.checkpoints[:1]}
    invariance(replace(config, layers=layers, against="complement", **some))
    (images,) = images_tables(config.out).values()
    readouts = ["class", "mean", "visible"] if layers else ["output"]
    places = [(ratio, readout) for ratio in (0.25, 0.6875) for readout in readouts]
    assert [*zip(images["ratio"], images["readout"], strict=True)] == places * 10
    assert images["image"].tolist() == [f"{k}.png" for k in range(10) for _ in places]
    measures = [measure.replace(" ", "_") for measure in MEASURES]
    beside = [f"untrained_{measure}" for measure in BESIDE]
    assert list(images) == ["image", "layer", "readout", "ratio", *measures, *beside]
    assert images.notna().all(axis=None)
    means = images.groupby(["layer", "ratio", "readout"])[[*measures, *beside]].mean()
    rows = table(config)
    last = rows[rows["layer"] == rows["layer"].iloc[-1]]
    wide = last.pivot(index=["layer", "ratio", "readout"], columns="metric")
    np.testing.assert_allclose(means[measures], wide["value"][measures], rtol=1e-6, atol=1e-7)
    expected = wide["untrained"][list(BESIDE)]
    np.testing.assert_allclose(means[beside], expected, rtol=1e-6, atol=1e-7)


def test_a_batch_is_not_what_lies_in_one_folder(config, monkeypatch):
    """Batches are drawn by the seed, and the same for all checkpoints; masks are by name."""
    seen = []

    def watched(subject, sources, size):
        seen.append([source.name for source in sources])
        return batches(subject, sources, size)

    monkeypatch.setattr(module, "batches", watched)
    some = {"layers": ("output",), "fractions": (0.75,), "repeats": 1}
    for seed in (0, 1):
        invariance(replace(config, seed=seed, **some))
    names = [f"{k}.png" for k in range(10)]
    assert seen[0] == seen[1] != seen[2] == seen[3]
    for order in seen:
        assert sorted(order) == names
        assert set(order[:5]) != set(names[:5])
    for images in images_tables(config.out).values():
        assert images["image"].tolist() == names  # the table is by name all the same


@pytest.mark.integration
@pytest.mark.parametrize("against", ["whole", "complement"])
def test_complements_and_the_forwards_of_the_plan(config, against, monkeypatch, capsys):
    drawn, counted = {}, []

    @contextmanager
    def progress(title, total, modules):
        with forwards(title, total, modules) as bar:
            yield bar
        counted.append((total, bar.n))

    monkeypatch.setattr(module, "forwards", progress)
    monkeypatch.setattr(module, "save", lambda figures, folder: drawn.update(figures))
    one = {"checkpoints": config.checkpoints[:1], "repeats": 1, "layers": ("blocks.1",)}
    invariance(replace(config, against=against, fractions=None, **one))
    complement = against == "complement"
    total = 2 * 10 * (2 * 9 if complement else 1 + 10)
    assert counted == [(total, total)]
    rows = read_table(config.out / "rows.csv")
    assert sorted(set(rows["at"])) == sorted({round(1.6 * k) / 16 for k in range(complement, 10)})
    assert rows["setting"].str.contains(" against=complement ").all() == complement
    assert json.loads((config.out / "config.json").read_text())["config"]["fractions"] == [
        k / 10 for k in range(complement, 10)
    ]
    said = capsys.readouterr().out
    masks = (
        "9 fractions x 1 masks x 2 complements" if complement else "(1 + 10 fractions x 1 masks)"
    )
    assert f"plan: 10 images x {masks}, for the network" in said
    assert f"{total} forwards for each checkpoint" in said
    assert ("patches filled (zero), against the complement:" in said) == complement
    assert ("CKA with nothing hidden" in said) == (not complement)
    for draw in drawn.values():
        figure = draw()
        words = [ax.get_xlabel() for ax in figure.axes] + [figure.get_suptitle()]
        assert any("against the complement" in word for word in words) == complement


def test_an_untrained_checkpoint_has_another_untrained_one_beside(config):
    name = "untrained:vit_tiny_patch16_224"
    weights = WeightsConfig(tuple(f"{k}={v}" for k, v in VIT.items()), image_size=32)
    some = {"layers": ("blocks.0", "output"), "fractions": (0.75,), "repeats": 1}
    invariance(replace(config, checkpoints=(name,), weights=weights, **some))
    rows = table(config).query("metric == 'cosine'")
    assert (rows["value"] != rows["untrained"]).all()


@pytest.mark.integration
def test_a_network_of_maps(config):
    invariance(replace(config, checkpoints=("untrained:test_resnet",), layers=("layer4",), grid=5))
    found = table(config)
    assert set(found["layer"]) == {"layer4"}
    assert set(found["readout"]) == {"mean"}


def test_images_are_read_when_they_are_needed(config):
    subject = subject_of(config.checkpoints[0], config.weights, "cpu", headless=True)
    read = []

    class Watched:
        def __init__(self, source):
            self.source = source

        def read(self, channels):
            read.append(self.source.name)
            return self.source.read(channels)

    sources = [Watched(source) for source in folder_images(config.images, 10, 0, truth=False)]
    stream = batches(subject, sources, 4)
    sizes = [len(next(stream))]
    assert len(read) == 4
    sizes += map(len, stream)
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        ({"checkpoints": ("nowhere.safetensors",)}, "nowhere.safetensors"),
        ({"data": "digits"}, "either --images DIR or --data NAME"),
        ({"images": None}, "either --images DIR or --data NAME"),
        ({"images": None, "data": "digitss"}, "did you mean digits?"),
        ({"grid": 5}, "net1.safetensors: expected an image that a 5 x 5 grid divides"),
        ({"grid": 0}, "--grid of N or ROWSxCOLS, such as 14 or 4x8, got 0"),
        ({"repeats": 0}, "--repeats of at least 1, got 0"),
        ({"cka_batch": 3}, "--cka-batch of at least 4, got 3"),
        ({"count": 3}, "--count of at least 4, got 3"),
        ({"batch_size": -1}, "--batch-size of at least 0, got -1"),
        ({"fractions": ()}, "--fractions from 0 to below 1"),
        ({"fractions": (0.5, 0.99)}, "--fractions from 0 to below 1"),
        (
            {"fractions": (0.0, 0.5), "against": "complement"},
            "what is hidden, got (0.0, 0.5); leave 0",
        ),
        ({"fractions": (0.02,), "against": "complement"}, "got (0.02,); leave 0.02 out"),
        ({"fractions": (0.5, 0.51)}, "hide different numbers of the 16 patches"),
        ({"layers": ("blocks.9",)}, "net1.safetensors: expected layers of blocks.0, blocks.1"),
        ({"checkpoints": ("untrained:test_resnet",), "readouts": ("class",)}, "a class token"),
        (
            {"checkpoints": ("untrained:test_resnet",), "fill": "token_drop"},
            "hide pixels instead",
        ),
    ],
)
def test_bad_input(config, changes, message):
    with pytest.raises((DataError, UsageError)) as caught:
        invariance(replace(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()
    assert not list(config.out.parent.glob("*.partial"))
