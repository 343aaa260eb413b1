import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from a2mim import BlockMask
from a2mim.commands.demo import demo, load
from a2mim.data.folders import DataError
from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from a2mim.settings.demo import IMAGE_SIZE, MASK_BLOCK, DemoConfig


def without_commit(path):
    return read_table(path / "rows.csv").drop(columns="commit")


@pytest.mark.integration
def test_everything_is_there(run_folder):
    assert sorted(p.name for p in run_folder.iterdir()) == [
        "config.json",
        "interaction_curves.pdf",
        "interaction_curves.png",
        "interaction_curves.svg",
        "occlusion_curves.pdf",
        "occlusion_curves.png",
        "occlusion_curves.svg",
        "reconstructions-resnet.npz",
        "reconstructions-vit.npz",
        "reconstructions.pdf",
        "reconstructions.png",
        "reconstructions.svg",
        "report.html",
        "rows.csv",
        "weights",
    ]
    assert [p.name for p in run_folder.parent.iterdir()] == ["demo"]


@pytest.mark.integration
def test_rows_are_what_was_asked_for(run_folder):
    rows = read_table(run_folder / "rows.csv")
    counts = rows.groupby(["model", "weights", "measure"]).size().unstack()
    assert len(counts) == 4
    assert (counts["accuracy"] == 100).all()
    assert (counts["occlusion_accuracy"] == 3 * 10).all()
    for measure in ("energy", "strength_plug_in", "strength_cross_sign"):
        assert (counts[f"interaction_{measure}"] == 2 * 13).all()
    rho = counts.reindex(columns=["interaction_rho", "interaction_rho_at_least"]).fillna(0)
    assert (rho.sum(axis=1) == 13).all()
    assert rows["value"].notna().all()
    for _, group in rows[rows["measure"].str.startswith(("occl", "interaction_e"))].groupby(
        "measure"
    ):
        images = group.groupby(["model", "weights"])["image"].unique().map(tuple)
        assert images.nunique() == 1  # all networks are measured on the same images


@pytest.mark.integration
def test_all_settings_count(run_folder):
    """They are in the rows, and the four networks differ."""
    rows = read_table(run_folder / "rows.csv")
    setting = rows.loc[rows["measure"] == "interaction_energy", "setting"].unique().tolist()
    assert setting == [
        "grid=8x8 reward=log_odds label=truth fill=zero pairs=2 radius=2 contexts=4x2"
    ]
    inner = rows["at"].between(0.01, 0.99) & rows["measure"].str.startswith("interaction")
    ends = ~inner & rows["measure"].str.startswith("interaction")
    assert set(rows.loc[inner, "samples"]) == {2 * 8}
    assert set(rows.loc[ends, "samples"]) == {2}
    strengths = rows[rows["measure"] == "interaction_energy"]
    sums = strengths.groupby(["model", "weights"])["value"].sum()
    assert sums.nunique() == 4


@pytest.mark.integration
def test_reconstructions_keep_what_was_visible(run_folder):
    for name in ("vit", "resnet"):
        with np.load(run_folder / f"reconstructions-{name}.npz", allow_pickle=False) as file:
            original, masked, completed = (file[k] for k in ("original", "masked", "completed"))
        mask = BlockMask(IMAGE_SIZE, MASK_BLOCK, 0.6)
        visible_BN = mask.draw(torch.arange(len(original)), 0)
        visible = mask.grid.pixels(visible_BN, IMAGE_SIZE, IMAGE_SIZE).numpy()
        visible = np.broadcast_to(visible, original.shape)
        for shown in (masked, completed):
            np.testing.assert_array_equal(shown[visible], original[visible])
        means = original.mean(axis=(2, 3), keepdims=True)
        expected = np.broadcast_to(means, original.shape)[~visible]
        np.testing.assert_allclose(masked[~visible], expected, atol=0.51)
        assert not np.array_equal(completed[~visible], masked[~visible])


