import numpy as np
import pytest
import torch
from timm import create_model

import interactions as ix
from interactions.progress import Bar, Interrupted, interruptible

GRID = ix.PatchGrid(2, 2)


class Interrupting:
    """A game or a network that is interrupted at the k-th call."""

    def __init__(self, call, after):
        self.call, self.left = call, after

    def __call__(self, given):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.call(given)


def games(count, interrupt_at=None):
    """Games whose interactions vary with context, one of them interrupted."""
    teams = {frozenset(range(k, k + 3)): 0.25 for k in range(6)}
    made = [ix.toy.ParityGame(9, teams, image=str(k)) for k in range(count)]
    for k, game in enumerate(made):
        if k == interrupt_at:
            stop = Interrupting(game, 0)
            stop.n, stop.image = game.n, game.image
            made[k] = stop
    return made


def test_a_bar_counts_and_shows(capsys):
    with Bar(3, "images", shown=True) as bar:
        bar.advance(2)
        bar.advance()
    assert bar.done == 3
    assert "3/3" in capsys.readouterr().err
    with Bar(3, "images", shown=False) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def last_state(shown):
    """What a bar showed last: it draws over itself in one line."""
    return shown.rsplit("\r", 1)[-1]


@pytest.mark.parametrize("expected", [None, 2, 5])
def test_a_bar_ends_full_whatever_was_expected(expected, capsys):
    with Bar(expected, "images", shown=True) as bar:
        bar.advance(3)
    shown = last_state(capsys.readouterr().err)
    assert "100%" in shown
    assert "3/3" in shown


@pytest.mark.parametrize(("error", "ended"), [(KeyboardInterrupt, Interrupted), (OSError, OSError)])
def test_a_bar_that_is_interrupted_or_ended_by_an_error_stays_where_it_was(error, ended, capsys):
    def stop():
        with Bar(5, "images", shown=True) as bar, interruptible(bar):
            bar.advance(3)
            raise error

    with pytest.warns(ended) if ended is Interrupted else pytest.raises(ended):
        stop()
    assert "3/5" in last_state(capsys.readouterr().err)


@pytest.mark.parametrize(("shown", "done"), [(False, 1), (True, 0)])
def test_an_interrupt_is_what_it_is_without_a_bar_or_before_anything_is_done(shown, done):
    def stop():
        with Bar(3, "images", shown=shown) as bar, interruptible(bar):
            bar.advance(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()


DESIGN = ix.Design(ix.RandomPairs(4))


def test_an_interrupted_measurement_gives_the_images_that_are_done():
    with pytest.raises(KeyboardInterrupt):
        ix.measure(games(4, 2), DESIGN)
    with pytest.warns(Interrupted, match="2 images"):
        records = ix.measure(games(4, 2), DESIGN, progress=True)
    assert records.images == ("0", "1")
    for one, other in zip(records, ix.measure(games(2), DESIGN, target=None), strict=True):
        np.testing.assert_array_equal(one.replicates_PRO, other.replicates_PRO)


class Once(list):
    """Games that are interrupted when they are gone through again, for more contexts."""

    def __init__(self, games, after):
        super().__init__(games)
        self.after, self.rounds = after, 0

    def __iter__(self):
        self.rounds += 1
        if self.rounds <= 2:  # the first asks whether it is a generator
            return super().__iter__()
        k = self.after
        return iter([*self[:k], *games(10, k)[k:]])


@pytest.mark.parametrize("after", [0, 3])
def test_while_contexts_are_added_an_interrupt_leaves_all_images_as_they_were(after):
    plain = ix.measure(games(10), DESIGN, target=None)
    with pytest.warns(Interrupted, match="had before"):
        records = ix.measure(Once(games(10), after), DESIGN, target=0.01, progress=True)
    assert len(records) == 10
    for one, other in zip(records, plain, strict=True):
        np.testing.assert_array_equal(one.replicates_PRO, other.replicates_PRO)


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("test_vit", num_classes=5, img_size=64).eval()


IMAGES = torch.randn(60, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_an_interrupted_occlusion_gives_the_images_that_are_done():
    labels = torch.zeros(60, dtype=torch.int64)
    settings = {"fractions": (0, 0.5, 1), "repeats": 4, "batch_size": 64}
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))

    def network(images_BCHW):
        return images_BCHW.mean(dim=(2, 3)) @ weights

    plain = ix.occlude(network, IMAGES, labels, GRID, "random", **settings)
    watched = ix.occlude(network, IMAGES, labels, GRID, "random", **settings, progress=True)
    assert watched.equals(plain)
    # a chunk of 256 / 12 images: one clean batch and three masked ones
    stopped = Interrupting(network, 6)
    with pytest.warns(Interrupted, match="21 images"):
        rows = ix.occlude(stopped, IMAGES, labels, GRID, "random", **settings, progress=True)
    assert rows.equals(plain.iloc[: 21 * 12])


@pytest.mark.parametrize("name", ["invariance", "spectrum"])
def test_interrupted_features_are_those_of_the_batches_that_are_done(name):
    model = make_model()
    batches = [IMAGES[k : k + 8] for k in range(0, 24, 8)]
    settings = {"untrained": None, "fractions": (0.5,), "repeats": 1, "cka_batch": 8}
    arguments = (GRID,) if name == "invariance" else ()
    settings = settings if name == "invariance" else {}

    def stopping():
        yield from batches[:2]
        raise KeyboardInterrupt

    measure = getattr(ix, name)
    some = {"count": 24} if name == "invariance" else {}
    with pytest.warns(Interrupted, match="16 images"):
        table = measure(model, stopping(), *arguments, **settings, **some, progress=True)
    expected = measure(model, batches[:2], *arguments, **settings)
    np.testing.assert_allclose(table["value"], expected["value"], atol=1e-12)
    assert (table["images"] == 16).all()
    with pytest.raises(KeyboardInterrupt):
        measure(model, stopping(), *arguments, **settings, **some)


def test_a_batch_that_is_interrupted_in_the_middle_is_left_out():
    model = make_model()
    calls = iter(range(100))

    def stop(module, inputs):
        if next(calls) == 2:
            raise KeyboardInterrupt

    hook = model.blocks[-1].register_forward_pre_hook(stop)
    batches = [IMAGES[k : k + 8] for k in range(0, 24, 8)]
    with pytest.warns(Interrupted, match="16 images"):
        table = ix.spectrum(model, batches, progress=True)
    hook.remove()
    assert (table["images"] == 16).all()
