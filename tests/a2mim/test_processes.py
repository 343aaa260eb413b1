"""Commands in several processes: the bytes of one, and no process that waits for ever."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore

from a2mim import processes
from a2mim.messages import UsageError
from a2mim.processes import Peers, first, process_rank, shared, side_by_side, together, wait
from a2mim.runs.table import read_table


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


def test_jobs_are_done_in_turn_by_one_process():
    done = []
    told = side_by_side(done.append, [(3,), (1,)], 1)
    assert done == []
    next(told)
    assert done == [3]
    assert len(list(told)) == 1
    assert done == [3, 1]


WAITING = """
import os
import sys
import time
from pathlib import Path

from a2mim.processes import side_by_side


def work(folder, seconds):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(seconds)


if __name__ == "__main__":
    seconds = float(sys.argv[2])
    for _ in side_by_side(work, [(sys.argv[1], seconds)] * 3, 2):
        print("done", flush=True)
"""


def lives(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux who lives")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_processes_side_by_side_end_with_the_one_that_began_them(tmp_path, ended_by):
    (tmp_path / "main.py").write_text(WAITING)
    (tmp_path / "jobs").mkdir()
    seconds = "0" if ended_by is None else "100"
    command = [sys.executable, tmp_path / "main.py", tmp_path / "jobs", seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as main:
        if ended_by is None:
            assert main.communicate()[0].split() == [b"done"] * 3
            return
        began = time.monotonic()
        while len(workers := list((tmp_path / "jobs").iterdir())) < 2:
            assert time.monotonic() < began + 60
            time.sleep(0.1)
        main.send_signal(ended_by)
        main.wait(20)
    ended = time.monotonic()
    while any(lives(worker.name) for worker in workers):
        assert time.monotonic() < ended + 20
        time.sleep(0.1)


SCRIPT = """
import os
import sys

import numpy as np

from a2mim import cli
from a2mim.measure import interactions, invariance, occlusion, plan, probing, runner, spectrum
from a2mim.measure.comparison import Comparison
from a2mim.messages import UsageError
from a2mim.probes import features
from a2mim.recipes import finetuning

occlusion.CHUNK = spectrum.CHUNK = features.CHUNK = 5
for module in (interactions, invariance, occlusion, spectrum):
    module.save = lambda figures, folder: None  # of the same rows
Comparison.save_figures = Comparison.to_html = lambda *_: None
plan.TIMED_SECONDS, interactions.TOO_LITTLE = 0.0, np.inf
how, words = sys.argv[1], sys.argv[2:]
stop, rank = how == "stop", os.environ.get("RANK")
calls = {}

def failing(*given, **more):
    raise UsageError(f"process {rank} cannot go on")

if how == "fail-1" and rank == "1":
    spectrum.write_whole = failing
if how == "fail-0" and rank == "0":
    probing.knn_probe = Comparison.to_html = failing

class Stop(Exception):
    pass

def stopping(module, name, most):
    write = getattr(module, name)
    def written(*given, **more):
        calls[module] = calls.get(module, 0) + 1
        if calls[module] > most:
            raise Stop
        return write(*given, **more)
    setattr(module, name, written)

if stop:
    for module, name, most in [
        (occlusion, "write_whole", 1),
        (invariance, "write_whole", 1),
        (spectrum, "write_whole", 1),
        (runner, "write_record", 2),
        (features._Cache, "write", 1),  # not its label, which either process may write
        (finetuning.Log, "__call__", 4),
    ]:
        stopping(module, name, most)
while words:
    end = words.index(";")
    command, words = words[:end], words[end + 1 :]
    calls.clear()
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


PHOTOS = ("{one}", "--images", "{photos}")
MEASURES = {
    "occlusion": (*PHOTOS, "--fractions", 0, 0.5, "--label", "truth", "--grid", 4),
    "invariance": (*PHOTOS, "--fractions", 0, 0.5, "--cka-batch", 4, "--repeats", 2, "--grid", 4),
    "spectrum": PHOTOS,
    "interactions": (*PHOTOS, "--pairs", 2, "--orders", 0, 0.5, 1, "--grid", 4, "--label", "truth"),
    "clean": ("probe", *PHOTOS, "--method", "clean"),
}
"""Commands, with what makes them quick; 12 images in chunks of 5, batches of 4."""

OF_PROBES = ("--probe-data", "folder:{classes}")
DIGITS = ("probe", "{one}", "{encoder}", "--data", "digits")
PROBES = {
    "linear": (*DIGITS, "--max-train", 40, "--max-test", 20, "--seeds", 2),
    "knn": (*DIGITS, "--max-train", 40, "--max-test", 20, "--method", "knn", "--neighbours", 3),
    "sgd": (
        *(*DIGITS, "--method", "sgd", "--recipe", "cifar100-resnet50", "--lrs", 0.1, 1.0),
        *("--max-train", 400, "--max-test", 20),
    ),
    "probed": (
        *("occlusion", "{encoder}", "{one}", "--images", "{photos}", *OF_PROBES),
        *("--fractions", 0, 0.5, "--label", "truth", "--grid", 4),
    ),
    "compare": (
        *("{one}", "{encoder}", "--images", "{photos}", *OF_PROBES),
        *("--grid", 4, "--budget", 12_000, "--pictures", 1),
    ),
}
"""Commands with classifiers that are trained by the first process, and all measures."""

