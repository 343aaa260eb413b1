import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments import compare as module
from experiments import invariance, spectrum
from experiments.compare import SIMILAR_AT, compare, run
from experiments.comparison import TITLES
from experiments.configs.compare import CompareConfig
from experiments.configs.weights import WeightsConfig
from experiments.results import read_table
from experiments.runs import UsageError
from experiments.weights import subject_of

FILES = ("rows.csv", "scores.svg", "predictions.svg", "interactions.svg", "similarity.svg")


def again(compared, out, **changes):
    """The comparison of the fixture, with changes."""
    settings = {"images": compared["photos"], "grid": 4, "budget": 3500, "device": "cpu"}
    return compare([compared["one"], compared["other"]], out=out, **(settings | changes))


def test_every_panel_is_there_and_its_own_run(comparison):
    rows = comparison.to_frame()
    assert list(dict.fromkeys(rows["run"])) == [
        "occlusion",
        "interactions",
        "invariance",
        "spectrum",
        "compare",
    ]
    for panel in ("predictions", "interactions", "similarity", "spectrum"):
        alone = read_table(comparison.folder / "panels" / panel / "rows.csv")
        of = rows[rows["run"] == alone["run"].iloc[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(of, alone)
    assert (comparison.folder / "panels" / "predictions.txt").read_text().startswith("one.saf") or (
        "one.safetensors" in (comparison.folder / "panels" / "predictions.txt").read_text()
    )


def test_all_see_the_same_pixels(comparison):
    """Two crops are one, and hidden patches have one colour for two normalisations."""
    notes = " ".join(comparison.plan["notes"])
    assert "Networks want different crops (0.9, 1 of the short side): all see the same 1" in notes
    settings = comparison.to_frame().query("run == 'occlusion'")["setting"]
    assert settings.str.contains("fill=image_mean").all()
    label = json.loads((comparison.folder / "config.json").read_text())
    assert label["config"]["weights"]["crop_pct"] == 1.0
    assert label["config"]["label"] == "truth"


def test_interrupted_and_called_again_it_is_the_same_page(
    comparison, compared, tmp_path, monkeypatch
):
    """The second run finds what the first has measured, and ends as one that was not stopped."""

    def interrupted(config):
        raise KeyboardInterrupt

    def repeated(config):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "TIMED_SECONDS", 0.0)
    for panel in (invariance, spectrum):
        monkeypatch.setattr(panel, "save", lambda figures, folder: None)
    out = tmp_path / "compare"
    with monkeypatch.context() as patch:
        patch.setattr(module, "interaction_curves", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(compared, out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(module, "occlusion", repeated)
        again(compared, out)
    for name in FILES:
        assert (out / name).read_bytes() == (comparison.folder / name).read_bytes(), name
    assert not list(tmp_path.glob("*.partial"))


def test_without_classes_predictions_are_judged_by_agreement(compared, tmp_path, hastened):
    found = again(
        compared,
        tmp_path / "out",
        images=compared["unlabelled"],
        skip=("interactions", "spectrum"),
    )
    assert set(found.scores()["score"]) == {
        "agreement_area",
        "similarity",
        "similarity_excess",
        "recall",
    }
    assert found.plan["label"] == "prediction"
    assert found.plan["forwards"] == {"predictions": 120, "similarity": 24 * (1 + len(SIMILAR_AT))}


def test_an_encoder_is_measured_by_its_features(compared, tmp_path, capsys, hastened):
    found = compare(
        [compared["one"], compared["encoder"]],
        images=compared["photos"],
        grid=4,
        budget=3500,
        skip=("similarity",),
        device="cpu",
        out=tmp_path / "out",
    )
    inside = found.scores().groupby("network", sort=False)["score"].agg(list)
    features = ["J_low", "J_middle", "J_high", "high_frequency"]
    assert inside["encoder"] == features
    assert inside["one"] == ["accuracy", "accuracy_area", "agreement_area", *features]
    assert set(found.differences()["score"]) == set(features)
    settings = found.to_frame().query("run == 'interactions'")["setting"]
    assert settings.str.contains("reward=projection").all()
    assert "has no classifier" in " ".join(found.plan["apart"]["predictions"].values())
    said = capsys.readouterr().out
    assert "A network has no classifier, so interactions are about features" in said
    assert "forwards a second" in said
    assert "[3/3] spectrum" in said


def test_networks_of_two_sizes_see_the_same_region(compared, save_vit, tmp_path, hastened):
    """A ramp of colours, cut and resized for both, is the same ramp."""
    large = save_vit(tmp_path / "large.safetensors", crop_pct=0.8, mean=0.4, img_size=48)
    found = compare(
        [compared["one"], large],
        images=compared["photos"],
        skip=("interactions",),
        device="cpu",
        out=tmp_path / "out",
    )
    assert found.plan["grid"] == 8  # of 32 and 48 px
    notes = " ".join(found.plan["notes"])
    assert "Networks take images of 32, 48 px: each sees the same region at its own size" in notes
    assert "all see the same 0.9 of every image" in notes
    assert "high_frequency" not in set(found.differences()["score"])  # maps of 4 and 6 cells
    told = json.loads((found.folder / "config.json").read_text())["config"]["weights"]
    weights = WeightsConfig(crop_pct=told["crop_pct"], interpolation=told["interpolation"])
    ramp = np.linspace(0, 255, 480)[None, :, None].repeat(480, 0).repeat(3, 2).astype(np.uint8)
    seen = []
    for name, size in ((compared["one"], 32), (large, 48)):
        subject = subject_of(name, weights, "cpu")
        image_CHW = subject.transform(Image.fromarray(ramp))
        look = subject.model.pretrained_cfg
        image_CHW = image_CHW * look["std"][0] + look["mean"][0]
        assert image_CHW.shape[-1] == size
        seen.append(image_CHW.reshape(3, 16, size // 16, 16, size // 16).mean(dim=(2, 4)))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0.03)


def test_the_plan_spends_the_budget(comparison):
    forwards = comparison.plan["forwards"]
    assert sum(forwards.values()) == 3500
    measured = comparison.to_frame().query("measure == 'interaction_strength'")
    assert measured["image"].nunique() <= 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ("a",)}, "expected two or more checkpoints, got 1"),
        ({"data": "digits"}, "expected either --images DIR or --data NAME"),
        ({"images": None}, "expected either --images DIR or --data NAME"),
        (
            {"skip": ("predictions", "interactions", "similarity", "spectrum")},
            "expected a panel that is not skipped",
        ),
        ({"count": 3}, "expected --count of at least 4, got 3"),
        ({"budget": 100}, "expected --budget of at least 184 forwards for 4 images, got 100"),
        ({"budget": 1000}, "of which interactions need 2880, got 1000; or give --skip"),
        ({"label": "truth"}, "expected classes in .*labels.csv for --label truth, found none"),
    ],
)
def test_what_cannot_be_done_is_one_line(compared, tmp_path, changes, message):
    settings = {
        "checkpoints": (compared["one"], compared["other"]),
        "images": compared["unlabelled"],
        "grid": 4,
        "device": "cpu",
        "out": tmp_path / "out",
    }
    with pytest.raises(UsageError, match=message) as error:
        run(CompareConfig(**(settings | changes)))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_unknown_settings_are_named(compared):
    with pytest.raises(UsageError, match="expected settings of a2mim compare, got pears"):
        compare([compared["one"], compared["other"]], images=compared["photos"], pears=3)


def test_one_checkpoint_twice_is_an_error(compared, tmp_path):
    shutil.copy(compared["one"], tmp_path)
    shutil.copy(compared["one"].replace(".safetensors", ".json"), tmp_path)
    with pytest.raises(UsageError, match="expected every network once"):
        compare(
            [compared["one"], tmp_path / "one.safetensors"],
            images=compared["photos"],
            out=tmp_path / "out",
        )


def test_grids_divide_all_images():
    assert module._largest_grid([224]) == 14
    assert module._largest_grid([224, 192]) == 8
    assert module._largest_grid([32]) == 8
    with pytest.raises(UsageError, match="4 x 4 to 14 x 14 patches divide, got 31; give --image-s"):
        module._largest_grid([31])


@pytest.mark.parametrize("count", [4, 30, 47, 48, 97, 100, 101, 1000])
def test_batches_of_similarity_leave_no_image_out(count):
    size = module._batch(count)
    rest = count % size
    assert rest == 0 or rest >= 4


def test_titles_and_meanings_are_of_the_same_scores():
    from experiments.comparison import MEANINGS

    assert list(MEANINGS) == list(TITLES)
