import math
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from a2mim.data.sampler import (
    Batches,
    MicroBatches,
    keyed_generator,
    keyed_seed,
    keyed_uniforms,
    make_loader,
)


class Numbered:
    """Image k in epoch e: noise keyed by (e, k)."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def load(self, index, epoch):
        return torch.rand(3, 2, 2, generator=keyed_generator("pixels", epoch, index))


@pytest.mark.integration
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_shows_every_image_once_but_for_the_incomplete_batch(images, size, seed, epoch):
    if size > images:
        with pytest.raises(ValueError, match=f"at least {size} images for a batch, got {images}"):
            Batches(images, size, seed)
        return
    batches = Batches(images, size, seed)
    first = epoch * batches.per_epoch
    seen = torch.cat([batches.at(step) for step in range(first, first + batches.per_epoch)])
    assert len(seen) == len(seen.unique()) == images - images % size
    assert set(seen.tolist()) <= set(range(images))


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_processes_and_micro_batches_share_a_step_and_resuming_is_a_suffix(
    ranks, accumulate, images_each, start, more
):
    batches = Batches(50, ranks * accumulate * images_each, seed=1)  # of at most 48
    stop = start + more
    own = [
        list(MicroBatches(batches, start, stop, rank=r, ranks=ranks, accumulate=accumulate))
        for r in range(ranks)
    ]
    for k, step in enumerate(range(start, stop)):
        parts = [own[r][k * accumulate + a] for r in range(ranks) for a in range(accumulate)]
        assert {len(part) for part in parts} == {images_each}
        together = [index for part in parts for _, index in part]
        assert together == batches.at(step).tolist()
        assert {epoch for part in parts for epoch, _ in part} == {step // batches.per_epoch}
    for r in range(ranks):
        whole = MicroBatches(batches, 0, stop, rank=r, ranks=ranks, accumulate=accumulate)
        assert len(whole) == stop * accumulate
        assert list(whole)[start * accumulate :] == own[r]


def test_orders_differ_by_epoch_and_seed_and_stay_what_they_are():
    batches = Batches(10, 10, seed=0)
    orders = {tuple(Batches(10, 10, seed).at(step).tolist()) for seed in (0, 1) for step in (0, 1)}
    assert len(orders) == 4
    # As first computed: another order would make a resumed run see images twice.
    assert batches.at(0).tolist() == PINNED
    assert keyed_seed(0, "order", 1) != keyed_seed(0, "order", 2)
    assert 0 <= keyed_seed("x") < 2**63


PINNED = [5, 1, 0, 6, 3, 9, 7, 2, 8, 4]


def test_masks_are_cut_like_images():
    batches = Batches(24, 12)
    rows_GN = torch.arange(24).reshape(12, 2)
    for ranks, accumulate in ((1, 1), (2, 3), (3, 2)):
        parts = [
            part
            for r in range(ranks)
            for part in MicroBatches(
                batches, 0, 1, rank=r, ranks=ranks, accumulate=accumulate
            ).share(rows_GN)
        ]
        assert torch.equal(torch.cat(parts), rows_GN)
        assert len(parts) == ranks * accumulate
        size = MicroBatches(batches, 0, 1, ranks=ranks, accumulate=accumulate).size
        assert {len(part) for part in parts} == {size}


def test_what_cannot_be_cut_is_refused():
    batches = Batches(24, 12)
    with pytest.raises(ValueError, match="2 processes x 4 micro-batches divide, got 12; use a mul"):
        MicroBatches(batches, 0, 1, ranks=2, accumulate=4)
    with pytest.raises(ValueError, match="a rank below 2, got 2"):
        MicroBatches(batches, 0, 1, rank=2, ranks=2)
    with pytest.raises(ValueError, match="at least 1 micro-batch per step, got 0"):
        MicroBatches(batches, 0, 1, accumulate=0)
    with pytest.raises(ValueError, match="each of the 12 images of a batch, got 11"):
        MicroBatches(batches, 0, 1).share(torch.zeros(11, 2))
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        Batches(4, 0)


def test_workers_and_resuming_do_not_change_a_pixel():
    batches = Batches(11, 4)

    def loaded(start, workers):
        torch.manual_seed(start + workers)
        before = torch.get_rng_state()
        loader = make_loader(
            Numbered(11), MicroBatches(batches, start, 5, accumulate=2), workers=workers
        )
        found = list(loader)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    whole, resumed = loaded(0, workers=0), loaded(3, workers=2)
    assert len(whole) == 10
    assert whole[0]["image"].shape == (2, 3, 2, 2)
    for one, two in zip(whole[6:], resumed, strict=True):
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["index"], two["index"])
    expected = Numbered(11).load(int(whole[9]["index"][1]), 2)
    assert torch.equal(whole[9]["image"][1], expected)


def test_workers_leave_signals_to_their_parent():
    class Asked(Numbered):
        def load(self, index, epoch):
            ignored = [
                signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM)
            ]
            return torch.full((3, 1, 1), float(all(ignored)))

    (batch,) = make_loader(Asked(4), MicroBatches(Batches(4, 4), 0, 1), workers=1)
    assert batch["image"].eq(1).all()


def test_an_image_of_another_kind_is_refused():
    class Halves(Numbered):
        def load(self, index, epoch):
            return torch.zeros(3, 2, 2, dtype=torch.float16)

    with pytest.raises(TypeError, match=r"uint8 image \(C, H, W\) from load\(\d, 0\), got torch"):
        next(iter(make_loader(Halves(4), MicroBatches(Batches(4, 2), 0, 1))))


def test_keys_are_spread_and_pinned():
    """The constant by: int.from_bytes(blake2b(repr(('a', 1, 2)).encode(), 8), 'big') >> 1."""
    import hashlib

    digest = hashlib.blake2b(b"('a', 1, 2)", digest_size=8).digest()
    assert keyed_seed("a", 1, 2) == int.from_bytes(digest, "big") // 2
    numbers = {keyed_seed("a", seed, k) for seed in range(50) for k in range(50)}
    assert len(numbers) == 2500
    assert all(0 <= number < 2**63 for number in numbers)
    same, other = keyed_generator(1, 2), keyed_generator(2, 1)
    assert torch.rand(1, generator=same) != torch.rand(1, generator=other)


def test_repeated_images_have_other_draws():
    """Repeated augmentation: 3 times a third of the images, in an epoch of the same length."""
    batches = Batches(20, 6, seed=1, repeats=3)
    assert batches.per_epoch == Batches(20, 6, seed=1).per_epoch
    for step in range(5):
        epoch, place = divmod(step, 3)
        first_7 = Batches(20, 6, seed=1).order(epoch)[:7]
        seen = [int(first_7[k // 3]) for k in range(6 * place, 6 * place + 6)]
        assert batches.at(step).tolist() == seen[::3] + seen[1::3] + seen[2::3]
        draws = [3 * epoch, 3 * epoch + 1, 3 * epoch + 2]
        assert batches.draws(step).tolist() == [draw for draw in draws for _ in range(2)]
    keys = [key for part in MicroBatches(batches, 0, 6, accumulate=2) for key in part]
    assert len(set(keys)) == len(keys) == 36  # never the same pixels twice
    assert keys == [
        key
        for step in range(6)
        for rank in range(2)
        for part in MicroBatches(batches, step, step + 1, rank=rank, ranks=2)
        for key in part
    ]
    with pytest.raises(ValueError, match="got 0 repeats"):
        Batches(20, 6, repeats=0)


def deit(images, repeats, rank, ranks, order):
    """What DeiT's sampler, as timm has it, deals to a process from this order of the images."""
    sampler = RepeatAugSampler(
        range(images), ranks, rank, shuffle=False, num_repeats=repeats, selected_round=0
    )
    return [int(order[k]) for k in sampler]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_as_many_processes_as_repeats_get_what_deit_deals_to_them(accumulate):
    batches = Batches(24, 12, seed=4, repeats=3)
    order = Batches(24, 12, seed=4).order(0)
    for rank in range(3):
        micro_batches = MicroBatches(batches, 0, 2, rank=rank, ranks=3, accumulate=accumulate)
        ours = [index for part in micro_batches for _, index in part]
        assert ours == deit(24, 3, rank, 3, order)


