"""Run folders: work in a folder of its own, put it in place when it is complete.

A run is named by its key: a hash of its settings and of the contents of its inputs. It works in
``<out>.<key>.partial``. The same command finds its own unfinished work there and goes on, also
with other code, which it says; a command with other settings or other images never does.

Nothing is deleted that a run did not make. The finished folder is put in place by renaming, so that
a result is complete or not there. What was there before is moved to ``<out>.previous`` (or
``.previous-2``, ...), unless the new folder holds every file of it.

Without ``--out`` the folder is ``results/<command>/<name>-<key>``, and ``latest`` beside it is a
link to the last one that was finished, or asked for again. A run that is finished is not measured
again: the same command, by the same code, says where it is.

While it works, a process holds a lock in its folder: the same command started twice is refused.
"""

from __future__ import annotations

import ctypes
import filecmp
import glob
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path

import torch

from a2mim.files import WORK_MARK, left_over, write_whole
from a2mim.messages import UsageError
from a2mim.processes import first, is_first

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

LOCK = ".lock"
LATEST = "latest"
NAME_LENGTH = 40
"""Characters of a name in the name of a folder, at most."""


@dataclass
class _Open:
    """A work folder of this process.

    Attributes:
        made: folders that were made for it, itself the first, the outermost the last.
        lock: descriptor of its lock file; closed it is no longer locked.
    """

    made: list[Path]
    lock: int | None = None


_open: dict[Path, _Open] = {}


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
    It is asked once: what a process runs is what it imported, whatever becomes of the files.
    """
    return _commit(Path(__file__).resolve().parents[2])


@cache
def _commit(root: Path) -> str:
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


@dataclass(frozen=True)
class Run:
    """A run: where it works, and where its results will be.

    Attributes:
        out: output folder.
        work: folder to work in; it is not there for a run that is finished.
        finished: whether the same command finished before, and there is nothing to do.
    """

    out: Path
    work: Path
    finished: bool = False


def open_run(
    out: Path | None,
    command: str,
    names: Sequence[str],
    config: Mapping[str, object],
    *,
    resume: bool = True,
) -> Run:
    """A run, new, or with what an interrupted one of the same command left, or finished before.

    Args:
        out: output folder as the user gave it; ``results/<command>/<name>-<key>`` if left out.
        command: of ``a2mim``.
        names: what the run is about; the first two are part of the folder's name.
        config: everything that decides the result: settings, and hashes of images and weights.
        resume: whether to go on with what is left, and to leave a finished run as it is; else what
            is left is moved aside.

    Raises:
        UsageError: if ``out`` exists and is not a run folder, or cannot be written, or another
            process is at work on this run.
    """
    if out is not None and "\0" in str(out):
        raise UsageError(f"expected an output folder, got a path with a zero byte: {out}")
    key = run_key(config)
    if out is None:
        name = "-".join(safe_name(name)[:NAME_LENGTH] for name in names[:2])
        more = f"-and-{len(names) - 2}-more" if len(names) > 2 else ""
        out = Path("results") / command / f"{name}{more}-{key}"
    named = out.name if out.name.endswith(f"-{key}") else f"{out.name}.{key}"
    work = out.resolve().with_name(f"{named}.partial")
    return first(partial(_opened, out, work, key, resume))


def _opened(out: Path, work: Path, key: str, resume: bool) -> Run:
    """The run, once its work folder is there; the processes that share it come after the first."""
    speaks = is_first()
    if resume and _is_finished(out, key):
        if speaks:
            print(f"finished before: {out}; --no-resume measures it again")
            _link_latest(out.resolve(), key)
        return Run(out, work, finished=True)
    if os.path.lexists(out) and not is_run(out):
        raise UsageError(
            f"expected a new folder or an earlier run at {out}, found something else; "
            "choose another --out"
        )
    try:
        if speaks and not work.exists():
            _name_others(work, out.resolve())
        made = [path for path in (work, *work.parents) if not path.exists()]
        work.mkdir(parents=True, exist_ok=True)
        if speaks:
            _open[work] = _Open(made, _locked(work))
            if not resume:
                _set_aside(work)
            _mark(work, key)
    except OSError as error:
        _close(work)
        raise UsageError(f"cannot write to {work.parent}: {error.strerror}") from error
    return Run(out, work)


@contextmanager
def nothing_left_empty() -> Iterator[None]:
    """Where the context ends in an error, runs that it opened and wrote nothing for leave nothing.

    As a decorator, ``@nothing_left_empty()``, of a command.
    """
    before = set(_open)
    try:
        yield
    except BaseException:
        for work in set(_open) - before:
            _close(work)
        raise


def _close(work: Path) -> None:
    """Unlock a work folder; remove it if it holds nothing but empty folders."""
    ours = {work / LOCK, work / WORK_MARK}
    if work in _open and not any(work / file not in ours for file in _files_of(work)):
        for path in ours:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody put something there
            _remove_folders(work)
            for folder in _open[work].made[1:]:
                folder.rmdir()
    _unlock(work)


def _remove_folders(folder: Path) -> None:
    """Remove a folder with the folders in it; one with a file stays, and is an OSError."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_folders(path)
    folder.rmdir()


