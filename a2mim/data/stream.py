"""Training images as a stream of tar files, from their beginning to their end, from anywhere.

    epoch:   shards shuffled by (seed, epoch, pass), dealt to ranks, then to workers, none twice
    worker:  images through a shuffle buffer, its draws keyed by (seed, epoch, pass, rank, worker)
    image:   augmented by draws keyed by (seed, epoch, image's name)

Source: the WebDataset layout (Aizman et al. 2019, arXiv:2001.01858); addresses are opened by the
``webdataset`` library, those of object stores by ``fsspec``.

Shapes: B images in a batch, I images, C channels, H x W pixels.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from a2mim.data.addresses import expand_shards, for_webdataset, optional, rewritten
from a2mim.data.augment import Augment
from a2mim.data.contents import hash_files, hash_of
from a2mim.data.folders import DataError
from a2mim.data.limits import BUFFER
from a2mim.data.sampler import keyed_generator, keyed_seed
from a2mim.data.samples import TOLERANCE, Tolerance, to_augment
from a2mim.data.tar import IMAGE_ENDINGS, READ_BYTES, StrictHeader, image_members, logger
from a2mim.messages import in_a_line

T = TypeVar("T")


STORE_BYTES = 1 << 23  # per request to an object store; about as much of a shard is in memory


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
    in ``a2mim.data.samples``, with the limit taken from ``images``. A shard that cannot be opened,
    or ends too early, counts as ``images / shards`` of them.

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
        optional("webdataset.gopen")  # missing, it would make every shard a damaged one
        self.settings = settings
        self.augment = augment
        self.seed = seed
        self.endings = endings
        self.damage = _StreamDamage(settings.images, len(self.shards), tolerance)

    def __len__(self) -> int:
        """How many images there are, as ``settings`` have it."""
        return self.settings.images

    def contents(self) -> str:
        """A hash of the shards' names, and of what is in those that are local files."""
        local = [path for path in map(Path, self.shards) if path.is_file()]
        names = [shard.rsplit("/", 1)[-1] for shard in self.shards]
        return hash_of(names, hash_files(local, [path.name for path in local]))

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
                numbers, made = zip(*found, strict=True)
                yield {
                    "image": torch.stack([image() for image in made]),
                    "index": torch.tensor(numbers),
                }

    def _images(self, shards: list[str], worker: int) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Pass after pass over the worker's shards, without end: number and, to be made, image."""
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
                generator = keyed_generator("augment", stream.seed, self._epoch, number)
                try:
                    image = to_augment(data, f"{shard}/{name}", stream.augment, generator)
                except DataError as error:
                    stream.damage.image(number, error)
                    continue
                good += 1
                yield number, image
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
    source = _opened(shard)
    try:
        with tarfile.open(
            fileobj=source, mode="r|*", bufsize=READ_BYTES, tarinfo=StrictHeader
        ) as archive:
            for member in image_members(archive, endings):
                file = archive.extractfile(member)
                assert file is not None  # only what is no regular file has none
                yield member.name, file.read()
        while source.read(READ_BYTES):  # a program that is not heard to its end complains
            pass
    except BaseException:
        # What stopped us is the news, not that the program behind a pipe was stopped by it.
        optional("webdataset.gopen").set_options(source, ignore_errors=True)
        raise
    finally:
        source.close()


def _opened(shard: str) -> Any:
    """A file to be read once, from its beginning; of an object store, in requests one by one."""
    address = rewritten(shard)
    if for_webdataset(urlparse(address).scheme):
        return optional("webdataset.gopen").gopen(shard)
    store, path = optional("fsspec").core.url_to_fs(address)
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
