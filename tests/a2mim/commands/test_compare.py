import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from timm import create_model

import interactions as ix
from a2mim.cli import main
from a2mim.commands.compare import compare, run
from a2mim.measure import interactions as interaction_curves
from a2mim.measure import invariance, panels
from a2mim.measure import plan as compare_plan
from a2mim.measure.comparison import Comparison
from a2mim.measure.scores import TITLES
from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from a2mim.settings.compare import CompareConfig

TEXT = (".csv", ".html", ".json", ".svg", ".txt")


def again(compared, out, **changes):
    """The comparison of the fixture, with changes."""
    settings = {"images": compared["photos"], "budget": compared["budget"]}
    settings |= {"grid": 4, "pictures": 0, "device": "cpu", "out": out}
    return compare([compared["one"], compared["other"]], **(settings | changes))


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
        said = (comparison.folder / "panels" / f"{panel}.txt").read_text()
        assert said.startswith("one.safetensors: a2mim,")
        assert f": {panel}/" in said  # where its table or figure is


def test_all_see_the_same_pixels(comparison):
    """Two crops are one, and hidden patches have one colour for two normalisations."""
    notes = " ".join(comparison.plan["notes"])
    assert "Networks want different crops (0.9, 1 of the short side): all see the same 1" in notes
    settings = comparison.to_frame().query("run == 'occlusion'")["setting"]
    assert settings.str.contains("fill=image_mean").all()
    label = json.loads((comparison.folder / "config.json").read_text())
    assert label["config"]["weights"]["crop_pct"] == 1.0
    assert label["config"]["label"] == "truth"


def test_nothing_in_the_folder_names_a_path_of_the_machine(comparison, compared):
    """Of networks, images or results; also not in what panels have printed."""
    texts = [path for path in comparison.folder.rglob("*") if path.suffix in TEXT]
    assert {path.name for path in texts} >= {
        *("config.json", "compare.json", "weights.json", "occlusion.json", "predictions.txt"),
    }
    for path in texts:
        text = path.read_text()
        for folder in (compared["photos"].parent, comparison.folder.parent):
            assert str(folder) not in text, path


@pytest.mark.integration
@pytest.mark.parametrize(
    ("stopped", "measured_before"),
    [((panels, "occlusion"), "interaction_curves"), ((invariance, "_measure"), "occlusion")],
    ids=["between panels", "inside a panel"],
)
def test_interrupted_and_called_again_it_is_the_same_folder(
    comparison, compared, tmp_path, hastened, monkeypatch, stopped, measured_before
):
    """The second run finds what the first has measured, and ends as one that was not stopped.

    But for its figures and page, which are made of the table: they are drawn once more elsewhere.
    """
    where, name = stopped
    work, calls = getattr(where, name), []

    def once(*arguments):
        if calls or where is panels:
            raise KeyboardInterrupt
        calls.append(arguments)
        return work(*arguments)

    def repeated(config):
        raise AssertionError("measured again")

    out = tmp_path / "compare"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, once)
        with pytest.raises(KeyboardInterrupt):
            again(compared, out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(panels, measured_before, repeated)
        again(compared, out)
    assert not list(tmp_path.glob("*.partial"))
    files, expected = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (out, comparison.folder)
    )
    assert files == {
        path for path in expected if path.suffix not in (".svg", ".png", ".pdf", ".html")
    }
    for path in files:
        if path.name != "config.json" and path.suffix != ".npz":  # seconds, and times in archives
            assert (out / path).read_bytes() == (comparison.folder / path).read_bytes(), path


def test_a_finished_comparison_is_not_measured_again(comparison, compared, monkeypatch, capsys):
    def unwanted(panel, plan, work):
        raise AssertionError("measured again")

    monkeypatch.setattr(compare_plan, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(panels, "run_panel", unwanted)
    found = again(compared, comparison.folder)
    assert isinstance(found, Comparison)
    pd.testing.assert_frame_equal(found.scores(), comparison.scores())
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"finished before: {comparison.folder}; --no-resume measures it again"
    )
    for changes in ({"seed": 1}, {"resume": False}):
        with pytest.raises(AssertionError, match="measured again"):
            again(compared, comparison.folder, **changes)
        for left in comparison.folder.parent.glob("*.partial"):
            shutil.rmtree(left)


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


