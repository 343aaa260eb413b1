import functools
import math

import numpy as np
import pytest
import torch
from timm import create_model
from torch import nn
from torch._dynamo.utils import counters

import interactions as ix
from interactions.games import stream as module
from interactions.games.stream import Stream
from interactions.keys import torch_seeded
from interactions.networks.inference import largest_size
from interactions.networks.masking import place
from interactions.orders.estimator import add_to_each, measure_each

GRID = ix.PatchGrid(4, 4)
DESIGN = ix.Design(ix.NeighbourPairs(GRID, count=3), ix.Windows(2, 2), ratios=(0, 0.3, 0.6, 1))


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def make_model(name, **options):
    with torch_seeded(0):
        return create_model(name, num_classes=5, **options).eval()


VIT = functools.partial(make_model, "vit_tiny_patch16_224", **SMALL)
RESNET = functools.partial(make_model, "test_resnet")


def make_images(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def make_games(model, count=4, **options):
    return ix.PatchGames(model, make_images(count), range(count), GRID, **options)


def make_coalitions(count, seed=2):
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)) < 0.5


def watched(model):
    """What goes through a model: batch sizes and number formats."""
    seen = []
    model.register_forward_hook(lambda _, args, out: seen.append((len(args[0]), out.dtype)))
    return seen


def asked(stream, games, counts):
    coalitions = [make_coalitions(count, seed) for seed, count in enumerate(counts)]
    answers = [stream.ask(game, some) for game, some in zip(games, coalitions, strict=True)]
    return answers, coalitions


@pytest.mark.parametrize("make", [VIT, RESNET])
def test_images_share_full_batches(make):
    model = make()
    games = make_games(model, batch_size=8)
    games[0](make_coalitions(1))  # once for each network, two images are composed in two ways
    seen, stream = watched(model), Stream(together=True)
    answers, coalitions = asked(stream, games, (5, 14, 1, 7))  # 27 in all
    assert [size for size, _ in seen] == [8, 8, 8]
    assert [answer.complete for answer in answers] == [True, True, True, False]
    stream.finish()
    assert [size for size, _ in seen] == [8, 8, 8, 8]  # the last one is filled up
    for game, answer, some in zip(games, answers, coalitions, strict=True):
        assert answer.complete
        torch.testing.assert_close(answer.fetch(), game(some), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [VIT, RESNET])
def test_batches_of_one_size_give_an_image_the_same_values_to_the_bit(make):
    """Whichever images it shares them with, and in whatever order: as a resumed run needs."""
    games = list(make_games(make(), batch_size=8))
    counts = (5, 14, 1, 7)
    stream = Stream(together=True)
    answers, coalitions = asked(stream, games, counts)
    stream.finish()
    for order in ((3, 1, 0, 2), (1,), (2, 0)):
        again, found = Stream(together=True), {}
        for k in order:
            found[k] = again.ask(games[k], coalitions[k])
        again.finish()
        for k in order:
            assert torch.equal(found[k].fetch(), answers[k].fetch())


def test_on_a_cpu_images_do_not_share_batches():
    model = RESNET()
    seen, stream = watched(model), Stream()
    for game, some in zip(make_games(model, 2, batch_size=8), (5, 9), strict=True):
        stream.ask(game, make_coalitions(some))
        stream.end_image()
    assert [size for size, _ in seen] == [5, 8, 1]
    assert stream.ahead == 0


@pytest.mark.parametrize(
    ("make", "precision"), [(VIT, "float32"), (VIT, "float16"), (RESNET, "float32")]
)
def test_records_are_those_of_one_image_at_a_time(make, precision):
    model = make()
    games = make_games(model, batch_size=16, precision=precision)
    alone = list(measure_each(games, DESIGN))
    seen = watched(model)
    records = list(measure_each(games, DESIGN, together=True))
    assert {size for size, _ in seen} == {16}
    total = sum(record.forwards for record in records)
    precise = sum(dtype == torch.float32 for _, dtype in seen)
    if precision == "float16":
        ends = 4 * 2 * 4 * 3  # at most: images, ends, coalitions, pairs
        assert 1 <= precise <= math.ceil(ends / 16)
    assert math.ceil(total / 16) <= len(seen) <= math.ceil(total / 16) + 1
    tolerance = 1e-5 if precision == "float32" else 2e-2
    for one, other in zip(records, alone, strict=True):
        assert (one.image, one.forwards) == (other.image, other.forwards)
        close = functools.partial(np.testing.assert_allclose, rtol=0)
        close(one.replicates_PRO, other.replicates_PRO, atol=tolerance)
        close(one.replicates_PRO[:, :, [0, -1]], other.replicates_PRO[:, :, [0, -1]], atol=1e-5)


def test_added_replicates_are_those_of_a_larger_design():
    games = make_games(RESNET(), 2, batch_size=16)
    records = list(measure_each(games, DESIGN))
    grown = list(add_to_each(games, records, DESIGN, {4: 4}))
    larger = ix.Design(DESIGN.pairs, ix.Windows(4, 2), DESIGN.ratios)
    for one, other in zip(grown, measure_each(games, larger), strict=True):
        at = one.orders_O.tolist().index(4)
        np.testing.assert_allclose(one.replicates(at), other.replicates(at), atol=1e-5)
    with pytest.raises(ValueError, match="zip"):
        list(add_to_each(games, records[:1], DESIGN, {4: 4}))


def test_records_come_when_the_device_has_an_image_to_go_on_with():
    games, gone = make_games(VIT(), 4, batch_size=16), []

    def one_by_one():
        for game in games:
            gone.append(game.image)
            yield game

    at_record = [(record.image, len(gone)) for record in measure_each(one_by_one(), DESIGN)]
    assert at_record == [("0", 1), ("1", 2), ("2", 3), ("3", 4)]
    gone.clear()
    shared = measure_each(one_by_one(), DESIGN, together=True)
    at_record = [(record.image, len(gone)) for record in shared]
    assert at_record == [("0", 2), ("1", 3), ("2", 4), ("3", 4)]