class Interrupted(Exception):
    pass


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are left out, which are drawn of the table."""
    monkeypatch.setattr("a2mim.commands.demo.draw_all", lambda folder: [])


@pytest.mark.integration
def test_an_interrupted_run_goes_on_to_the_same_result(
    run_folder, tiny, tmp_path, undrawn, monkeypatch, capsys
):
    """Stopped twice: among the networks, and before the figures."""
    import a2mim.commands.demo

    done = []
    config = DemoConfig(out=tmp_path / "demo", **tiny)
    for stop_after in (5, 10):
        with monkeypatch.context() as patch:
            for name in ("pretrain", "finetune", "measure"):
                work = getattr(a2mim.commands.demo, name)

                def counted(*args, work=work, stop_after=stop_after):
                    if len(done) == stop_after:
                        raise Interrupted
                    work(*args)
                    done.append(1)

                patch.setattr(a2mim.commands.demo, name, counted)

            def drawing(*args):
                raise Interrupted

            patch.setattr(a2mim.commands.demo, "draw_all", drawing)
            with pytest.raises(Interrupted):
                demo(config)
        assert len(done) == stop_after
        assert not config.out.exists()
        capsys.readouterr()
    demo(config)
    assert capsys.readouterr().out.count("done before") == 10
    pd.testing.assert_frame_equal(without_commit(config.out), without_commit(run_folder))


@pytest.mark.integration
def test_another_seed_gives_other_numbers(run_folder, tiny, tmp_path, undrawn):
    demo(DemoConfig(out=tmp_path / "demo", seed=1, **tiny))
    one, two = without_commit(run_folder), without_commit(tmp_path / "demo")
    assert len(one) == len(two)
    assert set(one["image"]) != set(two["image"]) or not one["value"].equals(two["value"])


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for name in ("stripes", "noise"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                if name == "stripes":
                    pixels[:] = np.where(np.arange(48) // 6 % 2, 220, 30)[None, :, None]
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.integration
def test_image_folders_work_too(folders, tiny, tmp_path, undrawn):
    out = tmp_path / "demo"
    demo(DemoConfig(data=f"folder:{folders}", out=out, **tiny))
    rows = read_table(out / "rows.csv")
    assert set(rows["dataset"]) == {"folder:images"}
    assert str(folders) not in (out / "rows.csv").read_text()
    assert "val/noise/0.png" in set(rows["image"])


def test_limits_take_fewer_images(folders, tiny):
    material = load(
        DemoConfig(data=f"folder:{folders}", **{**tiny, "max_train": 17, "max_test": 5})
    )
    assert (len(material.train), len(material.test)) == (17, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "imagenet"}, "digits, cifar10 or folder:PATH, got 'imagenet'"),
        ({"data": "folder:"}, "digits, cifar10 or folder:PATH"),
        ({"data": "folder:/nowhere/at/all"}, "expected a folder of images, found none at /nowhere"),
        ({"replicates": 3}, "even number of --replicates, got 3"),
        ({"pairs": 0}, "--pairs of at least 1, got 0"),
        ({"mask_ratio": 1.0}, "--mask-ratio between 0 and 1"),
        ({"lr": 0.0}, "a finite --lr above 0"),
        ({"lr": float("inf")}, "a finite --lr above 0"),
        ({"max_train": 20, "batch_size": 21}, "at least 21 training images (one batch), got 20"),
        ({"device": "tpu"}, "--device auto, cpu, cuda or mps, got 'tpu'"),
        ({"batch_size": 5000}, "at least 5000 training images"),
    ],
)
def test_bad_settings_fail_before_anything_is_written(tiny, tmp_path, change, message):
    config = DemoConfig(**{**tiny, "out": tmp_path / "demo", **change})
    with pytest.raises((UsageError, DataError), match=re.escape(message)):
        demo(config)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_says_what_to_do(tiny, tmp_path):
    config = DemoConfig(out=tmp_path / "demo", **{**tiny, "lr": 1e30})
    with pytest.raises(UsageError, match=r"pre-training: the loss is .*; lower the learning rate"):
        demo(config)


def test_changed_images_are_another_run(folders, tiny, tmp_path, monkeypatch):
    import a2mim.commands.demo

    def stop(*args):
        raise Interrupted

    monkeypatch.setattr(a2mim.commands.demo, "finetune", stop)
    for _ in range(2):
        with pytest.raises(Interrupted):
            demo(DemoConfig(data=f"folder:{folders}", out=tmp_path / "out" / "demo", **tiny))
        (folders / "train" / "noise" / "0.png").unlink(missing_ok=True)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_more_pairs_than_neighbours_are_refused(tiny, tmp_path):
    config = DemoConfig(out=tmp_path / "demo", **{**tiny, "pairs": 10_000})
    with pytest.raises(UsageError, match="--pairs of at most"):
        demo(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_the_global_generator_is_left_alone(tiny, tmp_path, undrawn):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    demo(DemoConfig(out=tmp_path / "demo", **{**tiny, "count": 2, "pairs": 1}))
    assert torch.equal(torch.rand(1), expected)
