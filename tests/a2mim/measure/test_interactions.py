import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm import create_model
from timm.data import create_transform, resolve_model_data_config

import a2mim.measure.interactions as module
import interactions as ix
from a2mim.cli import main
from a2mim.data.folders import DataError
from a2mim.measure import runner as measuring
from a2mim.measure.interactions import interaction_curves
from a2mim.messages import UsageError
from a2mim.report.figures import of
from a2mim.runs.records import read_records
from a2mim.runs.table import read_table, strength_from
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.weights import WeightsConfig

CLASSES = [3, 7, 3]


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    names = ["a/0.png", "a/1.png", "2.png"]
    for name in names:
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(30, 0).repeat(30, 1)
        Image.fromarray(pixels).save(folder / name)
    lines = [f"{name},{label}" for name, label in zip(names, CLASSES, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["file,class_index", *lines]) + "\n")
    return folder


@pytest.fixture
def config(images, weights, tmp_path):
    return InteractionsConfig(
        checkpoints=(f"test_resnet={weights}",),
        images=images,
        weights=WeightsConfig(image_size=64),  # small, and so quick
        grid=4,
        pairs=2,
        orders=(0.0, 0.5, 1.0),
        label="truth",
        device="cpu",
        out=tmp_path / "out",
    )


def rows_of(config):
    return (config.out / "rows.csv").read_bytes()


def test_the_table_is_what_the_library_measures(config, images, weights, capsys, drawn):
    interaction_curves(config)
    rows = read_table(config.out / "rows.csv")
    got = strength_from(of(rows, "test_resnet", "net.safetensors"))
    floor = rows[rows["measure"] == "noise_floor"]["value"].item()
    model = create_model("test_resnet", checkpoint_path=str(weights)).eval()
    transform = create_transform(
        **(resolve_model_data_config(model) | {"input_size": (3, 64, 64)}), is_training=False
    )
    names = sorted(["a/0.png", "a/1.png", "2.png"])
    labels = {"a/0.png": 3, "a/1.png": 7, "2.png": 3}
    with torch.inference_mode():
        stack = torch.stack([transform(Image.open(images / n).convert("RGB")) for n in names])
    grid = ix.PatchGrid(4, 4)
    games = ix.PatchGames(model, stack, [labels[n] for n in names], grid, names=names)
    design = ix.Design(ix.NeighbourPairs(grid, 2, 2), ix.Windows(4, 2), config.orders)
    expected = ix.strength(ix.measure(games, design), floor=floor)
    by_name = dict(zip(expected.images, expected.per_image_IO, strict=True))
    for name, row in zip(got.images, got.per_image_IO, strict=True):
        np.testing.assert_allclose(row, by_name[name], rtol=1e-3)
    printed = capsys.readouterr().out
    (report,) = json.loads((config.out / "weights.json").read_text())
    assert report["sha256"] in printed
    assert "3 images" in printed
    assert "noise floor of one difference" in printed
    assert 0 < floor < 0.01 * got.S.min()
    assert sorted(p.name for p in config.out.iterdir()) == [
        *("config.json", *(f"interaction_curves.{kind}" for kind in ("pdf", "png", "svg"))),
        *("records", "rows.csv", "summary.csv", "summary_columns.csv", "weights.json"),
    ]
    assert str(images.parent) not in rows_of(config).decode()
    (folder,) = (config.out / "records").iterdir()
    assert folder.name == "test_resnet-net.safetensors"
    kept = ix.strength(read_records(folder), floor=floor)
    np.testing.assert_allclose(kept.per_image_IO, got.per_image_IO, rtol=1e-6)


class Stop(Exception):
    pass


def test_a_finished_run_is_not_measured_again(config, monkeypatch, capsys):
    def unwanted(*_given):
        raise AssertionError("measured again")

    interaction_curves(config)
    monkeypatch.setattr(module, "measure", unwanted)
    capsys.readouterr()
    interaction_curves(config)
    said = capsys.readouterr().out.splitlines()
    assert f"finished before: {config.out}; --no-resume measures it again" in said
    with pytest.raises(AssertionError, match="measured again"):
        interaction_curves(replace(config, resume=False))


