"""Who works on which stage: a file a stage, made by whoever came first, with a heartbeat.

A claim is stale when its process is gone (on this machine) or has not said anything for
:data:`SILENT` seconds (on another one); whoever finds it moves it away by renaming, which only one
can do. Machines that share no file system share stages by ``--share`` instead.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT = 20.0
"""Seconds between heartbeats."""

SILENT = 600.0
"""Seconds without one after which another machine's claim is stale."""


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Hold a claim while the context lasts.

    Args:
        file: of the stage, in a folder that all processes see.

    Yields:
        Whether it is ours.
    """
    if not _taken(file):
        yield False
        return
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join()
        file.unlink(missing_ok=True)


def is_claimed(file: Path) -> bool:
    """Whether somebody who lives holds it."""
    return file.exists() and not _stale(file)


def _taken(file: Path) -> bool:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and _stale(file):
        aside = file.with_name(f"{file.name}.{platform.node()}.{os.getpid()}")
        with suppress(OSError):  # somebody else was first
            os.rename(file, aside)
            aside.unlink()
    holder = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(holder) + "\n")
    return True


def _stale(file: Path) -> bool:
    try:
        silent = time.time() - file.stat().st_mtime
        holder = json.loads(file.read_text())
    except OSError:  # it is gone
        return False
    except ValueError:  # it is being written, or its writer was killed
        return silent > BEAT
    if silent > SILENT:
        return True
    return holder["host"] == platform.node() and not _alive(int(holder["pid"]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
