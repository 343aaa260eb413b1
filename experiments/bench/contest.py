"""Ways to do the same work, each in a process of its own: they get ready together, then take turns.

On a GPU the best bare loop may be a compiled one, and compilers take half a minute a way. In
processes they work side by side; a way that fails or is not ready in time is left out and named,
and what one leaves in memory slows no other. While one has its turn, the others wait.

    budget of a pack (what gets ready at once) = the longest time to get ready + all turns

A way is a function that is given ``turn``: it calls ``turn(images)`` whenever it has worked through
so many images and the device has done them, and goes on when that returns.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from a2mim.messages import in_a_line
from experiments.bench.timing import Row

Turn = Callable[[int], None]
Way = Callable[[Turn], None]

THREADS_OF_A_COMPILER = "4"
"""In each process, of which there are up to 20."""

SLOWEST = 30.0
"""Seconds for a turn that should take one."""


class NoMoreTurnsError(Exception):
    """Whoever asked for turns has gone."""


@dataclass(frozen=True)
class Contest:
    """Rows that have one baseline: the fastest of some bare ways.

    Attributes:
        bare: ways without this toolkit, by name.
        ours: by row the ways of the toolkit, of which the fastest counts.
        targets: by row, of images a second of ours / of the fastest bare way.
        gigabytes: of the device's memory that all processes take together, about.
        ready: seconds until all are ready, at most.
        turn: seconds of a turn, about.
    """

    bare: Mapping[str, Way]
    ours: Mapping[str, Mapping[str, Way]]
    targets: Mapping[str, float]
    gigabytes: float
    ready: float
    turn: float

    def only(self, rows: Sequence[str]) -> Contest:
        """With these rows alone."""
        return replace(self, ours={row: ways for row, ways in self.ours.items() if row in rows})

    def turns(self, repeats: int) -> int:
        """Turns of all ways behind the first one: two each, then those of the fastest ones."""
        ways = len(self.bare) + sum(map(len, self.ours.values()))
        return 2 * ways + repeats * (1 + len(self.ours))


def packs(contests: Sequence[Contest], gigabytes: float) -> list[list[Contest]]:
    """Contests that get ready together, in order, as far as the device has memory for them."""
    made: list[list[Contest]] = []
    for contest in contests:
        used = sum(other.gigabytes for other in made[-1]) if made else 0.0
        if not made or used + contest.gigabytes > gigabytes:
            made.append([])
        made[-1].append(contest)
    return made


def seconds(pack: Sequence[Contest], repeats: int) -> float:
    """What a pack takes at most, as long as turns take what they should."""
    ready = max(contest.ready for contest in pack)
    return ready + sum(contest.turns(repeats) * contest.turn for contest in pack)


def held(
    pack: Sequence[Contest], repeats: int, start: Callable[[Way], Player] | None = None
) -> Iterator[Row | str]:
    """Hold the contests of a pack: a row for each, or why there is none."""
    start = in_process if start is None else start
    began = time.monotonic()
    players = [
        (
            {way: start(run) for way, run in contest.bare.items()},
            {
                row: {way: start(run) for way, run in ways.items()}
                for row, ways in contest.ours.items()
            },
        )
        for contest in pack
    ]
    everyone = [
        player
        for bare, ours in players
        for ways in (bare, *ours.values())
        for player in ways.values()
    ]
    try:
        for contest, (bare, ours) in zip(pack, players, strict=True):
            for player in (p for ways in (bare, *ours.values()) for p in ways.values()):
                player.get_ready(began + contest.ready)
        for contest, (bare, ours) in zip(pack, players, strict=True):
            yield from _rows(contest, bare, ours, repeats)
    finally:
        for player in everyone:
            player.close()


def _rows(
    contest: Contest,
    bare: Mapping[str, Player],
    ours: Mapping[str, Mapping[str, Player]],
    repeats: int,
) -> Iterator[Row | str]:
    tried = {way: _tried(player) for way, player in bare.items()}
    tried_ours = {row: {w: _tried(player) for w, player in of.items()} for row, of in ours.items()}
    best = max(tried, key=tried.__getitem__)
    fastest = {row: max(of, key=of.__getitem__) for row, of in tried_ours.items()}
    sides = {"": bare[best], **{row: ours[row][fastest[row]] for row in ours}}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, player in sides.items():
            rates[side].append(player.rate())
    for row in ours:
        ours_says, bare_says = sides[row].failed, sides[""].failed
        if ours_says or bare_says:
            yield f"{row}: {ours_says or f'baseline: {bare_says}'}"
            continue
        yield Row(
            row,
            statistics.median(rates[row]),
            statistics.median(rates[""]),
            contest.targets[row],
            unit="images/s",
            n=repeats,
            notes=(
                f"baseline: {best}; images/s of one try: {_told(tried, bare)}",
                f"ours: {fastest[row]}; images/s of one try: {_told(tried_ours[row], ours[row])}",
            ),
        )


def _told(rates: Mapping[str, float], players: Mapping[str, Player]) -> str:
    return ", ".join(f"{way} {players[way].failed or f'{rate:.0f}'}" for way, rate in rates.items())


def _tried(player: Player) -> float:
    """Images a second of a turn behind one that warms up."""
    player.rate()
    return player.rate()


class Player:
    """A way that is at work elsewhere.

    Args:
        pipe: to it.
        end: stops it.

    Attributes:
        failed: why it cannot go on; empty while it can.
    """

    def __init__(self, pipe: Connection, end: Callable[[], None]) -> None:
        self._pipe, self._end = pipe, end
        self.failed = ""

    def get_ready(self, until: float) -> None:
        """Wait for the first turn, in which it compiles."""
        self._answer(max(until - time.monotonic(), 0.0), "not ready in time")

    def rate(self) -> float:
        """Images a second of another turn; 0 if it has failed."""
        if self.failed:
            return 0.0
        try:
            self._pipe.send(None)
        except OSError:
            self.failed = "ended"
            return 0.0
        return self._answer(SLOWEST, f"no turn within {SLOWEST:g} s")

    def _answer(self, patience: float, late: str) -> float:
        try:
            answer: Any = self._pipe.recv() if self._pipe.poll(patience) else late
        except EOFError:
            answer = "ended without a word"
        if isinstance(answer, str):
            self.failed = answer
            self.close()
            return 0.0
        images, took = answer
        return float(images / took)

    def close(self) -> None:
        """Let it end."""
        self._pipe.close()
        self._end()


def in_process(way: Way) -> Player:
    """A way in a process of its own."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", THREADS_OF_A_COMPILER)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=play, args=(way, there))
    process.start()
    there.close()

    def end() -> None:
        process.kill()  # a training would finish its step first, and so what it compiles
        process.join()

    return Player(here, end)


def play(way: Way, pipe: Connection) -> None:
    """Do the turns of a way that are asked for at the other end of a pipe."""
    start = time.perf_counter()

    def turn(images: int) -> None:
        nonlocal start
        try:
            pipe.send((images, time.perf_counter() - start))
            pipe.recv()
        except (EOFError, OSError):
            raise NoMoreTurnsError from None
        start = time.perf_counter()

    try:
        way(turn)
    except NoMoreTurnsError:
        return
    except Exception as error:
        with suppress(OSError):
            pipe.send(in_a_line(error))
    finally:
        pipe.close()
