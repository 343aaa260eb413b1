import os
import signal
import threading
import time
from functools import partial
from multiprocessing import Pipe

import pytest

from experiments.bench import contest as module
from experiments.bench.contest import Contest, Player, held, in_process, packs, play, seconds


def in_thread(way):
    """A way in this process."""
    here, there = Pipe()
    thread = threading.Thread(target=play, args=(way, there), daemon=True)
    thread.start()
    return Player(here, thread.join)


def steady(rate, turn):
    """So many images in the same time."""
    while True:
        time.sleep(0.01)
        turn(rate)


def broken(turn):
    turn(1)
    raise ValueError("out of  memory")


def silent(turn):
    time.sleep(1)


def make(**changes):
    of = {
        "bare": {"slow": partial(steady, 1), "fast": partial(steady, 10_000)},
        "ours": {"one": {"only": partial(steady, 100)}, "two": {"bad": broken}},
        "targets": {"one": 0.95, "two": 0.6},
        "gigabytes": 10.0,
        "ready": 5.0,
        "turn": 0.1,
    }
    return Contest(**of | changes)


def test_every_row_is_against_the_fastest_bare_way():
    one, two = held([make()], 3, in_thread)
    assert (one.row, one.unit, one.n, one.target) == ("one", "images/s", 3, 0.95)
    assert 1e-4 < one.ratio < 0.5  # 100 / 10,000, on a machine that does other things too
    assert one.notes[0].startswith("baseline: fast; images/s of one try: slow ")
    assert one.notes[1].startswith("ours: only; images/s of one try: only ")
    assert two == "two: ValueError: out of memory"


def test_a_way_that_fails_is_left_out_and_named():
    contest = make(ours={"one": {"only": partial(steady, 100), "bad": broken}})
    (row,) = held([contest], 1, in_thread)
    assert row.notes[1].endswith("bad ValueError: out of memory")
    late = make(bare={"fast": partial(steady, 10_000), "late": silent}, ready=0.3)
    row, _ = held([late], 1, in_thread)
    assert row.notes[0].endswith("late not ready in time")
    row, _ = held([make(bare={"bad": broken})], 1, in_thread)
    assert row == "one: baseline: ValueError: out of memory"


def test_contests_get_ready_together_as_far_as_there_is_memory():
    sizes = [10.0, 15.0, 20.0, 50.0, 5.0]
    contests = [make(gigabytes=size) for size in sizes]
    found = [[one.gigabytes for one in pack] for pack in packs(contests, 45.0)]
    assert found == [[10.0, 15.0, 20.0], [50.0], [5.0]]


def test_seconds_are_those_of_all_turns_and_of_the_slowest_to_get_ready():
    contest = make()
    # Four ways, two turns each; then three rounds of the fastest bare one and two rows.
    assert contest.turns(3) == 2 * 4 + 3 * 3
    assert seconds([contest, make(ready=7.0)], 3) == pytest.approx(7 + 2 * 17 * 0.1)
    assert contest.only(["two"]).turns(3) == 2 * 3 + 3 * 2


def stubborn(turn):
    """A training finishes its step before it ends, which may take a compiler's minute."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        turn(os.getpid())


@pytest.mark.integration
def test_ways_are_in_processes_that_end():
    player = in_process(stubborn)
    player.get_ready(time.monotonic() + 60)
    assert not player.failed
    assert player.rate() > 0
    player.close()
    assert module.multiprocessing.active_children() == []