@pytest.mark.parametrize(
    ("size", "repeats", "ranks"), [(24, 3, 4), (24, 3, 6), (20, 3, 4), (16, 2, 8)]
)
def test_copies_are_on_different_processes(size, repeats, ranks):
    """With more processes as well; and a step has the images that it has with DeiT's sampler."""
    images = 2 * size + 5
    batches = Batches(images, size, seed=1, repeats=repeats)
    order = Batches(images, size, seed=1).order(0)
    M = size // ranks
    for step in range(2):
        ours, theirs = [], []
        for rank in range(ranks):
            ([*part],) = MicroBatches(batches, step, step + 1, rank=rank, ranks=ranks)
            indices = [index for _, index in part]
            assert len(set(indices)) == M
            ours += indices
            theirs += deit(images, repeats, rank, ranks, order)[step * M : (step + 1) * M]
        assert sorted(ours) == sorted(theirs)
        assert len(set(ours)) < size


def test_uniforms_are_uniform_and_their_own():
    """Mean and variance of 2^16 numbers to 5 standard errors; neighbours are uncorrelated."""
    n = 1 << 16
    for counters in ((range(n),), (range(n), [0]), ([7], range(n))):
        u = keyed_uniforms(1, *counters).ravel()
        assert 0 <= u.min() < u.max() < 1
        assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * n)
        assert abs(u.var() - 1 / 12) < 5 / math.sqrt(180 * n)
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5 / math.sqrt(n)
        assert len(np.unique(u)) == n
    grid = keyed_uniforms(1, np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert grid[2, 3] == keyed_uniforms(1, 2, 3)[0] != keyed_uniforms(1, 3, 2)[0]
    assert grid[2, 3] != keyed_uniforms(2, 2, 3)[0]


def test_a_uniform_is_that_of_whole_numbers_in_python():
    def mix(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    step = round(2**64 * (math.sqrt(5) - 1) / 2) // 2  # of SplitMix64, to double precision
    assert abs(0x9E3779B97F4A7C15 // 2 - step) < 2**12
    hashed = mix(11)
    for counter in (5, 0, 7):
        hashed = mix((hashed + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64)
    assert keyed_uniforms(11, 5, 0, 7).tolist() == [(hashed >> 11) / 2**53]
