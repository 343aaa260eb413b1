from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from a2mim.data.folders import DataError
from a2mim.data.sources import folder_images
from a2mim.measure import spectrum as module
from a2mim.measure.networks import Subject, subject_of
from a2mim.measure.spectrum import read_images_table, spectrum, summary
from a2mim.messages import UsageError
from a2mim.report.figures_features import ends_of_stream, spectrum_table
from a2mim.runs.table import read_table
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import WeightsConfig
from interactions.features import spectrum as library
from interactions.networks.layers import stream_names


@pytest.fixture
def config(tmp_path):
    """A file of weights without a classifier and a network without training, on 7 photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(7):
        Image.fromarray(rng.integers(0, 256, (110, 120, 3), np.uint8)).save(folder / f"{k}.png")
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    return SpectrumConfig(
        (f"test_vit={tmp_path / 'net.safetensors'}", "untrained:test_resnet"),
        images=folder,
        device="cpu",
        out=tmp_path / "out",
    )


def test_the_table_is_what_the_library_says(config, capsys, drawn):
    spectrum(config)
    rows = read_table(config.out / "rows.csv")
    found = spectrum_table(rows)
    for name, (_, of) in zip(config.checkpoints, found.groupby("weights", sort=False), strict=True):
        subject = subject_of(name, config.weights, "cpu", headless=True)
        sources = folder_images(config.images, 7, 0, truth=False)
        images = torch.stack([subject.transform(source.read()) for source in sources])
        expected = library.spectrum(subject.model, [images])
        for column in ("layer", "index", "cells"):
            assert of[column].tolist() == expected[column].tolist()
        for column in ("value", "low", "high", "depth"):
            np.testing.assert_allclose(of[column], expected[column], rtol=1e-5, atol=1e-6)
        at = expected["frequency"].fillna(expected["depth"])
        np.testing.assert_allclose(of["at"], at, rtol=1e-7)
    row = rows.query("measure == 'spectrum_variance_high'").iloc[1]
    assert row["setting"] == "layer=blocks.0/attention index=1 maps=13 cells=10 precision=float32"
    side_by_side = pd.read_csv(config.out / "summary.csv")
    pd.testing.assert_frame_equal(
        side_by_side, found[list(side_by_side)], check_dtype=False, rtol=1e-7
    )
    legend = pd.read_csv(config.out / "summary_columns.csv")
    assert legend["column"].tolist() == list(side_by_side)
    assert row["samples"] == 7
    ends = ends_of_stream(found)
    files = sorted((config.out / "images").iterdir())
    assert [path.name for path in files] == [
        "00-test_vit-net.safetensors.csv.gz",
        "01-test_resnet-untrained--seed-0.csv.gz",
    ]
    for path, (_, of) in zip(files, ends.groupby("model", sort=False), strict=True):
        images = read_images_table(path)
        place = ["image", "layer", "index", "maps", "cells", "variance"]
        frequencies = max(side - side // 2 for side in of["cells"]) - 1
        ks = [f"k{k + 1}" for k in range(frequencies)]
        assert list(images) == [*place, *ks, "highest"]
        assert images["image"].tolist() == [f"{k}.png" for k in range(7) for _ in range(len(of))]
        for column in ("layer", "index", "cells"):
            assert images[column].tolist() == of[column].tolist() * 7
        means = images.groupby("index")[["highest", "variance"]].mean()
        np.testing.assert_allclose(means, of[["high_frequency", "variance"]], rtol=1e-6)
    said = capsys.readouterr().out
    assert f"{ends['variance'].iloc[0]:.4g}" in said
    assert summary(rows) in said
    for name in ("spectra", "depth"):
        assert (config.out / f"{name}.png").stat().st_size > 1000
        assert (config.out / f"{name}.svg").read_text().startswith("<?xml")
    assert not list(config.out.glob("part-*"))


def test_a_finished_run_is_not_measured_again(config, monkeypatch, capsys):
    def unwanted(*_given):
        raise AssertionError("measured again")

    spectrum(config)
    monkeypatch.setattr(module, "_measure", unwanted)
    capsys.readouterr()
    spectrum(config)
    said = capsys.readouterr().out.splitlines()
    assert f"finished before: {config.out}; --no-resume measures it again" in said
    with pytest.raises(AssertionError, match="measured again"):
        spectrum(replace(config, resume=False))


@pytest.mark.integration
def test_forward_batches_and_resume_change_nothing(config, monkeypatch):
    whole = replace(config, out=config.out.with_name("whole"))
    spectrum(whole)
    other = replace(config, batch_size=3)
    measure, measured = module._measure, []

    def once(config, prepared, subject, *others):
        if measured:
            raise KeyboardInterrupt
        measured.append(subject.name)
        return measure(config, prepared, subject, *others)

    monkeypatch.setattr(module, "_measure", once)
    with pytest.raises(KeyboardInterrupt):
        spectrum(other)
    assert not other.out.exists()
    measured.clear()
    spectrum(other)
    for path in (whole.out / "images").iterdir():
        found, expected = (
            read_images_table(f / "images" / path.name) for f in (other.out, whole.out)
        )
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    assert measured == ["test_resnet"]
    assert (other.out / "rows.csv").read_bytes() == (whole.out / "rows.csv").read_bytes()


def test_interrupted_within_a_network_it_goes_on_behind_the_last_batch(config, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    config = replace(config, checkpoints=config.checkpoints[:1])
    whole = replace(config, out=config.out.with_name("whole"))
    spectrum(whole)
    read, seen = Subject.see_all, []

    def interrupted(subject, sources):
        seen.append([source.name for source in sources])
        if len(seen) == 4:  # the first were read to try the network, twice
            raise KeyboardInterrupt
        return read(subject, sources)

    monkeypatch.setattr(Subject, "see_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spectrum(config)
    begun = seen.copy()
    seen.clear()
    monkeypatch.setattr(
        Subject, "see_all", lambda s, k: seen.append([x.name for x in k]) or read(s, k)
    )
    spectrum(config)
    assert seen[2] == begun[3]
    assert (config.out / "rows.csv").read_bytes() == (whole.out / "rows.csv").read_bytes()
    for path in (whole.out / "images").iterdir():
        assert (config.out / "images" / path.name).read_bytes() == path.read_bytes()


def test_some_maps_of_a_data_set_by_name(config):
    spectrum(
        replace(
            config,
            images=None,
            data="digits",
            count=5,
            layers=("blocks.0/mlp",),
            checkpoints=config.checkpoints[:1],
        )
    )
    found = spectrum_table(read_table(config.out / "rows.csv"))
    assert set(found["layer"]) == {"blocks.0/mlp"}
    assert set(found["index"]) == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        ({"images": None}, "either --images DIR or --data NAME"),
        ({"count": 0}, "--count of at least 1, got 0"),
        ({"batch_size": -1}, "--batch-size of at least 0, got -1"),
        ({"layers": ("blocks.0",)}, "net.safetensors: expected layers of stem, blocks.0/attention"),
        (
            {"checkpoints": ("untrained:selecsls42",)},
            "untrained:selecsls42: features: expected a map",
        ),
    ],
)
def test_bad_input(config, changes, message):
    with pytest.raises((DataError, UsageError)) as caught:
        spectrum(replace(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()
    assert not list(config.out.parent.glob("*.partial"))


def test_small_maps_are_left_out_and_it_is_said(config, capsys):
    one = replace(
        config,
        checkpoints=("untrained:test_resnet",),
        weights=WeightsConfig(image_size=64),
        count=3,
    )
    spectrum(one)
    said = capsys.readouterr().out
    layers = set(spectrum_table(read_table(one.out / "rows.csv"))["layer"])
    model = timm.create_model("test_resnet").eval()
    small = library.too_small(model, torch.zeros(1, 3, 64, 64))
    assert layers == set(stream_names(model)) - set(small)
    for name in small:
        assert f"{name} (2 x 2)" in said
    with pytest.raises(UsageError, match="at least 3 x 3 cells"):
        spectrum(replace(one, layers=tuple(small), out=one.out.parent / "other"))
