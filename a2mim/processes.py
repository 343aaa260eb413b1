"""Several processes of one command.

Those that ``torchrun`` started share work, and the first one writes:

    process r of R makes the missing parts r, r + R, r + 2 R, ... of a run

A part is a file in the run's folder, the same whoever makes it, so that any number of processes
goes on with what any other number left. They wait for one another through the store that
``torchrun`` keeps. What all have to say is said by the first; an error is said once, by whom it
happened to, and ends the others where they wait next.

:func:`side_by_side` starts processes of its own, for jobs that need nothing of one another.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import active_children, get_context, parent_process
from typing import TYPE_CHECKING, TypeVar

import torch

from a2mim.messages import UsageError, in_a_line

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

PAUSE = 0.02
"""Seconds between two looks at the others."""


@dataclass
class Peers:
    """The processes of a command, as one of them sees them.

    Attributes:
        store: what they all read and write.
        rank: which process this is.
        world: of how many.
        waits: how often it has waited for the others.
        same: whether all do the same now, one after the other; see :func:`first`.
    """

    store: Store
    rank: int
    world: int
    waits: int = 0
    same: bool = False

    def wait(self) -> None:
        """Wait until all processes have come as far.

        Raises:
            SystemExit: without a word, if one failed: it says why itself.
        """
        self.waits += 1
        try:
            arrived = self.store.add(f"wait {self.waits}", 1)
            while arrived < self.world:
                if self.store.add("failed", 0):
                    raise SystemExit(1)
                time.sleep(PAUSE)
                arrived = self.store.add(f"wait {self.waits}", 0)
        except RuntimeError:  # the store is gone, and with it who kept it
            raise SystemExit(1) from None

    def fail(self) -> bool:
        """Let the others know; whether this process is the first that failed."""
        try:
            return self.store.add("failed", 1) == 1
        except RuntimeError:
            return False


_peers: Peers | None = None
_commands = itertools.count()


def process_rank() -> tuple[int, int]:
    """Which process this is, of how many: as its group or ``torchrun`` says, else the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return process_rank()[0] == 0


@contextmanager
def together() -> Iterator[None]:
    """Share the work of a command between the processes that ``torchrun`` started.

    As a decorator, ``@together()``, of a command; nothing changes for one process, or inside of
    another such command.

    Raises:
        UsageError: if the processes cannot find one another.
        SystemExit: in a process whose error another one has said.
    """
    global _peers
    rank, world = process_rank()
    if world == 1 or _peers is not None:
        yield
        return
    launched = torch.distributed.is_initialized()
    _peers = Peers(_store(next(_commands)), rank, world)
    if torch.cuda.is_available():  # "cuda" is this one from now on
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    try:
        with _silent(rank > 0):
            yield
            _peers.wait()  # whoever keeps the store is the last to leave
    except BaseException:
        if not _peers.fail():
            raise SystemExit(1) from None
        raise
    finally:
        _peers = None
        if torch.distributed.is_initialized() and not launched:  # a training within it
            torch.distributed.destroy_process_group()


def is_sharing() -> bool:
    """Whether other processes do other parts now, and may not meet an error that this one meets."""
    return _peers is not None and not _peers.same


def wait() -> None:
    """Wait until all processes have come as far; see :meth:`Peers.wait`."""
    if _peers is not None:
        _peers.wait()


def first(make: Callable[[], T]) -> T:
    """What the first process makes before the others do: it downloads, opens and warns alone."""
    if _peers is None:
        return make()
    peers = _peers
    if peers.rank > 0:
        peers.wait()
        logging.disable()
    peers.same = True
    try:
        made = make()
    finally:
        peers.same = False
        logging.disable(logging.NOTSET)
    if peers.rank == 0:
        peers.wait()
    return made


def shared(missing: Sequence[T]) -> Sequence[T]:
    """This process's share of the parts that are not made; all processes ask at one time.

    Args:
        missing: all of them, in the same order everywhere.
    """
    if _peers is None:
        return missing
    _peers.wait()  # all have looked before one of them makes something
    return missing[_peers.rank :: _peers.world]


def side_by_side(
    work: Callable[..., None], jobs: Sequence[tuple[object, ...]], workers: int
) -> Iterator[None]:
    """Do ``work(*job)`` for all jobs, and tell whenever one is done.

    Args:
        work: can be pickled, and so can the jobs. SIGTERM ends it with KeyboardInterrupt, or as
            the system does.
        jobs: in the order in which they begin.
        workers: how many processes; they share this one's threads, and end with it, however that
            is. A single one is this one.
    """
    if workers == 1:
        for job in jobs:
            work(*job)
            yield
        return
    start = partial(_begin, max(torch.get_num_threads() // workers, 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start) as pool:
        try:
            for done in as_completed([pool.submit(_alone, work, job) for job in jobs]):
                done.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of who waits for us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """It may be killed, and then tells nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _alone(work: Callable[..., None], job: tuple[object, ...]) -> None:
    """Work in a process that, once it is told to stop, takes no other job."""
    try:
        work(*job)
    except KeyboardInterrupt:
        os._exit(130)


@contextmanager
def _silent(silent: bool) -> Iterator[None]:
    """Without standard output."""
    if not silent:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _store(number: int) -> Store:
    """The part of the store that one command has, of those that all processes run in turn."""
    from torch.distributed import PrefixStore

    return PrefixStore(f"a2mim {number}", _store_of_all())


@cache
def _store_of_all() -> Store:
    """The store of ``torchrun``."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://"))
        return store
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            "expected several processes to be started by torchrun, cannot find the others: "
            f"{in_a_line(error)}"
        ) from error
