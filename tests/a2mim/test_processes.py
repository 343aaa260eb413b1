"""Commands in several processes: the bytes of one, and no process that waits for ever."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.distributed import HashStore

from a2mim import processes
from a2mim.messages import UsageError
from a2mim.processes import Peers, first, process_rank, shared, together, wait


def test_one_process_does_all(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert process_rank() == (0, 1)
    with together():
        assert first(lambda: 3) == 3
        assert shared([4, 5, 6]) == [4, 5, 6]
        wait()


@pytest.mark.parametrize("world", [2, 3, 7])
def test_parts_are_shared_without_one_left_or_twice(world, monkeypatch):
    peers, parts = [Peers(HashStore(), rank, 1) for rank in range(world)], list("abcde")
    found = []
    for peer in peers:
        peer.wait = lambda: None
        peer.world = world
        monkeypatch.setattr(processes, "_peers", peer)
        found.append(shared(parts))
    assert sorted(part for some in found for part in some) == parts
    assert max(map(len, found)) - min(map(len, found)) <= 1


def in_threads(*works):
    """What each of the works returns or raises, all at one time."""
    store, results = HashStore(), [None] * len(works)

    def run(rank):
        try:
            results[rank] = works[rank](Peers(store, rank, len(works)))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    return results


def test_nobody_goes_on_before_all_have_come():
    arrived = []

    def slow(peers):
        time.sleep(0.1)
        arrived.append("slow")
        peers.wait()

    def fast(peers):
        peers.wait()
        return list(arrived)

    assert in_threads(slow, fast) == [None, ["slow"]]


def test_who_waits_for_one_that_failed_ends_and_one_of_them_speaks():
    def failing(peers):
        return peers.fail()

    def waiting(peers):
        peers.wait()

    spoke, ended, again = in_threads(failing, waiting, failing)
    assert sorted([spoke, again]) == [False, True]
    assert isinstance(ended, SystemExit)


def test_an_error_in_what_all_do_is_met_by_all(monkeypatch):
    peers = Peers(HashStore(), 0, 1)
    monkeypatch.setattr(processes, "_peers", peers)
    assert processes.is_sharing()
    assert first(lambda: not processes.is_sharing())
    assert processes.is_sharing()


def test_without_torchrun_the_processes_cannot_find_one_another(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="started by torchrun"), together():
        pass


SCRIPT = """
import os
import sys

from a2mim import cli
from a2mim.measure import interactions, invariance, occlusion, runner, spectrum
from a2mim.messages import UsageError
from a2mim.probes import features

occlusion.CHUNK = spectrum.CHUNK = features.CHUNK = 5
for module in (interactions, invariance, occlusion, spectrum):
    module.save = lambda figures, folder: None  # of the same rows
words, stop = sys.argv[2:], sys.argv[1] == "stop"

def failing(*given):
    raise UsageError("the second process cannot write")

if sys.argv[1] == "fail" and os.environ["RANK"] == "1":
    spectrum.write_whole = failing

class Stop(Exception):
    pass

def stopping(module, name, most):
    write, calls = getattr(module, name), []
    def written(*given, **more):
        calls.append(1)
        if len(calls) > most:
            raise Stop
        return write(*given, **more)
    setattr(module, name, written)

if stop:
    for module, name, most in [
        (occlusion, "write_whole", 1),
        (invariance, "write_whole", 1),
        (spectrum, "write_whole", 1),
        (runner, "write_record", 2),
        (features, "write_whole", 2),
    ]:
        stopping(module, name, most)
while words:
    end = words.index(";")
    command, words = words[:end], words[end + 1 :]
    try:
        cli.main(command)
    except (Stop, SystemExit):
        if not stop:
            raise
"""
"""Runs commands one after the other; what it is told to stop ends behind its first parts."""


def launched(folder, commands, *, how="run", count=2):
    """Commands in several processes."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [str(word) for command in commands for word in (*command, ";")]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    if count == 1:
        launch = []
    return subprocess.run(
        [sys.executable, *launch, str(script), how, *words],
        capture_output=True,
        text=True,
        timeout=900,
    )


def files_of(out):
    """All that a run left, but for how long it took."""
    paths = [p for p in Path(out).rglob("*") if p.is_file() and p.name != "config.json"]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in paths}


COMMANDS = {
    "occlusion": ("--fractions", 0, 0.5, "--label", "truth", "--grid", 4),
    "invariance": ("--fractions", 0, 0.5, "--cka-batch", 4, "--repeats", 2, "--grid", 4),
    "spectrum": (),
    "interactions": ("--pairs", 2, "--orders", 0, 0.5, 1, "--grid", 4, "--label", "truth"),
    "clean": ("--method", "clean"),
}
"""Commands, with what makes them quick; 12 images in chunks of 5, batches of 4."""


@pytest.fixture(scope="module")
def commands(compared):
    """The command lines of a folder of results."""

    def of(folder):
        shared = (compared["one"], "--images", compared["photos"], "--device", "cpu")
        return [
            ("probe" if name == "clean" else name, *shared, *more, "--out", folder / name)
            for name, more in COMMANDS.items()
        ]

    return of


@pytest.fixture(scope="module")
def one(commands, tmp_path_factory):
    """What one process gives."""
    folder = tmp_path_factory.mktemp("one")
    done = launched(folder, commands(folder), count=1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_bytes_of_one_process_whoever_began(first, one, commands, tmp_path):
    """Two processes, and what one or two left going on in two or one."""
    runs = commands(tmp_path / "shared")
    if first:
        stopped = launched(tmp_path, runs, how="stop", count=first)
        for name in COMMANDS:
            assert not (tmp_path / "shared" / name).exists(), stopped.stderr
            (work,) = (tmp_path / "shared").glob(f"{name}.*.partial")
            assert len(files_of(work)) > 1, stopped.stderr
    done = launched(tmp_path, runs, count=1 if first == 2 else 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table: ") == len(COMMANDS)
    for name in COMMANDS:
        assert files_of(tmp_path / "shared" / name) == files_of(one / name), name
    assert not list((tmp_path / "shared").glob("*.partial"))


@pytest.mark.integration
def test_more_processes_than_parts_and_one_that_fails(one, commands, tmp_path):
    spectrum = commands(tmp_path / "few")[2]
    done = launched(tmp_path, [spectrum], count=5)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "few" / "spectrum") == files_of(one / "spectrum")
    done = launched(tmp_path, [(*spectrum, "--no-resume")], how="fail")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("a2mim: ")]
    assert lines == ["a2mim: the second process cannot write"], done.stderr