@pytest.mark.integration
def test_an_encoder_is_measured_by_its_features(compared, tmp_path, capsys, hastened):
    found = compare(
        [compared["one"], compared["encoder"]],
        images=compared["photos"],
        grid=4,
        budget=compared["budget"],
        skip=("similarity",),
        device="cpu",
        out=tmp_path / "out",
    )
    inside = found.scores().groupby("network", sort=False)["score"].agg(list)
    features = ["J_low_orders", "J_middle_orders", "J_high_orders", "high_frequency"]
    assert inside["encoder"] == features
    assert inside["one"] == ["accuracy", "accuracy_area", "agreement_area", *features]
    assert set(found.differences()["score"]) == set(features)
    settings = found.to_frame().query("run == 'interactions'")["setting"]
    assert settings.str.contains("reward=projection").all()
    assert list(found.plan["apart"]["predictions"]) == ["encoder"]
    said = capsys.readouterr().out
    assert "A network has no classifier, so interactions are about features" in said
    assert "forwards a second" in said
    assert "[3/3] spectrum" in said


@pytest.mark.integration
def test_a_set_by_name_with_a_probe(compared, save_vit, tmp_path, hastened):
    """An encoder is judged by what is trained on its features, beside two classifiers."""
    names = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    found = compare(
        [*(save_vit(path, classes=10) for path in names), compared["encoder"]],
        data="digits",
        count=8,
        grid=4,
        probe_max_train=60,
        skip=("interactions", "spectrum"),
        device="cpu",
        out=tmp_path / "out",
    )
    assert found.titles == ["first", "second", "encoder"]
    assert [network["classifier"] for network in found.plan["networks"]] == [
        "own",
        "own",
        "linear probe: 60 images of digits",
    ]
    judged = found.scores().query("score == 'accuracy'")
    assert judged["network"].tolist() == found.titles
    assert (judged["images"] == 8).all()
    assert len(found.differences().query("score == 'accuracy'")) == 3
    settings = found.to_frame().query("run == 'occlusion' and model == 'vit_tiny_patch16_224'")
    probed = settings["setting"].str.contains("classifier=probe:digits")
    assert set(settings.loc[probed, "weights"]) == {"encoder.safetensors"}


@pytest.mark.integration
def test_a_set_of_other_classes_is_compared_by_features(compared, tmp_path, hastened):
    """Networks of 3 classes on 10: no accuracy, and interactions of the projection."""
    found = compare(
        [compared["one"], compared["other"]],
        data="digits",
        count=6,
        grid=4,
        budget=compared["budget"],
        skip=("similarity", "spectrum"),
        device="cpu",
        out=tmp_path / "out",
    )
    assert set(found.scores()["score"]) == {
        "agreement_area",
        "J_low_orders",
        "J_middle_orders",
        "J_high_orders",
    }
    settings = found.to_frame().query("run == 'interactions'")["setting"]
    assert settings.str.contains("reward=projection").all()


def test_the_plan_spends_the_budget(comparison, compared):
    forwards = comparison.plan["forwards"]
    assert sum(forwards.values()) == compared["budget"]
    measured = comparison.to_frame().query("measure == 'interaction_energy'")
    assert measured["image"].nunique() <= 12