def test_dropped_tokens_share_batches_of_their_length():
    model, images = VIT(), make_images(3)
    games = [ix.TokenDropGame(model, image, 0, GRID, str(k)) for k, image in enumerate(images)]
    coalitions = make_coalitions(40)
    seen, stream = watched(model.norm_pre), Stream(together=True)
    answers = [stream.ask(game, coalitions) for game in games]
    stream.finish()
    assert len(seen) == len(coalitions.sum(dim=1).unique())
    for game, answer in zip(games, answers, strict=True):
        torch.testing.assert_close(answer.fetch(), game(coalitions), rtol=1e-5, atol=1e-5)


class Small(nn.Module):
    """A device that holds two images at once."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.tried = []

    def forward(self, images):
        self.tried.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return images.flatten(1)[:, :5] * self.weight


def test_all_lengths_of_sequences_share_one_place_for_images(monkeypatch):
    """What is held does not grow with the sizes of coalitions, but for the numbers of tokens."""
    held, size = [], 16
    monkeypatch.setattr(module, "place", lambda *of: held.append(place(*of)) or held[-1])
    images = make_images(2)
    games = [ix.TokenDropGame(VIT(), image, 0, GRID, batch_size=size) for image in images]
    coalitions, stream = make_coalitions(200), Stream(together=True)
    for game in games:
        stream.ask(game, coalitions)
    stream.finish()
    lengths = coalitions.sum(dim=1).unique().tolist()
    assert len(lengths) > 8
    bytes_held = sum(one.nbytes for one in held)
    assert bytes_held == size * (images[0].nbytes + 8 * sum(lengths))


def test_a_batch_that_did_not_fit_is_remembered():
    model = Small().eval()
    games = list(make_games(model, 2, batch_size=16, reward=ix.REWARDS["logit"]))
    coalitions = make_coalitions(21)
    for together in (True, False):
        stream = Stream(together)
        answers = [stream.ask(game, coalitions) for game in games]
        stream.finish()
        for game, answer in zip(games, answers, strict=True):
            shown = ix.hide(game.image_CHW[None], coalitions, GRID, torch.zeros(()))
            expected = shown.flatten(1)[:, game.label].double()
            assert torch.equal(answer.fetch(), expected)
    # Tried once, in the first stream, and never again.
    assert [size for size in model.tried if size > 2] == [16, 8, 4]
    image, device = games[0].image_CHW, torch.device("cpu")
    assert largest_size(model, image, "float32", device) == 2
    assert largest_size(model, image, "tf32", device) > 1e9

    class Tiny(Small):
        def forward(self, images):
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        make_games(Tiny().eval(), 1, batch_size=4)[0](coalitions)


@pytest.fixture
def compiled(monkeypatch):
    """Shapes of what compiled networks are given; the compiler is the fastest there is."""
    shapes, compiler = [], torch.compile

    def eager(function, **options):
        inner = compiler(function, backend="eager", **options)

        def call(*tensors):
            shapes.append(tuple(tensors[0].shape))
            return inner(*tensors)

        return call

    monkeypatch.setattr(torch, "compile", eager)
    torch._dynamo.reset()
    counters.clear()
    return shapes


@pytest.mark.integration
@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (VIT, "float16"),
        (VIT, "float32"),
        (RESNET, "float32"),
    ],
)
def test_a_network_is_compiled_once(make, precision, compiled):
    """For all images, whatever is left for the last batch, with hooks, over several calls."""
    model = make()
    plain = list(measure_each(make_games(model, 3, batch_size=16, precision=precision), DESIGN))
    games = make_games(model, 3, batch_size=16, precision=precision, compile=True)
    seen = watched(model)
    records = list(measure_each(games, DESIGN, together=True))
    records = list(measure_each(games, DESIGN))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    tokens = (16, 4 * 4, 24) if make is VIT else (16, 3, 32, 32)
    assert set(compiled) == {tokens}
    # The hook stays outside of the graph; ends in float32 are not compiled.
    assert len(seen) > len(compiled) or precision == "float32"
    for one, other in zip(records, plain, strict=True):
        tolerance = 1e-5 if precision == "float32" else 2e-2
        np.testing.assert_allclose(one.replicates_PRO, other.replicates_PRO, atol=tolerance)
    assert "forward" not in vars(model)


def test_games_without_a_network_answer_at_once():
    game = ix.toy.SizeGame(16, lambda k: float(k**2))
    coalitions = make_coalitions(6)
    answer = Stream().ask(game, coalitions)
    assert answer.complete
    assert torch.equal(answer.fetch(), game(coalitions))


def test_bad_values_are_named():
    class Broken(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :5] / 0.0

    stream = Stream(together=True)
    answers, _ = asked(stream, make_games(Broken().eval(), 2, names=["cat", "dog"]), (3, 3))
    stream.finish()
    with pytest.raises(ValueError, match="image dog: the model gave values that are not finite"):
        answers[1].fetch()
    games = list(make_games(VIT(), 2, names=["cat", "dog"], batch_size=4))
    wrong = ix.PatchGame(games[1].model, games[1].image_CHW, 7, GRID, image="dog", batch_size=4)
    stream = Stream(together=True)
    stream.ask(games[0], make_coalitions(2))
    with pytest.raises(ValueError, match="image dog: label 7"):
        stream.ask(wrong, make_coalitions(2))
    assert stream.ask(games[0], make_coalitions(0)).fetch().shape == (0,)
