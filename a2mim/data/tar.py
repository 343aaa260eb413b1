"""Training images in local tar files ("shards"), by index.

Every image is found by its place in its file, so order, resuming and worker processes are as exact
as with a folder. Compressed or remote shards are read as a stream: see :mod:`a2mim.data.stream`.

Source: the WebDataset layout (Aizman et al. 2019, arXiv:2001.01858).

Shapes: B images in a batch, I images, C channels, H x W pixels.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2mim.data.addresses import expanded, refuse_address
from a2mim.data.augment import Augment, channels_of
from a2mim.data.contents import hash_files, hash_of
from a2mim.data.folders import IMAGE_SUFFIXES, DataError, is_hidden
from a2mim.data.sampler import keyed_generator
from a2mim.data.samples import (
    TOLERANCE,
    Damage,
    ImageFiles,
    PackedNames,
    Tolerance,
    decode,
    find_training_files,
    read_or_replace,
    to_augment,
)

logger = logging.getLogger(__name__)
READ_BYTES = 1 << 18
OPEN_SHARDS = 128  # per process; the usual limit is 1,024 open files
IMAGE_ENDINGS = tuple(sorted(IMAGE_SUFFIXES))


class StrictHeader(tarfile.TarInfo):
    """A tar header that has to be there; to tarfile, a cut or broken one is the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> StrictHeader:
        """The next header.

        Raises:
            tarfile.ReadError: if there is none, or a broken one.
        """
        try:
            return super().fromtarfile(archive)
        except (
            tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def image_members(archive: tarfile.TarFile, endings: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
    """Files of an archive that have an image's ending and are not hidden."""
    for member in archive:
        parts = (part for part in member.name.split("/") if part not in (".", ".."))
        if (
            member.isreg()
            and member.name.lower().endswith(endings)
            and not any(is_hidden(part) for part in parts)
        ):
            yield member
        archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen


class TarSamples:
    """Images in local, uncompressed tar files, found by an index that is built once.

    The index takes about 20 µs and 60 bytes per member.

    Args:
        shards: as in ``expand_shards``, without addresses.
        augment: from uint8 pixels to the network's input.
        seed: names the draws.
        tolerance: how many unreadable images are put up with.
        endings: of the members that are images, in lower case.

    Raises:
        DataError: if a shard is missing, compressed, cut short, or if there are no images.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        augment: Augment,
        seed: int,
        tolerance: Tolerance = TOLERANCE,
        endings: tuple[str, ...] = IMAGE_ENDINGS,
    ) -> None:
        self.shards = expanded(shards, refuse_address)
        names, places = [], array("q")
        for number, shard in enumerate(self.shards):
            for name, offset, size in _index(shard, endings):
                names.append(name)
                places.extend((number, offset, size))
        if not names:
            raise DataError(f"expected images ({', '.join(endings)}) in {self.shards[0]}, ...")
        self.names = PackedNames(names)
        self._places_I3 = np.array(places).reshape(-1, 3)
        self._augment = augment
        self._seed = seed
        self._open = _OpenFiles()
        self.damage = Damage(len(names), tolerance)

    def __len__(self) -> int:
        return len(self.names)

    def contents(self, indices: Sequence[int] | None = None) -> str:
        """A hash of the shards (:func:`~a2mim.data.contents.hash_files`), and of which images."""
        shards = [Path(shard) for shard in self.shards]
        return hash_of(hash_files(shards, [shard.name for shard in shards]), indices)

    def pixels(self, index: int, epoch: int) -> Tensor:
        """One image as it is, uint8 ``(C, H, W)``.

        Raises:
            DataError: if too many images are unreadable.
            IndexError: if there is no such image.
        """

        def read(k: int) -> Tensor:
            return decode(self._bytes(k), self._name(k), channels_of(self._augment))

        key = (self._seed, epoch, index)
        return read_or_replace(read, self._name, self.damage, len(self), key)

    def load(self, index: int, epoch: int) -> Tensor:
        """One image ``(C, H, W)``, as ``augment`` makes it; raises what :meth:`pixels` does."""
        key = (self._seed, epoch, index)

        def read(k: int) -> Tensor:
            generator = keyed_generator("augment", *key)
            return to_augment(self._bytes(k), self._name(k), self._augment, generator)()

        return read_or_replace(read, self._name, self.damage, len(self), key)

    def _name(self, index: int) -> str:
        return f"{self.shards[self._places_I3[index, 0]]}/{self.names[index]}"

    def _bytes(self, index: int) -> bytes:
        shard, offset, size = self._places_I3[index].tolist()
        try:
            # pread does not move a position, which forked processes would share
            return os.pread(self._open.descriptor(self.shards[shard]), size, offset)
        except OSError as error:
            raise DataError(f"expected a shard, cannot read it: {error}") from error


def _index(shard: str, endings: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of the images of one shard."""
    try:
        with tarfile.open(shard, "r:", tarinfo=StrictHeader) as archive:
            for member in image_members(archive, endings):
                if member.issparse():
                    raise DataError(f"expected no sparse members, got {member.name} in {shard}")
                yield member.name, member.offset_data, member.size
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"expected an uncompressed, complete tar file, cannot read {shard}: {error}; "
            "write it again, or read compressed ones as a stream (stream:PATTERN, "
            "a2mim.data.stream.ShardStream in Python)"
        ) from error


class _OpenFiles:
    """File descriptors of the shards read last; every process opens its own."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def descriptor(self, path: str) -> int:
        if path not in self._descriptors:
            if len(self._descriptors) >= OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        self._descriptors.move_to_end(path)
        return self._descriptors[path]

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptors": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def write_shards(
    source: Path | ImageFiles,
    out: Path,
    per_shard: int = 1000,
    seed: int = 0,
    on_write: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Image files as shards ``shard-000000.tar``, ..., their bytes as they are.

    Images are shuffled: a shard of a single class would make batches of a single class. The same
    files and seed make the same bytes. Images in folders by class get their class index beside
    them, as ``.cls``. All shards appear at once, when the last is written, or none.

    Args:
        source: a folder, searched as in ``find_training_files``, or files.
        out: a folder that does not exist or is empty.
        per_shard: images per shard; 1,000 photographs are about 100 MB.
        seed: names the order.
        on_write: called after every image with the number of images.

    Returns:
        The shards.

    Raises:
        DataError: if ``out`` is not empty, or a file cannot be read or written.
        ValueError: if ``per_shard`` is below 1.
    """
    if per_shard < 1:
        raise ValueError(f"expected at least 1 image per shard, got {per_shard}")
    files = find_training_files(source) if isinstance(source, Path) else source
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected a new or empty folder for the shards, got {out}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(files), generator=generator).tolist()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as unfinished:
            shards = Path(unfinished) / "shards"  # made with the usual permissions
            shards.mkdir()
            names = []
            for number, start in enumerate(range(0, len(order), per_shard)):
                names.append(f"shard-{number:06d}.tar")
                _write_shard(shards / names[-1], files, order[start : start + per_shard], on_write)
            os.replace(shards, out)
    except OSError as error:
        raise DataError(f"expected to write shards to {out}, cannot: {error}") from error
    return [out / name for name in names]


def _write_shard(
    path: Path, files: ImageFiles, indices: list[int], on_write: Callable[[int], None]
) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for index in indices:
            name = files.names[index]
            _add(archive, name, (files.root / name).read_bytes())
            if files.labels_I is not None:
                label = str(int(files.labels_I[index])).encode()
                _add(archive, os.path.splitext(name)[0] + ".cls", label)
            on_write(len(files))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner and no time: the same bytes on every machine
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))