GROUPS = {"measures": MEASURES, "probes": PROBES}


@pytest.fixture(scope="module")
def commands(compared, tmp_path_factory):
    """The command lines of a group, for a folder of results."""
    classes = tmp_path_factory.mktemp("classes")
    names = [f"{k:02d}.png" for k in range(12)]
    for split, some in (("train", names[:9]), ("val", names[9:])):
        for name in some:
            folder = classes / split / f"class{int(name[:2]) % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(compared["photos"] / name, folder)
    known = {**compared, "classes": classes}

    def of(group, folder):
        return [
            (
                *(() if words[0] in ("probe", "occlusion") else (name,)),
                *(word.format(**known) if isinstance(word, str) else word for word in words),
                *("--device", "cpu", "--out", folder / name),
            )
            for name, words in GROUPS[group].items()
        ]

    return of


@pytest.fixture(scope="module")
def one(commands, tmp_path_factory):
    """What one process gives, by group."""
    made = {}

    def of(group):
        if group not in made:
            folder = tmp_path_factory.mktemp(group)
            done = launched(folder, commands(group, folder), count=1)
            assert done.returncode == 0, done.stderr
            made[group] = folder
        return made[group]

    return of


def slow(*values):
    """Of what takes half a minute, one case is enough every time."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("group", "first"),
    [
        *(("measures", 1), ("measures", 2), ("probes", 1)),
        *(slow("measures", 0), slow("probes", 0), slow("probes", 2)),
    ],
)
def test_the_bytes_of_one_process_whoever_began(group, first, one, commands, tmp_path):
    """Two processes, and what one or two left going on in two or one."""
    runs, shared_out = commands(group, tmp_path / "shared"), tmp_path / "shared"
    if first:
        stopped = launched(tmp_path, runs, how="stop", count=first)
        for name in GROUPS[group]:
            assert not (shared_out / name).exists(), stopped.stderr
            (work,) = shared_out.glob(f"{name}.*.partial")
            assert len(files_of(work)) > 1, stopped.stderr
    done = launched(tmp_path, runs, count=1 if first == 2 else 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table: ") == len(GROUPS[group])
    for name in GROUPS[group]:
        assert files_of(shared_out / name) == files_of(one(group) / name), name
    assert not list(shared_out.glob("*.partial"))


@pytest.mark.integration
def test_more_processes_than_parts_and_one_that_fails(one, commands, tmp_path):
    spectrum = commands("measures", tmp_path / "few")[2]
    done = launched(tmp_path, [spectrum], count=5)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "few" / "spectrum") == files_of(one("measures") / "spectrum")
    done = launched(tmp_path, [(*spectrum, "--no-resume")], how="fail-1")
    assert done.returncode != 0
    assert errors_of(done) == ["a2mim: process 1 cannot go on"], done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("name", ["knn", slow("compare")])
def test_what_the_first_process_does_alone_ends_the_others_if_it_fails(name, commands, tmp_path):
    """A probe that is fitted, a page that is written: the others wait for it meanwhile."""
    run = commands("probes", tmp_path / "out")[list(PROBES).index(name)]
    done = launched(tmp_path, [run], how="fail-0")
    assert done.returncode != 0
    assert errors_of(done) == ["a2mim: process 0 cannot go on"], done.stderr


def errors_of(done):
    """What the processes say that failed."""
    return [line for line in done.stderr.splitlines() if line.startswith("a2mim: ")]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_fine_tuning_in_two_processes_is_that_in_one(first, compared, tmp_path):
    """To the rounding of sums over batches; also what one process left after an epoch."""
    recipe = {"epochs": 2, "warmup": 0, "batch-size": 256, "mix-group": 64, "workers": 0}
    command = (
        *("probe", compared["one"], "--data", "digits", "--device", "cpu", "--method", "finetune"),
        *("--recipe", "digits", "--finetune.save-every", 1),
        *(word for key, value in recipe.items() for word in (f"--finetune.{key}", value)),
    )
    alone, both = tmp_path / "alone", tmp_path / "both"
    done = launched(tmp_path, [(*command, "--out", alone)], count=1)
    assert done.returncode == 0, done.stderr
    if first:
        stopped = launched(tmp_path, [(*command, "--out", both)], how="stop", count=1)
        assert list(tmp_path.glob("both.*.partial/**/checkpoints/*")), stopped.stderr
    done = launched(tmp_path, [(*command, "--out", both)])
    assert done.returncode == 0, done.stderr
    rows = [read_table(out / "rows.csv") for out in (alone, both)]
    top1 = [table[table["measure"] == "finetune_top1"]["value"].to_numpy() for table in rows]
    np.testing.assert_allclose(top1[1], top1[0], atol=2 / 897)  # images at the border of classes
    tuned = [load_file(out / "part-000" / "seed-0" / "model.safetensors") for out in (alone, both)]
    for key, tensor in tuned[0].items():
        torch.testing.assert_close(tuned[1][key], tensor, rtol=1e-3, atol=1e-3)
