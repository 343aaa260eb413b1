"""Run folders: work in a folder of its own, put it in place when it is complete.

Work goes to ``<out>.<key>.partial``, where the key is a hash of everything that decides the result.
The same command finds its own unfinished work there and goes on; another command never does. The
finished folder replaces an earlier one by renaming, so that a result is complete or not there.
While it works, a process holds a lock in its folder: the same command started twice is refused.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from a2mim.files import write_whole
from a2mim.messages import UsageError

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

LOCK = ".lock"
_locks: dict[Path, int] = {}
"""Descriptors of this process's lock files by work folder: closed they are no longer locked."""


def provenance() -> dict[str, object]:
    """Where a number comes from: commit, versions, machine."""
    packages = ("a2mim", "numpy", "pandas", "scipy", "timm", "torch", "torchvision")
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is run without being installed
        return "not installed"


def commit() -> str:
    """The commit of the checkout that runs, or ``unknown`` if this is not its own checkout.

    With changes to the code the hash of their diff follows, so that other code is another commit.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        # An installed package may lie inside somebody else's repository.
        if Path(_git(root, "rev-parse", "--show-toplevel").strip()) != root:
            return "unknown"
        head = _git(root, "rev-parse", "--short", "HEAD").strip()
        # Results are what runs make, and not what they are made by.
        changes = _git(root, "diff", "HEAD", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not changes:
        return head
    return f"{head}-dirty-{hashlib.blake2b(changes.encode(), digest_size=4).hexdigest()}"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def open_run(out: Path, config: Mapping[str, object], *, resume: bool = True) -> Path:
    """The work folder of a run, new or with what an interrupted run of the same command left.

    Args:
        out: where the finished run will be.
        config: everything that decides the result.
        resume: whether to go on with what is left; else it is removed.

    Raises:
        UsageError: if ``out`` exists and is not a run folder, or cannot be written, or another
            process is at work on this run.
    """
    if out.exists() and not is_run(out):
        raise UsageError(
            f"expected a new folder or an earlier run at {out}, found something else; "
            "choose another --out"
        )
    out = out.resolve()
    work = out.with_name(f"{out.name}.{run_key(config)}.partial")
    first = process_rank()[0] == 0  # the others of its group share the folder with it
    if first and not work.exists():
        _name_others(work, out)
    try:
        work.mkdir(parents=True, exist_ok=True)
        if first:
            _lock(work)
        for left in [] if resume else work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {out.parent}: {error.strerror}") from error
    return work


def _name_others(work: Path, out: Path) -> None:
    """Say so where unfinished work lies that is not gone on with."""
    others = sorted(path.name for path in out.parent.glob(f"{glob.escape(out.name)}.*.partial"))
    if others:
        print(
            f"beginning anew in {work.name}: {', '.join(others)} is unfinished work of other "
            "settings or other code"
        )


def _lock(work: Path) -> None:
    """Keep other processes away for as long as this one lives, or until the run is in place."""
    _unlock(work)
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    file = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Of this process alone: workers that outlive it hold nothing.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(file, 200).decode().strip() or "another process"
        os.close(file)
        raise UsageError(
            f"expected nobody at work on this run, found {holder} in {work}; "
            "let it finish, stop it, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        os.close(file)
        return
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())
    _locks[work] = file


def _unlock(work: Path) -> None:
    if work in _locks:
        os.close(_locks.pop(work))


def run_key(config: Mapping[str, object]) -> str:
    """A hash of everything that decides a result: these settings, and the code that runs."""
    settings = json.dumps({"config": dict(config), "commit": commit()}, default=str, sort_keys=True)
    return hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()


def is_run(folder: Path) -> bool:
    """Whether a folder is a finished run: nothing else may ever be replaced by one."""
    try:
        label = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    marks = {"config", "commit", "versions", "machine"}
    return isinstance(label, dict) and marks <= label.keys() and (folder / "rows.csv").is_file()


def finish_run(work: Path, out: Path, config: Mapping[str, object], seconds: float) -> None:
    """Write ``config.json`` and put the work folder in the place of ``out``."""
    label_run(work, config, seconds)
    place_run(work, out)


def label_run(work: Path, config: Mapping[str, object], seconds: float) -> None:
    """Write ``config.json``: settings, where the numbers come from, and what they took."""
    label = {"config": dict(config), **provenance(), "seconds": round(seconds, 1)}
    write_whole(work / "config.json", json.dumps(label, default=str, indent=2) + "\n")


def place_run(work: Path, out: Path) -> None:
    """Put the work folder in the place of ``out``.

    What is there is replaced if it is a run of the same settings and nothing else lies beside its
    files; otherwise it is kept as ``<out>.previous``, and a line says so.
    """
    out = out.resolve()
    old = out.with_name(out.name + ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    keep = out.exists() and not _replaces(work, out)
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    (out / LOCK).unlink(missing_ok=True)
    _unlock(work)
    if keep:
        previous = out.with_name(out.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(old, previous)
        print(f"what was in {out.name} before is in {previous.name} now")
    shutil.rmtree(old, ignore_errors=True)


def _replaces(work: Path, out: Path) -> bool:
    """Whether a run has the settings of another, and a file for each of its files."""
    settings = [json.loads((run / "config.json").read_text())["config"] for run in (work, out)]
    there, here = ({path.name for path in run.iterdir()} for run in (out, work))
    return settings[0] == settings[1] and there <= here


def keep_memory() -> None:
    """Let the C library keep memory that is freed, where it is glibc.

    Otherwise every large activation on a CPU is given back to the system and comes back cleared,
    page by page: MobileNetV2 spends a third of its time on that.
    """
    if platform.system() != "Linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 26)):
        mallopt(parameter, value)


def counted(number: int) -> str:
    """A number for people: 12 000."""
    return f"{number:,}".replace(",", " ")


def process_rank() -> tuple[int, int]:
    """Which process this is, of how many: as its group or ``torchrun`` says, else the only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str) -> str:
    """The device that ``--device`` asks for: cpu, cuda, or auto for cuda if there is one.

    Raises:
        UsageError: if it is not one of these, or there is no CUDA device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"expected --device auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("expected a CUDA device for --device cuda, found none; use --device cpu")
    return name
