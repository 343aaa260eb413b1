from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import interactions as ix
from a2mim.data.sources import Source
from a2mim.measure import comparison_pictures as module
from a2mim.measure.checkpoints import LeftOut, left_out_of
from a2mim.measure.comparison_pictures import (
    EdgePairs,
    explain_images,
    figures_of_images,
    pictured,
)
from a2mim.measure.networks import subject_of
from a2mim.measure.runner import game_of
from a2mim.messages import UsageError
from a2mim.settings.interactions import InteractionsConfig


def pixels(k):
    """A small picture of large coloured cells."""
    rng = np.random.default_rng(k)
    return rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)


@pytest.fixture
def sources():
    pictures = [Image.fromarray(pixels(k)) for k in range(5)]
    return [
        Source(f"{k}.png", lambda channels=3, picture=picture: picture, k % 3)
        for k, picture in enumerate(pictures)
    ]


@pytest.fixture
def config(compared):
    return InteractionsConfig(
        (compared["one"], compared["other"]),
        images=compared["photos"],
        grid="4x4",
        label="truth",
        reward="log_odds",
        fill="image_mean",
        device="cpu",
    )


def explain(config, sources, folder):
    left_out = LeftOut(config.checkpoints, config.weights)
    places = {name: k for k, name in enumerate(config.checkpoints, start=1)}
    explain_images(config, places, left_out, sources, folder)
    return left_out


def test_pairs_that_share_an_edge():
    pairs = EdgePairs(ix.PatchGrid(2, 3)).draw(6, 0, "")
    assert pairs.tolist() == [[0, 1], [0, 3], [1, 2], [1, 4], [2, 5], [3, 4], [4, 5]]


def test_as_many_images_as_take_their_share(sources):
    grid = ix.PatchGrid(4, 4)

    def fits(count, left, least=0):
        return pictured(sources, count, grid, 0, left, least)

    every = fits(2, 10**6)
    assert len(every.sources) == 2
    assert every.forwards == every.asked
    names = [source.name for source in every.sources]
    assert [source.name for source in fits(2, 10**6).sources] == names
    enough = int(np.ceil(every.asked / module.SHARE))
    assert fits(2, enough + 1).sources == every.sources
    one = fits(2, enough - 4)
    assert len(one.sources) == 1
    assert 0 < one.forwards <= module.SHARE * (enough - 4)
    assert one.asked == every.asked
    assert fits(2, enough + 1, least=enough).sources == []
    assert fits(2, 10).forwards == 0


def test_explanations_are_those_of_the_estimator_and_cost_what_was_planned(
    config, sources, tmp_path
):
    few = pictured(sources, 2, ix.PatchGrid(4, 4), config.seed, 10**6, 0)
    explain(config, few.sources, tmp_path / "pictures")
    found = [
        [ix.Explanation.load(tmp_path / "pictures" / f"{k}-{number}.npz") for k in (1, 2)]
        for number in (1, 2)
    ]
    for of_network in found:
        spent = sum(one.record.forwards + one.marginals.forwards for one in of_network)
        assert spent == few.forwards
        assert [one.image for one in of_network] == [source.name for source in few.sources]
        assert [one.label for one in of_network] == [source.truth for source in few.sources]
    for one, other in zip(*found, strict=True):  # the same pairs of the same patches
        np.testing.assert_array_equal(one.record.pairs_P2, other.record.pairs_P2)
    one = found[1][0]
    subject = subject_of(config.checkpoints[1], config.weights, "cpu")
    game = game_of(subject, config, few.sources[0])
    i, j = one.record.pairs_P2[3].tolist()
    coalitions = np.zeros((4, 16), bool)
    coalitions[:2, i] = coalitions[[0, 2], j] = True
    both, first, second, none = game(coalitions).tolist()
    table = one.to_frame().query("band == 'low' and i == @i and j == @j")
    assert table["interaction"].item() == pytest.approx(both - first - second + none, abs=1e-5)


def test_what_is_there_is_not_measured_again(config, sources, tmp_path, monkeypatch):
    explain(config, sources[:2], tmp_path)
    kept = {file: file.read_bytes() for file in tmp_path.glob("*.npz")}
    assert len(kept) == 4
    gone = tmp_path / "2-1.npz"
    gone.unlink()
    loaded = []

    def watched(name, *arguments, **options):
        loaded.append(name)
        return subject_of(name, *arguments, **options)

    monkeypatch.setattr(module, "subject_of", watched)
    explain(config, sources[:2], tmp_path)
    assert loaded == [config.checkpoints[0]]
    again = ix.Explanation.load(gone)
    assert gone.stat().st_size == len(kept[gone])
    assert again.image == "1.png"
    for file, content in kept.items():
        if file != gone:
            assert file.read_bytes() == content


def test_a_network_that_fails_leaves_the_others(config, sources, tmp_path, monkeypatch):
    def failing(name, *arguments, **options):
        if name == config.checkpoints[1]:
            raise UsageError("no such thing")
        return subject_of(name, *arguments, **options)

    monkeypatch.setattr(module, "subject_of", failing)
    explain(config, sources[:1], tmp_path)
    assert left_out_of(tmp_path) == {"other.safetensors": "no such thing"}
    assert [file.name for file in tmp_path.glob("*.npz")] == ["1-1.npz"]
    draw = figures_of_images(tmp_path, ["one", "other"], 1)
    assert list(draw) == ["picture-1-pairs", "picture-1-patches"]
    figure = draw["picture-1-pairs"]()
    assert figure.axes[0].get_title("left") == "one\nclass 0"


def test_features_of_encoders_are_explained_without_a_class(config, compared, sources, tmp_path):
    both = (compared["encoder"], compared["one"])
    config = replace(config, checkpoints=both, reward="projection", label="prediction")
    explain(config, sources[:1], tmp_path)
    for number in (1, 2):
        one = ix.Explanation.load(tmp_path / f"1-{number}.npz")
        assert (one.label, one.unit) == (None, "projection")