def test_an_interrupted_run_goes_on_to_the_same_bytes(config, tmp_path, monkeypatch):
    interaction_curves(config)
    measured = []
    real = measuring.write_record

    def dying(record, path, label):
        if len(measured) == 2:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"PK half a record")  # as a crash of the machine might leave it
            raise Stop
        measured.append(record.image)
        real(record, path, label)

    monkeypatch.setattr(measuring, "write_record", dying)
    again = replace(config, out=tmp_path / "again")
    with pytest.raises(Stop):
        interaction_curves(again)
    assert not again.out.exists()
    measured.clear()

    def counting(record, path, label):
        measured.append(record.image)
        real(record, path, label)

    monkeypatch.setattr(measuring, "write_record", counting)
    interaction_curves(again)
    assert len(measured) == 1
    assert rows_of(again) == rows_of(config)


@pytest.mark.integration
def test_other_weights_or_settings_are_measured_anew(config, weights, tmp_path, monkeypatch):
    def stopped(config):
        """Measure all images, and stop before the records are put away."""
        measured = []
        real = measuring.write_record

        def counting(*arguments, **options):
            measured.append(1)
            real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(measuring, "write_record", counting)
            patch.setattr(module, "write_table", lambda *args: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                interaction_curves(config)
        return len(measured)

    assert stopped(config) == 3
    assert stopped(config) == 0
    assert stopped(replace(config, fill="image_mean")) == 3
    torch.manual_seed(2)
    save_file(create_model("test_resnet").state_dict(), weights)
    assert stopped(config) == 3


def test_batch_size_does_not_change_the_draws(config, tmp_path):
    interaction_curves(config)
    other = replace(config, batch_size=7, out=tmp_path / "other")
    interaction_curves(other)
    strengths = (strength_from(read_table(c.out / "rows.csv")) for c in (config, other))
    one, two = (np.sqrt(strength.per_image_IO) for strength in strengths)
    # logits in the thousands: float32 kernels of other batch sizes differ by some 1e-4
    np.testing.assert_allclose(one, two, atol=2e-3)


@pytest.mark.integration
def test_two_processes_give_the_table_of_one(noisy, tmp_path):
    two = replace(noisy, out=tmp_path / "two")
    python, *arguments = command(
        two,
        *("--pairs", "2", "--orders", "0", "0.5", "1"),
        *("--target", "0.01", "--max-contexts", "12"),
    )
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run([python, *launch, *arguments], check=True, timeout=900)
    one = replace(two, out=tmp_path / "one")
    interaction_curves(one)
    assert rows_of(one) == rows_of(two)
    assert contexts_that_ran(one) == {"0": 1, "7": 12, "14": 1}


def test_several_models_share_pairs_and_contexts(config, weights, tmp_path):
    twin = weights.with_name("twin.safetensors")
    twin.write_bytes(weights.read_bytes())
    both = replace(config, checkpoints=(f"test_resnet={weights}", f"test_resnet={twin}"))
    # the same network twice: every paired difference is exactly 0
    interaction_curves(both)
    with pytest.raises(UsageError, match="expected every network once"):
        interaction_curves(replace(both, checkpoints=config.checkpoints * 2))
    rows = read_table(both.out / "rows.csv")
    values = rows[rows["measure"] == "interaction_energy"]["value"].to_numpy()
    half = len(values) // 2
    np.testing.assert_array_equal(values[:half], values[half:])


def command(config, *more):
    """The command line of a run."""
    return [
        *(sys.executable, "-m", "a2mim", "interactions", *config.checkpoints),
        *("--images", str(config.images), "--image-size", "64"),
        *("--out", str(config.out), "--grid", "4", "--label", "truth", "--device", "cpu"),
        *more,
    ]


@pytest.mark.integration
def test_a_killed_run_goes_on_to_the_same_bytes(config, images, tmp_path, drawn):
    """``kill -9`` in the middle, then the same command again."""
    for k in range(3):  # more images
        Image.open(images / "2.png").rotate(90 * k).save(images / f"{k}.jpg")
    with (images / "labels.csv").open("a") as lines:
        lines.writelines(f"{k}.jpg,{k}\n" for k in range(3))
    killed, whole = (
        replace(config, out=tmp_path / "killed"),
        replace(config, out=tmp_path / "whole"),
    )
    more = ("--pairs", "2", "--orders", "0", "0.5", "1")
    process = subprocess.Popen(
        command(killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before = time.monotonic()
    while len(written := list(tmp_path.glob("killed.*.partial/records/*/*.npz"))) < 2:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() - before < 100
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not killed.out.exists()
    assert 2 <= len(written) < 6
    marks = {path.name: path.stat().st_mtime_ns for path in written}
    for run in (killed, whole):
        interaction_curves(run)
    files = {
        run.out: {
            path.relative_to(run.out): path.read_bytes()
            for path in run.out.rglob("*")
            if path.is_file() and path.name != "config.json"  # holds how long it took
        }
        for run in (killed, whole)
    }
    assert files[killed.out] == files[whole.out]
    assert len(files[whole.out]) == 6 + 7  # records and what is made of them
    kept = {path.name: path.stat().st_mtime_ns for path in killed.out.glob("records/*/*")}
    assert marks.items() <= kept.items()  # what was measured before was not measured again


def test_starting_anew_forgets_what_was_measured(config, monkeypatch):
    stop = pytest.MonkeyPatch()
    stop.setattr(module, "write_table", lambda *args: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        interaction_curves(config)
    stop.undo()
    measured = []
    real = measuring.write_record
    monkeypatch.setattr(
        measuring, "write_record", lambda *args, **kw: (measured.append(1), real(*args, **kw))
    )
    interaction_curves(replace(config, resume=False))
    assert len(measured) == 3


@pytest.fixture
def noisy(config, images):
    """Eight images, a target that they cannot reach, and contexts that soon run out."""
    rng = np.random.default_rng(1)
    names = [f"more-{k}.png" for k in range(5)]
    for name in names:
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(30, 0).repeat(30, 1)
        Image.fromarray(pixels).save(images / name)
    with (images / "labels.csv").open("a") as lines:
        lines.writelines(f"{name},{k}\n" for k, name in enumerate(names))
    return replace(config, target=0.01, max_contexts=12)


def ran(config):
    """What the label of a run says of what was measured."""
    return json.loads((config.out / "config.json").read_text())["config"]["ran"]


def contexts_that_ran(config):
    (network,) = ran(config)["networks"]
    return network["contexts"]


@pytest.mark.integration
def test_contexts_are_added_where_they_are_noisy_and_nothing_else_changes(noisy, tmp_path):
    interaction_curves(noisy)
    plain = replace(noisy, target=0.0, out=tmp_path / "plain")
    interaction_curves(plain)
    assert contexts_that_ran(noisy) == {"0": 1, "7": 12, "14": 1}
    assert contexts_that_ran(plain) == {"0": 1, "7": 8, "14": 1}
    reached = replace(noisy, target=100.0, out=tmp_path / "reached")
    interaction_curves(reached)
    assert rows_of(reached) == rows_of(plain)
    more, less = (
        read_records(c.out / "records" / "test_resnet-net.safetensors") for c in (noisy, plain)
    )
    assert len(more) == len(less) == ran(noisy)["images"] == 8
    (network,) = ran(noisy)["networks"]
    assert network["forwards"] == sum(record.forwards for record in more)
    for one, two in zip(more, less, strict=True):
        assert one.forwards > two.forwards
        assert (one.replicates(1).shape[1], two.replicates(1).shape[1]) == (6, 4)
        np.testing.assert_array_equal(one.replicates(1)[:, :4], two.replicates(1))


@pytest.mark.integration
def test_a_run_that_is_stopped_among_added_contexts_goes_on_to_the_same_bytes(
    noisy, tmp_path, monkeypatch
):
    interaction_curves(noisy)
    written = []
    real = measuring.write_record

    def dying(record, path, label):
        if len(written) == 8 + 3:
            path.write_bytes(b"PK half a record")
            raise Stop
        written.append(path.name)
        real(record, path, label)

    again = replace(noisy, out=tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "write_record", dying)
        with pytest.raises(Stop):
            interaction_curves(again)
    assert not again.out.exists()
    assert [name.endswith("-1.npz") for name in written] == [False] * 8 + [True] * 3
    before = list(written)
    monkeypatch.setattr(
        measuring, "write_record", lambda r, p, label: (written.append(p.name), real(r, p, label))
    )
    interaction_curves(again)
    assert len(written) == 16  # each image once, and once more
    assert not set(before) & set(written[len(before) :])
    for name in ("rows.csv", "summary.csv"):
        assert (again.out / name).read_bytes() == (noisy.out / name).read_bytes()


@pytest.mark.integration
def test_a_budget_is_spent(config, capsys, monkeypatch):
    monkeypatch.setattr(module, "TOO_LITTLE", np.inf)
    budget = replace(config, budget=1500, target=0.0)
    interaction_curves(budget)
    printed = capsys.readouterr().out
    assert "plan: " in printed
    assert "expected relative error of J" in printed
    told = ran(budget)
    (network,) = told["networks"]
    pilot = 3 * 4 * 4 * (8 + 2)  # images, coalitions, pairs, contexts at m = 7 and the ends
    most = told["images"] * 4 * told["pairs"] * sum(network["contexts"].values())
    assert network["forwards"] <= most
    assert 0.8 * (1500 - pilot) < most <= 1500 - 0.8 * pilot  # repeats are not measured
    assert (
        len(read_records(budget.out / "records" / "test_resnet-net.safetensors"))
        == (told["images"])
    )
    energies = read_table(budget.out / "rows.csv").query("measure == 'interaction_energy'")
    assert energies["image"].nunique() == told["images"]
    assert f" pairs={told['pairs']} " in energies["setting"].iloc[0]


@pytest.mark.integration
def test_a_budget_stops_at_the_target(noisy, capsys):
    """No more is spent than the error that is wanted costs, pilot included."""
    generous = replace(noisy, budget=50_000, target=0.25)
    interaction_curves(generous)
    expected = re.search(r"error of J: \S+ over all orders, at most (\S+)", capsys.readouterr().out)
    assert 0.2 < float(expected[1]) <= 0.25
    assert ran(generous)["networks"][0]["forwards"] < 50_000 / 20


@pytest.mark.integration
def test_a_budget_that_tells_nothing_is_one_line_with_one_that_does(noisy, monkeypatch, capsys):
    """And nothing is left of it."""
    small = command(noisy, "--orders", "0", "0.5", "1", "--budget", "700")
    monkeypatch.setattr(module, "TOO_LITTLE", 0.2)
    with pytest.raises(SystemExit) as caught:
        main(small[3:])
    assert caught.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("a2mim: expected a budget that tells J to within 20 %, but ")
    enough = int(re.search(r"; give --budget (\d+)$", line)[1])
    assert not list(noisy.out.parent.glob("out*"))
    interaction_curves(replace(noisy, budget=enough))
    assert ran(noisy)["networks"][0]["forwards"] <= enough
    interaction_curves(replace(noisy, budget=700, target=0.3))  # asked for no more than that
    assert ran(noisy)["networks"][0]["forwards"] <= 700


def test_a_budget_below_two_pilots_is_one_line_that_says_so(config):
    with pytest.raises(UsageError, match="--budget of at least 480 forwards, of which a pilot"):
        interaction_curves(replace(config, budget=479))
    assert not list(config.out.parent.glob("out*"))


@pytest.mark.integration
@pytest.mark.parametrize("orders", [(0.0, 1.0), (0.5,)])
def test_designs_without_inner_orders_or_without_ends(config, tmp_path, orders):
    """The ends are in float32 in any case, and so is the noise that is taken out of them."""
    found, floors = [], []
    for precision in ("float32", "float16"):
        one = replace(config, orders=orders, precision=precision, pairs=1, count=2)
        one = replace(one, out=tmp_path / precision)
        interaction_curves(one)
        rows = read_table(one.out / "rows.csv")
        assert f"precision={precision}" in rows["setting"][0]
        found.append(strength_from(of(rows, "test_resnet", "net.safetensors")))
        floors.append(rows.query("measure == 'noise_floor'")["value"].item())
        summary = pd.read_csv(one.out / "summary.csv").query("kind == 'order'")
        assert summary["order"].tolist() == [round(14 * ratio) for ratio in orders]
        assert summary["J"].mean() == pytest.approx(1)
    assert floors[1] > 100 * floors[0]
    if orders == (0.0, 1.0):
        np.testing.assert_array_equal(found[1].per_image_IO, found[0].per_image_IO)
    else:
        # The floor is a root mean square: an error of three of them is as good as impossible.
        np.testing.assert_allclose(found[1].S, found[0].S, atol=3 * floors[1])


def test_a_data_set_by_name(config, tmp_path):
    torch.manual_seed(1)
    ten = tmp_path / "ten.safetensors"
    save_file(create_model("test_resnet", num_classes=10).state_dict(), ten)
    named = replace(
        config, images=None, data="digits", checkpoints=(f"test_resnet={ten}",), count=2
    )
    interaction_curves(named)
    rows = read_table(named.out / "rows.csv")
    assert set(rows["dataset"]) == {"digits"}
    assert rows["image"].str.startswith("digits/").sum() == 3 * 2 * 3 + 1


def test_weights_without_a_classifier(config, tmp_path):
    torch.manual_seed(1)
    encoder = tmp_path / "encoder.safetensors"
    save_file(create_model("test_resnet", num_classes=0).state_dict(), encoder)
    without = replace(config, checkpoints=(f"test_resnet={encoder}",))
    headless = replace(without, reward="projection", label="prediction")
    interaction_curves(headless)
    rows = read_table(headless.out / "rows.csv")
    assert "reward=projection label=none" in rows["setting"][0]
    vectors = replace(headless, reward="features", out=tmp_path / "vectors")
    interaction_curves(vectors)
    assert read_table(vectors.out / "rows.csv")["value"].gt(0).sum() > 10
    by_default = replace(headless, reward="auto", out=tmp_path / "auto")
    interaction_curves(by_default)
    assert rows_of(by_default) == rows_of(headless)
    for asked in ({"label": "truth"}, {"reward": "log_odds", "label": "prediction"}):
        with pytest.raises(UsageError):
            interaction_curves(replace(without, **asked))


def test_token_drop_is_another_game(config, tmp_path):
    torch.manual_seed(1)
    vit = tmp_path / "vit.safetensors"
    save_file(create_model("test_vit", num_classes=10).state_dict(), vit)
    dropped = replace(
        config,
        checkpoints=(f"test_vit={vit}",),
        label="3",
        fill="token_drop",
        pairs=1,
        count=2,
    )
    interaction_curves(dropped)
    assert "game=token_drop" in read_table(dropped.out / "rows.csv")["setting"][0]


def test_half_precision_is_said(config, capsys):
    interaction_curves(replace(config, precision="float16", pairs=1, count=2))
    rows = read_table(config.out / "rows.csv")
    assert "precision=float16" in rows["setting"][0]
    assert rows.query("measure == 'noise_floor'")["value"].item() > 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": ()}, "expected a checkpoint, got none"),
        (
            {"checkpoints": ("resnot18",)},
            "the name of a timm model, hf-hub:USER/NAME",
        ),
        ({"count": 1}, "--count of at least 2"),
        ({"pairs": 1000}, "pairs per image, got 1000"),
        ({"orders": (0.0, 2.0)}, "ratios between 0 and 1"),
        ({"replicates": 3}, "even number of --replicates"),
        ({"target": -1.0}, "--target of at least 0, got -1"),
        ({"target": float("nan")}, "--target of at least 0, got nan"),
        ({"max_contexts": 0}, "--max-contexts of at least 1, got 0"),
        ({"images": None}, "either --images DIR or --data NAME"),
        ({"data": "digits"}, "either --images DIR or --data NAME"),
        ({"budget": 10}, "--budget of at least"),
        ({"budget": -1}, "--budget of at least 0"),
        ({"budget": 10**6, "protocol": "a2mim"}, "--budget without --protocol"),
        ({"grid": None, "pairs": 3, "protocol": "a2mim"}, "--protocol or --orders"),
        ({"grid": 4, "protocol": "iclr22"}, "--protocol or --grid"),
        ({"fill": "token_drop", "reward": "features"}, "with a --reward of the classifier"),
        ({"fill": "token_drop"}, "timm VisionTransformer, whose tokens can be dropped, got ResNet"),
        ({"batch_size": -1}, "--batch-size of at least 0"),
        ({"label": "cat"}, "auto, prediction, truth or a class index, got 'cat'"),
        ({"label": "5000"}, "label 5000 is not one of the model's 1000 classes"),
        ({"grid": 7}, "a 7 x 7 grid divides"),
        ({"checkpoints": ("test_resnet",)}, "cannot make test_resnet of timm: OSError: no network"),
    ],
)
def test_bad_input(config, changes, message, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    with pytest.raises(UsageError) as caught:
        interaction_curves(replace(config, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files(config, images, weights):
    whole = {name: (images / name).read_bytes() for name in ("a/0.png", "a/1.png")}
    for name in whole:
        (images / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"at least 2 images .* that can be read, 1 can"):
        interaction_curves(config)
    for name, content in whole.items():
        (images / name).write_bytes(content)
    (images / "labels.csv").write_text("file,class_index\na/0.png\n")
    with pytest.raises(UsageError, match=r"line 2 of .*labels\.csv"):
        interaction_curves(config)
    weights.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"net\.safetensors"):
        interaction_curves(replace(config, label="1"))
    torch.save({"state_dict": create_model("test_vit").state_dict()}, weights.with_suffix(".pth"))
    other = replace(config, label="1", checkpoints=(f"test_resnet={weights.with_suffix('.pth')}",))
    with pytest.raises(UsageError, match="to fit test_resnet in every tensor"):
        interaction_curves(other)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_not_opened(config, tmp_path, capsys):
    torch.save(Malicious(), tmp_path / "evil.pth")
    with pytest.raises(UsageError, match=r"evil\.pth"):
        interaction_curves(replace(config, checkpoints=(f"test_resnet={tmp_path / 'evil.pth'}",)))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.integration
def test_grid_and_label_fit_what_is_there(config, tmp_path, capsys):
    """Networks of 64 px: 8 x 8 patches; classes are theirs, or not."""
    open_ones = {"grid": None, "label": "auto", "pairs": 2, "orders": (0.0, 1.0), "target": 0.0}
    interaction_curves(replace(config, **open_ones))
    setting = read_table(config.out / "rows.csv")["setting"][0]
    assert "grid=8x8" in setting
    assert "label=truth" in setting
    assert "label: truth (" in capsys.readouterr().out
    digits = replace(config, **open_ones, images=None, data="digits", out=tmp_path / "digits")
    interaction_curves(digits)
    assert "label=prediction" in read_table(digits.out / "rows.csv")["setting"][0]
    assert "1000 classes and digits has 10" in capsys.readouterr().out
    with pytest.raises(UsageError, match="a 7 x 7 grid divides, got 64 x 64 px for test_resnet"):
        interaction_curves(replace(config, grid=7))
    assert "plan" not in capsys.readouterr().out
