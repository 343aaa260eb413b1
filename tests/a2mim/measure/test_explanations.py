from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import interactions as ix
from a2mim.cli import main
from a2mim.measure.explanations import explanations
from a2mim.measure.interactions import interaction_curves
from a2mim.messages import UsageError
from a2mim.runs.records import read_records
from a2mim.runs.table import read_table
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.weights import WeightsConfig


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = tmp_path / "photo.png"
    Image.fromarray(pixels.repeat(30, 0).repeat(30, 1)).save(file)
    return file


@pytest.fixture
def config(picture, weights, tmp_path):
    return InteractionsConfig(
        checkpoints=(f"test_resnet={weights}",),
        images=picture,
        weights=WeightsConfig(image_size=64),
        orders=(0.0, 0.5, 1.0),
        replicates=2,
        grid=4,
        device="cpu",
        out=tmp_path / "out",
    )


@pytest.mark.integration
def test_one_picture_is_explained_beside_the_rows_of_every_run(config, capsys):
    interaction_curves(config)
    said = capsys.readouterr().out
    assert "one picture: there will be no interval over images" in said
    assert "plan: 1 image x 42 pairs x 4 contexts x 3 orders" in said
    assert "one picture: no interval over images;" in said
    assert "J_low" not in said
    assert "nan" not in said.lower()
    rows = read_table(config.out / "rows.csv")
    assert set(rows["dataset"]) == {"image:photo.png"}
    energies = rows[rows["measure"] == "interaction_energy"]
    assert len(energies) == 3
    (folder,) = (config.out / "records").iterdir()
    (record,) = read_records(folder)
    assert record.image == "photo.png"
    np.testing.assert_allclose(energies["value"], ix.strength([record]).per_image_IO[0], rtol=1e-6)
    (name,) = explanations(config.out)
    explanation = ix.Explanation.load(config.out / f"{name}.npz")
    np.testing.assert_array_equal(explanation.record.replicates_PRO, record.replicates_PRO)
    pairs = pd.read_csv(config.out / "pairs.csv")
    np.testing.assert_allclose(pairs["interaction"], explanation.to_frame()["interaction"], 1e-6)
    assert len(pairs) == 3 * 42
    patches = pd.read_csv(config.out / "patches.csv")
    assert len(patches) == 3 * 16
    shown = explanation.picture_HWC
    assert shown.shape == (64, 64, 3)
    assert 0.1 < shown.std() < 0.4  # the colours of the picture, not those of its normalisation
    main(["figures", str(config.out)])
    for kind in ("png", "svg"):
        assert (config.out / f"{name}.{kind}").is_file()
        assert (config.out / f"interaction_curves.{kind}").is_file()


def test_what_is_given_is_measured(config, capsys):
    interaction_curves(replace(config, pairs=3, radius=2, grid=None, orders=(0.0, 1.0)))
    said = capsys.readouterr().out
    assert "1 image x 3 pairs x" in said
    table = pd.read_csv(config.out / "patches.csv")
    assert table["patch"].max() == 63  # 8 x 8 of at most 14 x 14 patches
    assert list(table["band"].unique()) == ["low", "high"]


def test_features_of_an_encoder_and_two_networks(config):
    both = (*config.checkpoints, "untrained:test_resnet")
    interaction_curves(
        replace(config, checkpoints=both, reward="projection", orders=(0.0, 1.0), pairs=2)
    )
    names = list(explanations(config.out))
    assert len(names) == 2
    one = ix.Explanation.load(config.out / f"{names[0]}.npz")
    assert (one.label, one.unit) == (None, "projection")
    assert pd.read_csv(config.out / "pairs.csv")["weights"].nunique() == 2
    summary = pd.read_csv(config.out / "summary.csv")
    assert set(summary["kind"]) == {"order", "band"}


def test_what_one_picture_cannot_give(config):
    with pytest.raises(UsageError, match="--budget, got one picture"):
        interaction_curves(replace(config, budget=10_000))
    with pytest.raises(UsageError, match="got features"):
        interaction_curves(replace(config, reward="features"))
    assert not config.out.exists()


def test_no_picture(config, tmp_path, capsys):
    (tmp_path / "photo.txt").write_text("no picture")
    arguments = ["interactions", *config.checkpoints, "--out", str(tmp_path / "other")]
    for name, told in (("photo.txt", "cannot read"), ("none.png", "found none at")):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--images", str(tmp_path / name)])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line
        assert name in line
