"""Which pairs of players are measured.

A pair sampler draws pairs ``(P, 2)`` for one image, by key: the same seed and image name
give the same pairs for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from interactions.checks import instance, whole
from interactions.keys import permutation, raw_words
from interactions.patches import PatchGrid
from interactions.segments import PlayerMap

Pairs = NDArray[np.int64]
"""Pairs of players, shape ``(P, 2)``, each unordered pair once."""


class PairSampler(Protocol):
    """How the pairs of an image are drawn."""

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """The pairs for one image of a game with ``n`` players."""
        ...


@dataclass(frozen=True)
class AllPairs:
    """Every pair of players."""

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """All n (n-1) / 2 pairs; nothing is random."""
        return np.stack(np.triu_indices(n, k=1), axis=1).astype(np.int64)


@dataclass(frozen=True)
class RandomPairs:
    """Pairs drawn uniformly, without replacement, at any distance.

    Attributes:
        count: pairs per image.
    """

    count: int

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """``count`` distinct pairs."""
        return choose(AllPairs().draw(n, seed, image), self.count, seed, image)


@dataclass(frozen=True)
class NeighbourPairs:
    """Pairs of cells at most ``radius`` rows and columns apart.

    Attributes:
        grid: where the players sit.
        radius: largest distance in rows and in columns (the papers use 2).
        count: pairs per image.
        rule: ``"uniform"`` draws every neighbouring pair with the same probability;
            ``"clamped"`` follows the published rule (a uniform cell i, then j = i + a uniform
            offset, clamped at the border, repeats redrawn), which favours pairs at the border.
    """

    grid: PatchGrid
    radius: int = 2
    count: int = 50
    rule: Literal["uniform", "clamped"] = "uniform"

    def __post_init__(self) -> None:
        instance(self.grid, PatchGrid, "a grid")
        whole(self.radius, "radius")
        whole(self.count, "count", None)
        if self.rule not in ("uniform", "clamped"):
            raise ValueError(f"expected the rule 'uniform' or 'clamped', got {self.rule!r}")

    def candidates(self) -> Pairs:
        """All neighbouring pairs of the grid, in row-major order."""
        pairs = AllPairs().draw(self.grid.n, 0, "")
        rows, cols = np.divmod(pairs, self.grid.cols)
        near = (np.abs(np.diff(rows)) <= self.radius) & (np.abs(np.diff(cols)) <= self.radius)
        return pairs[near[:, 0]]

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """``count`` distinct neighbouring pairs."""
        if n != self.grid.n:
            raise ValueError(f"expected a game over the grid's {self.grid.n} players, got {n}")
        candidates = self.candidates()
        if self.rule == "uniform":
            return choose(candidates, self.count, seed, image)
        return self._draw_clamped(len(candidates), seed, image)

    def _draw_clamped(self, available: int, seed: int, image: str) -> Pairs:
        _check_count(self.count, available)
        side = 2 * self.radius + 1
        offsets = [k for k in range(side * side) if k != side * side // 2]
        chosen: dict[tuple[int, int], None] = {}
        attempt = 0
        while len(chosen) < self.count:
            cell, offset = raw_words(2, "pairs clamped", seed, image, attempt)
            attempt += 1
            # 64-bit words modulo a grid size: the departure from uniform is below 1e-15.
            row, col = divmod(int(cell % np.uint64(self.grid.n)), self.grid.cols)
            down, right = divmod(offsets[int(offset % np.uint64(len(offsets)))], side)
            other_row = min(max(row + down - self.radius, 0), self.grid.rows - 1)
            other_col = min(max(col + right - self.radius, 0), self.grid.cols - 1)
            i, j = row * self.grid.cols + col, other_row * self.grid.cols + other_col
            if i != j:
                chosen[min(i, j), max(i, j)] = None
        return np.array(list(chosen), dtype=np.int64)


def choose(candidates: Pairs, count: int, seed: int, image: str) -> Pairs:
    """``count`` of the candidates, drawn uniformly, without replacement, by seed and image.

    Raises:
        ValueError: if there are fewer candidates, or none are asked for.
    """
    _check_count(count, len(candidates))
    return candidates[permutation(len(candidates), "pairs", seed, image)[:count]]


def _check_count(count: int, available: int) -> None:
    if not 1 <= count <= available:
        raise ValueError(f"expected between 1 and {available} pairs per image, got {count}")


@dataclass(frozen=True)
class AdjacentPairs:
    """Pairs of touching players, drawn uniformly, without replacement.

    Attributes:
        maps: the players of each image, by its name.
        count: pairs per image.
    """

    maps: Mapping[str, PlayerMap]
    count: int

    def draw(self, n: int, seed: int, image: str) -> Pairs:
        """``count`` distinct pairs of touching players.

        Raises:
            ValueError: if the image has no map, a map of other players, or too few such pairs.
        """
        if image not in self.maps:
            raise ValueError(
                f"image {image}: expected a map of its players, got none among {len(self.maps)} "
                "maps; key the maps by the names of the games"
            )
        players = self.maps[image]
        if players.n != n:
            raise ValueError(
                f"image {image}: expected a game over the map's {players.n} players, got {n}"
            )
        try:
            return choose(players.neighbours(), self.count, seed, image)
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from error
