"""Measured images on disk: one small file each, written whole, read only for what it was made for.

A record holds the replicate means (float32), pairs and orders of one image: about 10 kB, where
logits would take 500 MB. Its name carries a hash of everything that decides its content, so a
record of other settings, weights or pixels is never taken for this one's.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from a2mim.files import write_arrays
from interactions.orders.estimator import Interactions

_NAME = re.compile(r"\d{5}-\w+-\d+\.npz")
"""Of a record, or of what a killed process left of one: nothing else is removed."""


def record_key(settings: Mapping[str, object], image_CHW: Tensor, label: int) -> str:
    """The name of a record: a hash of settings (with the weights' hash), pixels and label."""
    digest = hashlib.blake2b(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    digest.update(f"{label} {tuple(image_CHW.shape)}".encode())
    digest.update(_bytes(image_CHW))
    return digest.hexdigest()[:24]


def write_record(record: Interactions, path: Path, label: int) -> None:
    """Write a record and the class that was played for, whole or not at all."""
    arrays = {
        "image": np.array(record.image),
        "n": np.array(record.n),
        "pairs_P2": record.pairs_P2.astype(np.int32),
        "orders_O": record.orders_O.astype(np.int32),
        "replicates_PRO": record.replicates_PRO.astype(np.float32),
        "per_replicate": np.array(record.per_replicate),
        "forwards": np.array(record.forwards),
        "label": np.array(label),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, arrays)


def read_record(path: Path) -> Interactions | None:
    """A record, or None if there is none; a damaged file counts as none.

    Values come back as the float32 they were stored in, also to the run that measured them, so that
    a resumed run and an uninterrupted one compute with the same numbers.
    """
    try:
        # Read first: np.load leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return Interactions(
                image=str(file["image"]),
                n=int(file["n"]),
                pairs_P2=file["pairs_P2"].astype(np.int64),
                orders_O=file["orders_O"].astype(np.int64),
                replicates_PRO=file["replicates_PRO"].astype(np.float64),
                per_replicate=int(file["per_replicate"]),
                forwards=int(file["forwards"]),
            )
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def read_records(folder: Path) -> list[Interactions]:
    """The records of one network of a finished run: ``<run>/records/<model and weights>``.

    With them every estimator of :func:`interactions.orders.strength` can be had without the
    network.

    Raises:
        ValueError: if there is none, or one is damaged.
    """
    paths = sorted(folder.glob("*.npz"))
    records = [read_record(path) for path in paths]
    if not paths or None in records:
        raise ValueError(f"expected whole records in {folder}, found {len(paths)} files")
    return [record for record in records if record is not None]


def tidy_records(folder: Path, used: Collection[Path]) -> None:
    """Remove what no result is made of: pilots, and records that later ones go on from.

    Of the records of one image only the one with most contexts is kept.

    Args:
        folder: of the records of a finished run.
        used: the records that its results are made of, with all their levels, by their paths when
            they were written.
    """
    last = {path.stem.rsplit("-", 1)[0]: path for path in sorted(used, key=_level)}
    keep = {(path.parent.name, path.name) for path in last.values()}
    for path in folder.glob("*/*.npz*"):
        if (path.parent.name, path.name) not in keep and _NAME.match(path.name):
            path.unlink()


def _level(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
