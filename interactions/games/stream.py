"""Coalitions of several games of one network, in full batches; the device is not waited for.

    ask      a game's coalitions join those of other images; every full batch is run at once
    finish   what is left is run
    fetch    values come to the CPU, once per question

Between asking and fetching the host only hands out work: coalitions are copied to the device once,
masked images, outputs and values stay there. On an accelerator the coalitions of the next image
fill up the last batch of an image, and the very last one is filled with repeats: all batches are of
one size, so that the kernels are the same whatever images share a batch. On a CPU, where a batch
that is not full costs nothing, images do not share batches.

Shapes: K coalitions, B in a batch, N players.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from interactions.games.base import Game, OnImage
from interactions.networks.inference import (
    automatic_batch_size,
    device_of,
    largest_size,
    running,
    too_large,
)
from interactions.networks.masking import Masked, place


class OfNetwork(OnImage, Protocol):
    """A game that a network plays: :class:`~interactions.games.image.PatchGame` and such."""

    @property
    def compile(self) -> bool: ...  # noqa: D102

    def masked(self, ready: Callable[[Tensor], Tensor]) -> Callable[[int], Masked]:
        """From a kind of coalitions to the image; ``ready`` makes images fit for the network."""
        ...

    def kinds(self, coalitions_KN: Tensor) -> Tensor:
        """Int ``(K,)``: coalitions of one kind can share a batch."""
        ...


class Answer:
    """Values of coalitions, on their way.

    Args:
        image: the image's name, for error messages.
        order_K: which of the coalitions each value is of; None for their own order.
        count: how many coalitions.
    """

    def __init__(self, image: str, count: int, order_K: Tensor | None = None):
        self.image, self.order_K = image, order_K
        self.count = self.missing = count
        self.values: Tensor | None = None

    @classmethod
    def known(cls, image: str, values: Tensor) -> Answer:
        """Of values that are there."""
        answer = cls(image, len(values))
        answer.put(0, values)
        return answer

    @property
    def complete(self) -> bool:
        """Whether the device has been given all that it takes."""
        return self.missing == 0

    def put(self, start: int, values: Tensor) -> None:
        """Write values ``(B,)`` or ``(B, D)`` from a place on."""
        # One tensor for all: small ones that outlive the large ones of a batch would take their
        # places in memory, one a batch, until gigabytes lie in holes.
        if self.values is None:
            self.values = values.new_empty(self.count, *values.shape[1:])
        self.values[start : start + len(values)] = values
        self.missing -= len(values)

    def fetch(self) -> Tensor:
        """The values, on the CPU; waits for the device.

        Raises:
            ValueError: if one is not finite.
        """
        if self.values is None:
            return torch.empty(0, dtype=torch.float64)
        values = self.values.cpu()
        if not values.isfinite().all():
            raise ValueError(f"image {self.image}: the model gave values that are not finite")
        if self.order_K is not None:
            values = torch.empty_like(values).index_copy_(0, self.order_K, values)
        return values


class Stream:
    """What games ask their networks, in full batches.

    Args:
        together: whether images share batches; None: on an accelerator.
    """

    def __init__(self, together: bool | None = None):
        self.together = together
        self._lanes: dict[Hashable, _Lane] = {}
        self._room = _Room()
        self._last: tuple[OfNetwork, Callable[[int], Masked]] | None = None

    @property
    def ahead(self) -> int:
        """How many images should be asked for before the first is fetched."""
        return int(any(lane.shared for lane in self._lanes.values()))

    def ask(self, game: Game, coalitions_KN: Tensor) -> Answer:
        """Ask for values of coalitions, bool ``(K, N)`` on the CPU.

        A game that no network plays answers at once.

        Raises:
            ValueError: if the network's outputs are not what a reward reads.
        """
        if not hasattr(game, "masked"):
            return Answer.known(game.image, game(coalitions_KN))
        player = cast(OfNetwork, game)
        if not len(coalitions_KN):
            return Answer(player.image, 0)
        kinds_K = player.kinds(coalitions_KN)
        kinds, counts = kinds_K.unique(return_counts=True)
        order_K = None if len(kinds) == 1 else kinds_K.argsort(stable=True)
        if order_K is not None:
            coalitions_KN = coalitions_KN[order_K]
        answer, start = Answer(player.image, len(coalitions_KN), order_K), 0
        with torch.inference_mode(), running(player.model, player.precision) as ready:
            if self._last is None or self._last[0] is not player:
                self._last = player, player.masked(ready)
            visible_KN = _onto(device_of(player.model), coalitions_KN)
            for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
                masked = self._last[1](kind)
                lane = self._lane(player, masked, kind)
                visible_BN = visible_KN[start : start + count]
                lane.parts.append(_Part(player, masked, answer, start, visible_BN))
                lane.waiting += count
                lane.run(full=True)
                start += count
        return answer

    def end_image(self) -> None:
        """No more of this image: what waits is run where images do not share batches."""
        self._run([lane for lane in self._lanes.values() if not lane.shared])

    def finish(self) -> None:
        """Run all that waits."""
        self._run(list(self._lanes.values()))

    def _run(self, lanes: Sequence[_Lane]) -> None:
        waiting = [lane for lane in lanes if lane.waiting]
        for model, precision in dict.fromkeys((lane.model, lane.precision) for lane in waiting):
            with torch.inference_mode(), running(model, precision):
                for lane in waiting:
                    if (lane.model, lane.precision) == (model, precision):
                        lane.run(full=False)

    def _lane(self, game: OfNetwork, masked: Masked, kind: int) -> _Lane:
        entry = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in masked.entry)
        key = (game.model, game.precision, game.batch_size, game.compile, kind, entry)
        if key not in self._lanes:
            self._lanes[key] = _Lane(game, masked, self.together, self._room)
        return self._lanes[key]


class _Room:
    """One place in memory for the batches of all lanes: they are run one after the other.

    What is made anew has to be cleared anew, and a place for each lane would be one for each size
    of a coalition where tokens are left out: 23 GB at 224 px, in batches of 1024.
    """

    def __init__(self) -> None:
        self._places: dict[Hashable, Tensor] = {}

    def places(self, masked: Masked, count: int) -> tuple[Tensor, ...]:
        """Tensors for a batch, as :meth:`Masked.places`; what was in them before is lost."""
        found = []
        for k, entry in enumerate(masked.entry):
            key = (k, entry.shape, entry.stride(), entry.dtype, entry.device)
            if key not in self._places or len(self._places[key]) < count:
                self._places.pop(key, None)  # before the larger one is made
                self._places[key] = place(entry, count)
            found.append(self._places[key][:count])
        return tuple(found)

    def clear(self) -> None:
        """Give the memory back."""
        self._places.clear()


class _Part:
    """Some coalitions of one question."""

    def __init__(
        self, game: OfNetwork, masked: Masked, answer: Answer, start: int, visible_BN: Tensor
    ):
        self.game, self.masked, self.answer = game, masked, answer
        self.start, self.visible_BN = start, visible_BN

    def cut(self, count: int) -> tuple[_Part, _Part]:
        """The first ones, and the others."""
        first = copy(self)
        other = copy(self)
        first.visible_BN, other.visible_BN = self.visible_BN[:count], self.visible_BN[count:]
        other.start += count
        return first, other


class _Lane:
    """Coalitions that can share a batch, and wait for it to be full."""

    def __init__(self, game: OfNetwork, masked: Masked, together: bool | None, room: _Room):
        self.room = room
        self.model, self.precision = game.model, game.precision
        self.image_CHW, self.device = game.image_CHW, masked.entry[0].device
        self.network = _compiled(masked.network) if game.compile else masked.network
        self.shared = self.device.type != "cpu" if together is None else together
        self.padded = game.compile or self.shared
        self.parts: deque[_Part] = deque()
        self.waiting = 0

        def evaluate(count: int) -> None:
            places = masked.places(count)
            masked.compose(torch.ones(count, game.n, dtype=torch.bool, device=self.device), *places)
            game.reward(masked.network(*places), game.label)

        try:
            size = game.batch_size or automatic_batch_size(
                self.model, self.image_CHW, self.precision, self.device, evaluate
            )
        except ValueError as error:
            raise ValueError(f"image {game.image}: {error}") from error
        self.size = min(size, largest_size(self.model, self.image_CHW, self.precision, self.device))

    def run(self, full: bool) -> None:
        """Run all full batches; without ``full``, all there is."""
        while self.waiting >= self.size or (self.waiting and not full):
            parts = self._take(min(self.waiting, self.size))
            try:
                self._batch(parts)
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.parts.extendleft(reversed(parts))
                self.waiting += sum(len(part.visible_BN) for part in parts)
                self.size //= 2
                self.room.clear()
                too_large(self.model, self.image_CHW, self.precision, self.device, self.size)

    def _take(self, count: int) -> list[_Part]:
        self.waiting -= count
        taken = []
        while count:
            part = self.parts.popleft()
            if len(part.visible_BN) > count:
                part, rest = part.cut(count)
                self.parts.appendleft(rest)
            count -= len(part.visible_BN)
            taken.append(part)
        return taken

    def _batch(self, parts: Sequence[_Part]) -> None:
        rows = [0]
        for part in parts:
            rows.append(rows[-1] + len(part.visible_BN))
        wide = self.size if self.padded else rows[-1]
        places = self.room.places(parts[0].masked, wide)
        for part, start, stop in zip(parts, rows, rows[1:], strict=False):
            part.masked.compose(part.visible_BN, *(wide_B[start:stop] for wide_B in places))
        for wide_B in places:
            wide_B[rows[-1] :] = wide_B[rows[-1] - 1]
        outputs: Any = self.network(*places)
        values = []
        for part, start, stop in zip(parts, rows, rows[1:], strict=False):
            try:
                values.append(part.game.reward(outputs, part.game.label)[start:stop])
            except ValueError as error:
                raise ValueError(f"image {part.game.image}: {error}") from error
        for part, found in zip(parts, values, strict=True):
            part.answer.put(part.start, found)


def values_of(game: OfNetwork, coalitions_KN: Tensor) -> Tensor:
    """Values of a network's game: what calling it does."""
    stream = Stream(together=False)
    answer = stream.ask(cast(Game, game), coalitions_KN)
    stream.finish()
    return answer.fetch()


def _onto(device: torch.device, coalitions_KN: Tensor) -> Tensor:
    if device.type != "cuda":
        return coalitions_KN.to(device)
    return coalitions_KN.pin_memory().to(device, non_blocking=True)


def _compiled(network: nn.Module) -> nn.Module:
    """The network with a compiled forward; hooks on it stay outside of the graph."""
    twin = copy(network)
    twin.__dict__["forward"] = torch.compile(network.forward, dynamic=False)
    return twin