@pytest.mark.integration
def test_an_image_is_explained_by_all_networks(compared, tmp_path, monkeypatch):
    """Its forwards are those of the plan, the page has its figures; they are drawn once more."""
    monkeypatch.setattr(compare_plan, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(interaction_curves, "TOO_LITTLE", np.inf)
    skip = ("predictions", "similarity", "spectrum")
    found = again(compared, tmp_path / "out", pictures=1, budget=8000, skip=skip)
    plan, folder = found.plan, found.folder
    assert sum(plan["forwards"].values()) == 8000
    for number in (1, 2):
        one = ix.Explanation.load(folder / "pictures" / f"1-{number}.npz")
        assert [one.image] == plan["pictured"]
        assert one.record.forwards + one.marginals.forwards == plan["forwards"]["pictures"]
    page = (folder / "compare.html").read_text()
    section = page.split('<section id="single-images">')[1].split("</section>")[0]
    assert section.count("<img src=") == 2
    assert f"<h3>{plan['pictured'][0]}</h3>" in section
    (folder / "compare.html").unlink()
    main(["figures", str(folder)])
    assert (folder / "compare.html").read_text() == page


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
        ({"budget": 1000}, "of which interactions need 5760, got 1000; or give --skip"),
        ({"skip": ("spectra",)}, "expected --skip predictions, .*, got 'spectra'"),
        ({"skip": "spectrum"}, "expected --skip of predictions, .*, got 'spectrum'"),
        ({"fill": "black"}, "expected --fill image_mean, zero, blur, got 'black'"),
        ({"label": "3"}, "expected --label auto, truth, prediction, got '3'"),
        (
            {"precision": "bf16"},
            "expected --precision auto, float32, .*, got 'bf16'",
        ),
        ({"grid": 3}, "expected an image that a 3 x 3 grid divides"),
        ({"grid": 5}, "expected an image that a 5 x 5 grid divides, got 32 x 32 px"),
        ({"label": "truth"}, "expected classes in .*unlabelled for --label truth, found none"),
    ],
)
def test_what_cannot_be_done_is_one_line(compared, tmp_path, changes, message, hastened):
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


def test_too_few_images_are_an_error(compared, tmp_path, hastened):
    few = tmp_path / "few"
    few.mkdir()
    for k in range(3):
        shutil.copy(compared["photos"] / f"{k:02d}.png", few)
    with pytest.raises(UsageError, match="expected at least 4 images, found 3"):
        again(compared, tmp_path / "out", images=few)


def test_settings_of_the_function_are_checked(compared):
    for setting in ("pears", "weights"):
        with pytest.raises(UsageError, match=f"expected settings of a2mim compare, got {setting}"):
            again(compared, "nowhere", **{setting: 3})
    with pytest.raises(UsageError, match="expected two or more checkpoints, got 1;"):
        compare(compared["one"], images=compared["photos"])


def test_one_checkpoint_twice_is_an_error(compared, tmp_path, hastened):
    with pytest.raises(UsageError, match="expected every network once"):
        compare(
            [compared["one"], compared["one"]],
            images=compared["photos"],
            out=tmp_path / "out",
        )


def test_titles_and_meanings_are_of_the_same_scores():
    from a2mim.measure.scores import MEANINGS

    assert list(MEANINGS) == list(TITLES)


@pytest.mark.integration
def test_modules_in_memory(compared, tmp_path, hastened):
    """Without files; what they are called is theirs, and other weights are another run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (create_model("test_resnet", num_classes=5).eval() for _ in "ab")
    settings = {
        "images": compared["photos"],
        "skip": ("interactions", "spectrum"),
        "image_size": 32,
        "grid": 4,
        "device": "cpu",
    }
    found = compare({"ours": first, "theirs": second}, out=tmp_path / "a", **settings)
    assert found.titles == ["ours", "theirs"]
    assert set(found.scores()["network"]) == {"ours", "theirs"}
    assert (found.scores().query("score != 'top1'")["value"].notna()).any()
    before = (tmp_path / "a" / "rows.csv").stat().st_mtime_ns
    compare({"ours": first, "theirs": second}, out=tmp_path / "a", **settings)
    assert (tmp_path / "a" / "rows.csv").stat().st_mtime_ns == before
    torch.nn.init.normal_(second.fc.weight)
    listed = compare([first, second], out=tmp_path / "b", **settings)
    assert listed.titles == ["ResNet-1", "ResNet-2"]
