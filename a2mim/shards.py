"""Training images in tar files ("shards"): by index from local ones, or as a stream from anywhere.

``TarSamples`` is the better choice for local, uncompressed shards: it finds every image by its
place in the file, so order, resuming and worker processes are as exact as with a folder.

``ShardStream`` reads shards from their beginning to their end, also compressed or over a network.

    epoch:   shards shuffled by (seed, epoch, pass), dealt to ranks, then to workers, none twice
    worker:  images through a shuffle buffer, its draws keyed by (seed, epoch, pass, rank, worker)
    image:   augmented by draws keyed by (seed, epoch, image's name)

Source: the WebDataset layout (Aizman et al. 2019, arXiv:2001.01858); addresses are expanded and
opened by the ``webdataset`` library, those of object stores opened by ``fsspec``.

Shapes: B images in a batch, I images, C channels, H x W pixels.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import random
import shutil
import tarfile
import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from a2mim.augment import Augment
from a2mim.data import DataError
from a2mim.images import IMAGE_SUFFIXES, is_hidden
from a2mim.messages import in_a_line
from a2mim.sampler import keyed_generator, keyed_seed
from a2mim.samples import (
    TOLERANCE,
    Damage,
    ImageFiles,
    PackedNames,
    Tolerance,
    decode,
    find_training_files,
    read_or_replace,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
READ_BYTES = 1 << 18
OPEN_SHARDS = 128  # per process; the usual limit is 1,024 open files
IMAGE_ENDINGS = tuple(sorted(IMAGE_SUFFIXES))
BUFFER = 1000
"""Images in the shuffle buffer of every worker of a stream, if nothing else is said."""

STORE_BYTES = 1 << 23  # per request to an object store; about as much of a shard is in memory

NO_STORES = {
    *("asyncwrapper", "blockcache", "cached", "dask", "dir", "filecache", "generic", "libarchive"),
    *("reference", "simplecache", "tar", "zip"),  # up to here: they hand over to other ones
    *("asynclocal", "data", "local"),  # nothing remote
    *("dvc", "git", "gist", "github", "jlab", "jupyter", "pyscript"),  # no streams of large files
}
"""File systems of fsspec from which no shards are read."""


def expand_shards(
    shards: str | Path | Sequence[str | Path], allow_pipe: bool = False
) -> tuple[str, ...]:
    """The addresses of all shards that a pattern, a folder, or a list of them names.

    A ``Path`` is one file, or a folder of shards. A string may also hold braces
    (``train-{000..127}.tar``), ``::`` between several, ``${NAME}`` for the variable ``WDS_NAME``,
    ``*`` and ``?`` for local files, and addresses:

    * what webdataset opens: ``http://``, ``https://``, ``gs://``, ``hf://``, ``sftp://`` and others
      by their usual programs (curl, gsutil);
    * of the others what fsspec opens: ``s3://``, ``az://``, ``oss://``, ``hdfs://`` and others by
      packages of their own (s3fs, adlfs, ...), configured as these say.

    Security: ``pipe:COMMAND`` hands COMMAND to a shell. Who can write the address can run programs
    here, so such addresses are refused unless ``allow_pipe`` says that they come from you. File
    systems of fsspec in :data:`NO_STORES` are always refused.

    Raises:
        DataError: if there is no such file, no way to open an address, or it is a pipe that was
            not allowed.
    """
    return _expanded(shards, partial(_check_address, allow_pipe=allow_pipe))


def _expanded(
    shards: str | Path | Sequence[str | Path], check: Callable[[str], None]
) -> tuple[str, ...]:
    """As ``expand_shards``; ``check`` refuses addresses."""
    given = [shards] if isinstance(shards, (str, Path)) else list(shards)
    found: list[str] = []
    for one in given:
        for address in _braces(one) if isinstance(one, str) else (str(one),):
            opened = _rewritten(address)
            if urlparse(opened).scheme:
                check(opened)
                found.append(address)
            else:
                found += _local(address, pattern=isinstance(one, str))
    if not found:
        raise DataError(f"expected shards, found none for {shards!r}")
    if len(set(found)) < len(found):
        twice = next(address for address in found if found.count(address) > 1)
        raise DataError(f"expected every shard once, got {twice} twice")
    return tuple(found)


def _braces(text: str) -> list[str]:
    if not any(sign in text for sign in ("{", "::")):
        return [text]
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(text)
    except (AssertionError, ValueError) as error:  # a variable that is not set, odd braces
        raise DataError(f"expected a pattern of shards, cannot expand {text!r}: {error}") from error


def _rewritten(address: str) -> str:
    """What webdataset makes of an address by the variable GOPEN_REWRITE; it may become a pipe."""
    if "GOPEN_REWRITE" not in os.environ:
        return address
    from webdataset.gopen import rewrite_url

    return rewrite_url(address)


def _check_address(address: str, allow_pipe: bool) -> None:
    from webdataset.gopen import gopen_curl, gopen_schemes

    scheme = urlparse(address).scheme
    if scheme == "pipe" and not allow_pipe:
        raise DataError(
            f"expected no commands among the shards, got {address!r}; pass allow_pipe=True if it "
            "is yours, for it will be run by a shell"
        )
    if gopen_schemes.get(scheme) is gopen_curl and shutil.which("curl") is None:
        raise DataError(f"expected the program curl to read {address!r}; install it")
    if not _for_webdataset(scheme):
        _check_store(address)


def _for_webdataset(scheme: str) -> bool:
    from webdataset.gopen import gopen_schemes

    return scheme in {*gopen_schemes, "file", ""} - {"__default__"}


def _check_store(address: str) -> None:
    """Refuse what fsspec does not open, or should not."""
    import fsspec

    scheme = address.partition("://")[0]  # as fsspec cuts it; to it, "s3:a" is a local file
    if scheme in NO_STORES or "::" in address:  # braces can make a "::" after the text was split
        raise DataError(
            f"expected the address of a shard in a store, as s3://bucket/a.tar, got {address!r}; "
            "give the shard's own address or path"
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise DataError(
            "expected an address that webdataset opens (http, https, gs, hf, sftp, pipe, ...) or "
            f"fsspec (s3, az, oss, ...), got {address!r}; copy or mount the shards, or read them "
            "by a command, pipe:COMMAND"
        ) from error
    except ImportError as error:
        raise DataError(
            f"expected a package for {scheme}://, got none to read {address!r}: {error} "
            f"({error.__cause__})"
        ) from error
    if "*" in address:
        raise DataError(f"expected braces, as {{000..127}}, in place of * in {address!r}")


def _refuse_address(address: str) -> None:
    raise DataError(
        f"expected local shards, got {address!r}; read them as a stream (stream:PATTERN, "
        "a2mim.shards.ShardStream in Python)"
    )


def _local(address: str, pattern: bool) -> list[str]:
    if os.path.isdir(address):
        visible = [name for name in os.listdir(address) if not is_hidden(name)]
        names = sorted(name for name in visible if name.endswith(SHARD_SUFFIXES))
        if not names:
            raise DataError(f"expected shards ({', '.join(SHARD_SUFFIXES)}) in {address}")
        return [os.path.join(address, name) for name in names]
    if os.path.isfile(address):
        return [address]
    matches = sorted(glob.glob(address)) if pattern else []
    if not matches:
        raise DataError(f"expected a shard, found none at {address}")
    return matches


class _StrictHeader(tarfile.TarInfo):
    """A tar header that has to be there; to tarfile, a cut or broken one is the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictHeader:
        try:
            return super().fromtarfile(archive)
        except (
            tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def _images(archive: tarfile.TarFile, endings: tuple[str, ...]) -> Iterator[tarfile.TarInfo]:
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
        self.shards = _expanded(shards, _refuse_address)
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

    def load(self, index: int, epoch: int) -> Tensor:
        """One image, float32 ``(C, H, W)``.

        Raises:
            DataError: if too many images are unreadable.
            IndexError: if there is no such image.
        """
        key = (self._seed, epoch, index)
        image_CHW = read_or_replace(self._read, self._name, self.damage, len(self), key)
        return self._augment(image_CHW, keyed_generator("augment", *key))

    def _name(self, index: int) -> str:
        return f"{self.shards[self._places_I3[index, 0]]}/{self.names[index]}"

    def _read(self, index: int) -> Tensor:
        shard, offset, size = self._places_I3[index].tolist()
        try:
            # pread does not move a position, which forked processes would share
            data = os.pread(self._open.descriptor(self.shards[shard]), size, offset)
        except OSError as error:
            raise DataError(f"expected a shard, cannot read it: {error}") from error
        return decode(data, self._name(index))


def _index(shard: str, endings: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of the images of one shard."""
    try:
        with tarfile.open(shard, "r:", tarinfo=_StrictHeader) as archive:
            for member in _images(archive, endings):
                if member.issparse():
                    raise DataError(f"expected no sparse members, got {member.name} in {shard}")
                yield member.name, member.offset_data, member.size
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"expected an uncompressed, complete tar file, cannot read {shard}: {error}; "
            "write it again, or read compressed ones as a stream (stream:PATTERN, "
            "a2mim.shards.ShardStream in Python)"
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


@dataclass(frozen=True)
class StreamSettings:
    """What a stream cannot find out, and how well it shuffles.

    Attributes:
        images: in all shards together; fixes the number of batches.
        buffer: images in the shuffle buffer of every worker, held as compressed files.
    """

    images: int
    buffer: int = BUFFER

    def __post_init__(self) -> None:
        if min(self.images, self.buffer) < 1:
            raise ValueError(f"expected numbers of at least 1, got {self}")


class ShardStream:
    """Images of shards, one after the other, in shuffled batches for every rank and epoch.

    Every rank gets the same number of batches, so that ranks stay in step; images that are left
    over wait for another epoch. Shards can be of unequal size: a worker that reaches the end of its
    own begins them again in another order, so some of its images come twice in an epoch, and others
    of a worker with larger shards not at all.

    The order depends on (seed, epoch, rank, world, number of workers, batch size and number);
    pixels of an image only on (seed, epoch, name). Within an epoch a stream goes on by reading
    again from its beginning.

    An unreadable image is passed over and the next one takes its place; it is counted and logged as
    in ``a2mim.samples``, with the limit taken from ``images``. A shard that cannot be opened, or
    ends too early, counts as ``images / shards`` of them.

    Args:
        shards: as in ``expand_shards``.
        augment: from uint8 pixels to the network's input.
        seed: names order and draws.
        settings: how many images, and the buffer.
        allow_pipe: whether ``pipe:`` addresses may run their commands; see ``expand_shards``.
        tolerance: how many unreadable images are put up with.
        endings: of the members that are images, in lower case.

    Raises:
        DataError: if shards are missing or cannot be opened in this way.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        augment: Augment,
        seed: int,
        settings: StreamSettings,
        *,
        allow_pipe: bool = False,
        tolerance: Tolerance = TOLERANCE,
        endings: tuple[str, ...] = IMAGE_ENDINGS,
    ) -> None:
        self.shards = expand_shards(shards, allow_pipe)
        self.settings = settings
        self.augment = augment
        self.seed = seed
        self.endings = endings
        self.damage = _StreamDamage(settings.images, len(self.shards), tolerance)

    def __len__(self) -> int:
        """How many images there are, as ``settings`` have it."""
        return self.settings.images

    def epoch(
        self,
        epoch: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        batches: int | None = None,
        skip: int = 0,
    ) -> IterableDataset:
        """The batches of one rank: ``{"image": (B, C, H, W), "index": (B,)}``.

        ``index`` is a number made of the image's name, the same in all epochs. Iterate it as it
        is, or by ``DataLoader(..., batch_size=None, num_workers=...)``.

        Args:
            epoch: from 0.
            batch_size: B, images per batch and rank.
            rank: which process this is.
            world: how many there are.
            batches: how many there are in an epoch, the same for all ranks; by default as many as
                there are images for.
            skip: how many of them were seen before the stream was interrupted. Their images are
                read and decoded, because unreadable ones among them move the others.

        Raises:
            DataError: while iterating, if too much is unreadable.
            ValueError: if there are fewer shards than ranks, or too few images.
        """
        if not 0 <= rank < world:
            raise ValueError(f"expected a rank below {world}, got {rank}")
        if len(self.shards) < world:
            raise ValueError(
                f"expected a shard for each of {world} ranks, got {len(self.shards)}; write "
                "smaller shards, or use TarSamples"
            )
        most = self.settings.images // (batch_size * world)
        if most < 1:
            raise ValueError(
                f"expected at least {batch_size * world} images for one batch on {world} ranks, "
                f"got {self.settings.images}; take smaller batches"
            )
        batches = most if batches is None else batches
        if not 1 <= batches <= most:
            raise ValueError(f"expected 1 to {most} batches in an epoch, got {batches}")
        if not 0 <= skip < batches:
            raise ValueError(f"expected to skip fewer than {batches} batches, got {skip}")
        return _Epoch(self, epoch, batch_size, rank, world, batches, skip)


def deal(count: int, rank: int, world: int, worker: int, workers: int) -> range:
    """Which of ``count`` shuffled shards one worker of one rank reads: its places in the order."""
    return range(count)[rank::world][worker::workers]


def batch_turns(shards: Sequence[int], batches: int) -> list[int]:
    """Which worker makes each batch of an epoch, in the order in which a loader takes them.

    Batches are in proportion to shards: a worker makes those that end in its part of them. A loader
    takes one of each worker in turn, and passes over workers that have no more.

    Args:
        shards: how many each worker has.
        batches: of all workers.
    """
    ends = [batches * before // sum(shards) for before in accumulate(shards, initial=0)]
    counts = [end - start for start, end in pairwise(ends)]
    return [
        worker for own in range(max(counts)) for worker, count in enumerate(counts) if own < count
    ]


class _Epoch(IterableDataset):
    """One epoch of one rank, cut among the workers of the loader that iterates it."""

    def __init__(
        self,
        stream: ShardStream,
        epoch: int,
        batch_size: int,
        rank: int,
        world: int,
        batches: int,
        skip: int,
    ) -> None:
        self._stream = stream
        self._epoch = epoch
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._batches = batches
        self._skip = skip

    def __len__(self) -> int:
        return self._batches - self._skip

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        asked, workers = (info.id, info.num_workers) if info else (0, 1)
        stream = self._stream
        order = _shuffled(stream.shards, "shards", stream.seed, self._epoch)
        dealt = [
            [order[k] for k in deal(len(order), self._rank, self._world, worker, workers)]
            for worker in range(workers)
        ]
        turns = batch_turns([len(shards) for shards in dealt], self._batches)
        # The loader asks worker 0 first, so the one whose turn it is works under this number.
        worker = (asked + turns[self._skip]) % workers
        seen = turns[: self._skip].count(worker)
        images = self._images(dealt[worker], worker)
        for own in range(turns.count(worker)):
            found = [next(images) for _ in range(self._batch_size)]
            if own >= seen:
                yield {
                    "image": torch.stack([self._augmented(*one) for one in found]),
                    "index": torch.tensor([number for number, _ in found]),
                }

    def _augmented(self, number: int, image_CHW: Tensor) -> Tensor:
        generator = keyed_generator("augment", self._stream.seed, self._epoch, number)
        return self._stream.augment(image_CHW, generator)

    def _images(self, shards: list[str], worker: int) -> Iterator[tuple[int, Tensor]]:
        """Pass after pass over the worker's shards, without end: number and pixels, uint8."""
        stream = self._stream
        passes = 0
        while True:
            key = ("pass", stream.seed, self._epoch, passes, self._rank, worker)
            files = _files(_shuffled(shards, *key), stream)
            good = 0
            for shard, name, data in shuffle_buffer(
                files, stream.settings.buffer, keyed_seed("buffer", *key)
            ):
                number = keyed_seed("image", shard.rsplit("/", 1)[-1], name)
                try:
                    image_CHW = decode(data, f"{shard}/{name}")
                except DataError as error:
                    stream.damage.image(number, error)
                    continue
                good += 1
                yield number, image_CHW
            if not good:
                raise DataError(
                    f"expected images ({', '.join(stream.endings)}) in {len(shards)} shards, "
                    f"found none that can be read in {shards[0]}, ..."
                )
            passes += 1


def _files(shards: Iterable[str], stream: ShardStream) -> Iterator[tuple[str, str, bytes]]:
    """Shard, name and bytes of every image."""
    for shard in shards:
        try:
            for name, data in _members(shard, stream.endings):
                yield shard, name, data
        except Exception as error:  # damaged archives and networks raise nearly anything
            stream.damage.shard(shard, error)


def _members(shard: str, endings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    from webdataset.gopen import set_options

    source = _opened(shard)
    try:
        with tarfile.open(
            fileobj=source, mode="r|*", bufsize=READ_BYTES, tarinfo=_StrictHeader
        ) as archive:
            for member in _images(archive, endings):
                file = archive.extractfile(member)
                assert file is not None  # only what is no regular file has none
                yield member.name, file.read()
        while source.read(READ_BYTES):  # a program that is not heard to its end complains
            pass
    except BaseException:
        # What stopped us is the news, not that the program behind a pipe was stopped by it.
        set_options(source, ignore_errors=True)
        raise
    finally:
        source.close()


def _opened(shard: str) -> Any:
    """A file to be read once, from its beginning; of an object store, in requests one by one."""
    from webdataset.gopen import gopen

    address = _rewritten(shard)
    if _for_webdataset(urlparse(address).scheme):
        return gopen(shard)
    import fsspec

    store, path = fsspec.core.url_to_fs(address)
    return store.open(path, "rb", block_size=STORE_BYTES)


def _shuffled(items: Sequence[str], *key: int | str) -> list[str]:
    shuffled = list(items)
    random.Random(keyed_seed(*key)).shuffle(shuffled)
    return shuffled


def shuffle_buffer(items: Iterable[T], size: int, seed: int) -> Iterator[T]:
    """Items in an order drawn by ``seed``: each is the random one of ``size`` that wait."""
    draws = random.Random(seed)
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) >= size:
            place = draws.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            yield waiting.pop()
    draws.shuffle(waiting)
    yield from waiting


class _StreamDamage:
    """As ``samples.Damage`` for images without a number: counted by a hash of their names.

    The marks are in memory that workers share, and a mark is never taken back. Two damaged images
    with one hash count once; of a thousand, about eight do.
    """

    SLOTS = 1 << 16
    together = False  # as there

    def __init__(self, images: int, shards: int, tolerance: Tolerance) -> None:
        self._weights = torch.zeros(self.SLOTS, dtype=torch.int32).share_memory_()
        self._per_shard = max(1, images // shards)
        self._allowed = max(tolerance.least, int(tolerance.share * images))
        self._images = images
        self._tolerance = tolerance
        self._seen: list[str] = []

    def image(self, number: int, error: DataError) -> None:
        self._mark(number % self.SLOTS, 1, str(error))

    def shard(self, shard: str, error: Exception) -> None:
        what = f"expected a shard, cannot read all of {shard}: {in_a_line(error)}"
        self._mark(keyed_seed("shard", shard) % self.SLOTS, self._per_shard, what)

    def count(self) -> int:
        return int(self._weights.sum())

    def marks(self) -> Tensor:
        return self._weights.clone()

    def learn(self, marks: Tensor) -> None:
        known = marks > 0
        self._weights[known] = marks[known]

    def _mark(self, slot: int, weight: int, what: str) -> None:
        if self._weights[slot] > 0:
            return
        self._weights[slot] = weight
        self._seen.append(what)
        logger.warning("passed over (%d so far): %s", self.count(), what)
        if not self.together:
            self.check("", f". The last: {'; '.join(self._seen[-5:])}")

    def check(self, named: str = ", which warnings name", last: str = "") -> None:
        if self.count() > self._allowed:
            raise DataError(
                f"expected at most {self._allowed} unreadable images of {self._images} (a shard "
                f"counts {self._per_shard}), got {self.count()}{named}; "
                f"{self._tolerance.advice()}{last}"
            )


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