def _set_aside(work: Path) -> None:
    """Move what an interrupted run left out of its work folder."""
    left = [path for path in work.iterdir() if path.name != LOCK]
    if not any(path.name != WORK_MARK for path in left):
        return
    aside = _fresh(work.with_suffix(".unfinished"))
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    print(f"moved unfinished work to {aside.name}")


def _mark(work: Path, key: str) -> None:
    """Note in the work folder whose it is, and by which code; say so if that was other code."""
    file, now = work / WORK_MARK, commit()
    commits = json.loads(file.read_text())["commits"] if file.exists() else []
    if commits and commits[-1] != now:
        print(f"going on in {work.name}; the code changed since ({commits[-1]} -> {now})")
    if not commits or commits[-1] != now:
        write_whole(file, json.dumps({"key": key, "commits": [*commits, now]}) + "\n")


def _name_others(work: Path, out: Path) -> None:
    """Say so where unfinished work lies that is not gone on with."""
    others = sorted(path.name for path in out.parent.glob(f"{glob.escape(out.name)}.*.partial"))
    if others:
        print(
            f"beginning anew in {work.name}: {', '.join(others)} is unfinished work of other "
            "settings or other images"
        )


def _locked(work: Path) -> int | None:
    """Keep other processes away for as long as this one lives, or until the run is in place.

    Returns:
        The descriptor of the lock file; None where there are no locks.
    """
    _unlock(work)
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    file = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Of this process alone: workers that outlive it hold nothing.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(file, 200).decode().strip() or "another process"
        os.close(file)
        raise UsageError(
            f"already running ({holder}) in {work}; let it finish, stop it, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        os.close(file)
        return None
    os.ftruncate(file, 0)
    os.write(file, f"PID {os.getpid()} on {platform.node()}\n".encode())
    return file


def _unlock(work: Path) -> None:
    opened = _open.pop(work, None)
    if opened is not None and opened.lock is not None:
        os.close(opened.lock)


def run_key(config: Mapping[str, object]) -> str:
    """A hash of everything that decides a result. The code is not part of it."""
    settings = json.dumps(dict(config), default=str, sort_keys=True)
    return hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()


def is_run(folder: Path) -> bool:
    """Whether a folder is a finished run: nothing else may ever be replaced by one."""
    return {"config", "commit", "versions", "machine"} <= _label(folder).keys() and (
        folder / "rows.csv"
    ).is_file()


def _is_finished(out: Path, key: str) -> bool:
    """Whether the run of that key is there, made by the code that runs."""
    label = _label(out)
    if not is_run(out) or label.get("key") != key:
        return False
    # Where there is no checkout, the commit is unknown and the versions tell.
    now = provenance()
    return [label.get("commits"), label["versions"]] == [[now["commit"]], now["versions"]]


def _label(folder: Path) -> dict[str, object]:
    """What ``config.json`` holds; nothing if there is none."""
    try:
        label = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return label if isinstance(label, dict) else {}


def finish_run(run: Run, config: Mapping[str, object], seconds: float) -> None:
    """Write ``config.json`` and put the work folder in its place."""
    label_run(run.work, config, seconds)
    place_run(run)


def label_run(work: Path, config: Mapping[str, object], seconds: float) -> None:
    """Write ``config.json``: settings, where the numbers come from, and what they took.

    ``commits`` are those of all code that took part, in their order.
    """
    mark = json.loads((work / WORK_MARK).read_text())
    label = {"config": dict(config), **mark, **provenance(), "seconds": round(seconds, 1)}
    write_whole(work / "config.json", json.dumps(label, default=str, indent=2) + "\n")


def place_run(run: Run) -> None:
    """Put the work folder in its place; what is there is moved aside, and said."""
    work, out = run.work, run.out.resolve()
    key = json.loads((work / WORK_MARK).read_text())["key"]
    for path in left_over(work):
        path.unlink(missing_ok=True)
    files = _files_of(out) if _holds(work, out) else []
    aside = _fresh(out.with_name(f"{out.name}.previous")) if os.path.lexists(out) else None
    if aside is not None:
        os.rename(out, aside)
    os.rename(work, out)
    for name in (WORK_MARK, LOCK):  # after renaming: killed before, it is still unfinished work
        (out / name).unlink(missing_ok=True)
    _unlock(work)
    if aside is not None:
        for file in files:
            (aside / file).unlink(missing_ok=True)
        try:
            if not files:
                raise OSError
            _remove_folders(aside)
        except OSError:
            print(f"moved previous results to {aside}")
    _link_latest(out, key)


def _fresh(path: Path) -> Path:
    """A path where nothing is: this one, or with the first number that is free."""
    numbered = (path.with_name(f"{path.name}-{k}") for k in count(2))
    return (
        path if not os.path.lexists(path) else next(p for p in numbered if not os.path.lexists(p))
    )


def _files_of(folder: Path) -> list[Path]:
    """What is in a folder and is no folder, in depth, relative to it."""
    paths = folder.rglob("*")
    return [path.relative_to(folder) for path in paths if path.is_symlink() or not path.is_dir()]


def _holds(work: Path, out: Path) -> bool:
    """Whether every file of a finished run is in another, byte for byte but for times."""
    if not is_run(out):
        return False
    for file in _files_of(out):
        old, new = out / file, work / file
        if old.is_symlink() or not new.is_file():
            return False
        if file.name == "config.json":
            labels = [{**_label(path.parent), "seconds": 0} for path in (old, new)]
            if labels[0] != labels[1]:
                return False
        elif not filecmp.cmp(old, new, shallow=False):
            return False
    return True


def _link_latest(out: Path, key: str) -> None:
    """Point ``latest`` beside a folder that we named to it, unless something else is called so."""
    link = out.with_name(LATEST)
    if not out.name.endswith(f"-{key}") or (os.path.lexists(link) and not link.is_symlink()):
        return
    new = out.with_name(f"{LATEST}.{os.getpid()}")
    with suppress(OSError):  # not every file system has links
        new.symlink_to(out.name)
        os.replace(new, link)


def safe_name(name: str) -> str:
    """A name that can be a folder's."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


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


def pick_device(name: str, *, float64: bool = True) -> str:
    """The device that ``--device`` asks for: cpu, cuda, mps, or auto for cuda if there is one.

    Args:
        name: as the user gave it.
        float64: whether the command computes in float64 on the device, which mps cannot.

    Raises:
        UsageError: if it is not one of these, there is none, or it cannot do what is asked.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda", "mps"):
        raise UsageError(f"expected --device auto, cpu, cuda or mps, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("expected a CUDA device for --device cuda, found none; use --device cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("expected an Apple GPU for --device mps, found none; use --device cpu")
    if name == "mps" and float64:
        raise UsageError(
            "expected a device with float64, in which statistics are computed here; mps has none: "
            "use --device cpu (a2mim pretrain, probe and reconstruct take mps)"
        )
    return name
