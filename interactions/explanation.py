"""One image explained: which patches matter, which matter together, and in which company.

    low orders: few other patches are visible; high orders: nearly all are

For every band of orders, with the orders m of the band that were measured,

    pair     mean over m of I^(m)(i, j)      (interactions.orders.estimator)
    patch    mean over m of phi^(m)(i)       (interactions.orders.attribution)

Intervals are over contexts: how well the value is known for *this* image and network. A single
image says nothing about others.

Shapes: C channels, H x W pixels, N players, P pairs, R replicates, O orders.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interactions import fills, pictures, plots
from interactions.games.base import Game, OnImage, Reward, log_odds, unit_of
from interactions.games.image import PatchGame
from interactions.inputs import (
    Colours,
    Transform,
    colours_of,
    names_of,
    one_image,
    visible_picture,
)
from interactions.networks.inference import Precision
from interactions.networks.masking import token_grid
from interactions.orders.attribution import Marginals, marginals
from interactions.orders.contexts import ContextSampler, Windows
from interactions.orders.estimator import Design, Interactions, is_exact, measure_one, orders_of
from interactions.orders.measurements import write_arrays
from interactions.orders.pairs import AdjacentPairs, NeighbourPairs, PairSampler
from interactions.orders.strength import Strength, bands_of, strength
from interactions.patches import PatchGrid, Players
from interactions.progress import Bar
from interactions.segments import PlayerMap
from interactions.stats import Interval, mean_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

RATIOS = (0.0, 0.05, 0.3, 0.8, 1.0)
"""Orders of an explanation as shares of n-2: two low, one middle, two high ones."""

SIDES = (7, 8, 6, 5, 9, 10, 4, 12, 14, 16, 3)
"""Cells along a side of an image that nothing else is said about, the first that divides it."""


EXACT = "se 0: all contexts were measured, the value is exact for this image"
"""The note on orders that have a single context, or few."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one network sees in one image, by low, middle and high orders.

    Attributes:
        picture_HWC: the image as the network saw it, in [0, 1].
        label: the class that was played for; None if there is none.
        players: its patches.
        record: interactions of pairs.
        marginals: contributions of patches.
        unit: of what values are.
    """

    picture_HWC: NDArray[np.float32]
    label: int | None
    players: Players
    record: Interactions
    marginals: Marginals
    unit: str = "log odds"

    @property
    def image(self) -> str:
        """Name of the image."""
        return self.record.image

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Those of low, middle and high orders that were measured."""
        return tuple(bands_of(self.record.orders_O, self.record.n))

    @cached_property
    def strength(self) -> Strength:
        """Strength over orders of this image; without an interval over images."""
        return strength([self.record])

    def to_frame(self) -> pd.DataFrame:
        """The interaction map: one row per band and pair.

        Columns: band, i, j, interaction, se, low, high (95 % over contexts, of this pair alone).
        se is 0 where every context was measured, as at m = 0 and n-2, which have one: the value is
        then exact for this image and network.
        """
        return self._frame("interaction", self.record.pairs_P2, ("i", "j"), self._pairs)

    def patches(self) -> pd.DataFrame:
        """Attribution by order: one row per band and patch.

        Columns: band, patch, attribution, se, low, high (95 % over permutations). se is 0 where
        there is one context: the value is exact.
        """
        players_N1 = np.arange(self.record.n)[:, None]
        return self._frame("attribution", players_N1, ("patch",), self._patches)

    def strongest(self, count: int = 10, band: str | None = None) -> pd.DataFrame:
        """The pairs of the largest interactions, of each band or of one.

        The largest of many noisy numbers are too large on average; ``low`` and ``high`` are not
        corrected for that.
        """
        table = self.to_frame()
        table = table[table["band"].isin([band] if band else self.bands)]
        by_size = table["interaction"].abs().sort_values(ascending=False, kind="stable").index
        table = table.loc[by_size].groupby("band", sort=False).head(count)
        order = table["band"].map({name: k for k, name in enumerate(self.bands)})
        return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)

    def partners(self, patch: int, band: str | None = None) -> pd.DataFrame:
        """What one patch interacts with: rows of :meth:`to_frame`, with ``partner`` for i and j.

        Raises:
            ValueError: for a patch that is in no pair.
        """
        table = self.to_frame()
        mine = (table["i"] == patch) | (table["j"] == patch)
        table = table[mine & table["band"].isin([band] if band else self.bands)]
        if table.empty:
            raise ValueError(f"expected a patch that was measured in a pair, got {patch}")
        table.insert(1, "partner", table["i"] + table["j"] - patch)
        return table.drop(columns=["i", "j"]).reset_index(drop=True)

    def plot(self, count: int = 12) -> Figure:
        """Everything in one figure: image and curve; pairs and patches by order.

        Args:
            count: pairs of each band that are drawn, the strongest ones.
        """
        import matplotlib as mpl
        from matplotlib.figure import Figure

        bands = self.bands
        with mpl.rc_context(plots.STYLE | {"axes.titlesize": 9}):
            figure = Figure(figsize=(3.3 + 2.6 * len(bands), 5.6), layout="constrained")
            axes = figure.subplots(2, 1 + len(bands), width_ratios=[1.15, *[1] * len(bands)])
            axes[0, 0].imshow(np.clip(self.picture_HWC, 0, 1), interpolation="nearest")
            axes[0, 0].set_axis_off()
            title = plots.literal(_short(self.image))
            axes[0, 0].set_title(", ".join([title, *self._class_said()]))
            self.plot_curve(axes[1, 0])
            rows = (
                (self._draw_pairs, "pairs", self._pair_limit(bands), f"interaction ({self.unit})"),
                (
                    self._draw_patches,
                    "patches",
                    self._patch_limit(bands),
                    f"attribution ({self.unit})",
                ),
            )
            for line, (draw, what, limit, label) in zip(axes[:, 1:], rows, strict=True):
                for ax, band in zip(line, bands, strict=True):
                    scale = draw(ax, band, limit, count)
                    ax.set_title(f"{what}, {self._orders(band).replace(' orders', '')}")
                pictures.colour_bar(scale, line, label)
            figure.suptitle(self._pairs_said(count), fontsize=8, ha="left", x=0.01)
        return figure

    def plot_curve(self, ax: Axes | None = None) -> Axes:
        """J over orders, without an interval; see :meth:`interactions.Strength.plot`."""
        return self.strength.plot(ax)

    def plot_pairs(self, band: str = "middle", ax: Axes | None = None, *, count: int = 12) -> Axes:
        """The strongest pairs of a band over the image; dashed where the interval holds 0.

        Raises:
            ValueError: for a band that was not measured.
        """
        limit = self._pair_limit([band])
        return self._alone(ax, f"interaction ({self.unit})", band, self._draw_pairs, limit, count)

    def plot_patches(self, band: str = "middle", ax: Axes | None = None) -> Axes:
        """The attribution of every patch in a band, over the image.

        Raises:
            ValueError: for a band that was not measured.
        """
        limit = self._patch_limit([band])
        return self._alone(ax, f"attribution ({self.unit})", band, self._draw_patches, limit, 0)

    def plot_matrix(self, band: str = "middle", ax: Axes | None = None) -> Axes:
        """The interactions of a band as a matrix of patches.

        Raises:
            ValueError: for a band that was not measured.
        """

        def draw(ax: Axes, band: str, limit: float, count: int) -> Any:
            values_P = self._pairs(band)[0]
            record = self.record
            return pictures.pair_matrix(ax, record.n, record.pairs_P2, values_P, limit=limit)

        limit = self._pair_limit([band])
        return self._alone(ax, f"interaction ({self.unit})", band, draw, limit, 0)

    def plot_partners(self, patch: int, band: str = "middle", ax: Axes | None = None) -> Axes:
        """One patch, outlined, and its partners in the colours of their interactions.

        Raises:
            ValueError: for a band that was not measured, or a patch that is in no pair.
        """
        table = self.partners(patch, self._checked(band))

        def draw(ax: Axes, band: str, limit: float, count: int) -> Any:
            return self._draw_partners(ax, patch, table, limit)

        label = f"interaction with patch {patch} ({self.unit})"
        return self._alone(ax, label, band, draw, pictures.limit_of(table["interaction"]), 0)

    def plot_patch(self, patch: int) -> Figure:
        """One patch and its partners by order: low, middle and high side by side.

        Raises:
            ValueError: for a patch that is in no pair.
        """
        import matplotlib as mpl
        from matplotlib.figure import Figure

        tables = {band: self.partners(patch, band) for band in self.bands}
        limit = pictures.limit_of(*(table["interaction"] for table in tables.values()))
        with mpl.rc_context(plots.STYLE | {"axes.titlesize": 9}):
            figure = Figure(figsize=(2.6 * len(tables) + 0.7, 2.9), layout="constrained")
            axes = figure.subplots(1, len(tables), squeeze=False)[0]
            for ax, band in zip(axes, tables, strict=True):
                scale = self._draw_partners(ax, patch, tables[band], limit)
                ax.set_title(self._orders(band))
            pictures.colour_bar(scale, axes, f"interaction ({self.unit})")
            figure.suptitle(
                f"{plots.literal(_short(self.image))}: partners of patch {patch} (outlined); "
                "no colour: not measured",
                fontsize=8,
                ha="left",
                x=0.01,
            )
        return figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one ``.npz`` file, exactly; :meth:`load` reads it."""
        players = self.players
        if isinstance(players, PatchGrid):
            divided = np.array([players.rows, players.cols])
        else:
            divided = self._cells_HW
        arrays = {
            "picture_HWC": self.picture_HWC,
            "label": np.array(-1 if self.label is None else self.label),
            "players": divided,
            "unit": np.array(self.unit),
            **{f"record {k}": np.asarray(v) for k, v in vars(self.record).items()},
            **{f"marginals {k}": np.asarray(v) for k, v in vars(self.marginals).items()},
        }
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read a file of :meth:`save`; nothing in it is ever executed.

        Raises:
            ValueError: for another file.
        """
        with np.load(path, allow_pickle=False) as file:
            parts: dict[str, dict[str, Any]] = {"record": {}, "marginals": {}}
            if not {"picture_HWC", "players"} <= set(file.files):
                raise ValueError(f"expected a file of Explanation.save, got {os.fspath(path)!r}")
            for name in file.files:
                part, _, field = name.partition(" ")
                if field:
                    parts[part][field] = file[name] if file[name].ndim else file[name].item()
            divided = file["players"]
            return cls(
                file["picture_HWC"],
                None if file["label"] < 0 else int(file["label"]),
                PatchGrid(*divided.tolist())
                if divided.ndim == 1
                else PlayerMap(torch.from_numpy(divided)),
                Interactions(**parts["record"]),
                Marginals(**parts["marginals"]),
                str(file["unit"]),
            )

    def without_label(self) -> Explanation:
        """The same where no class is played for, as for an encoder."""
        return replace(self, label=None)

    def __repr__(self) -> str:
        orders = ", ".join(map(str, self.record.orders_O))
        return (
            f"Explanation({', '.join([repr(self.image), *self._class_said()])}, "
            f"{len(self.record.pairs_P2)} pairs of {self.record.n} patches, orders {orders}, "
            f"{self.record.forwards + self.marginals.forwards} forwards; one image: no interval "
            "over images)"
        )

    def _repr_html_(self) -> str:
        strongest = self.strongest(5)
        exact = f"; {EXACT}" if (strongest["se"] == 0).any() else ""
        title = f"{self!r}. Strongest pairs, with intervals over contexts{exact}:"
        return plots.as_html(title, strongest, most=15)

    # ----------------------------------------------------------------------------------------------

    @cached_property
    def _cells_HW(self) -> NDArray[np.int64]:
        return pictures.cells_of(self.players, *self.picture_HWC.shape[:2])

    def _checked(self, band: str) -> str:
        if band not in self.bands:
            raise ValueError(f"expected a measured band of {', '.join(self.bands)}, got {band!r}")
        return band

    def _pairs(self, band: str) -> tuple[Array, Array, Array, Array]:
        """Mean, standard error and interval of each pair, over the orders of a band."""
        record = self.record
        inside_O = bands_of(record.orders_O, record.n)[self._checked(band)]
        sampled, exact_P = [], np.zeros(len(record.pairs_P2))
        for o in np.flatnonzero(inside_O).tolist():
            if is_exact(record, o):
                exact_P = exact_P + record.replicates(o)[:, 0]
            else:
                sampled.append(record.replicates(o))
        return _with_intervals(exact_P, sampled, int(inside_O.sum()))

    def _patches(self, band: str) -> tuple[Array, Array, Array, Array]:
        """Mean, standard error and interval of each patch, over the orders of a band."""
        n, orders_O = self.record.n, self.marginals.orders_O
        inside_O = bands_of(orders_O, n)[self._checked(band)]
        # One context exists at m = 0 and m = n-1.
        exact_O = (orders_O == 0) | (orders_O == n - 1)
        replicates_RNO = self.marginals.replicates_RNO
        exact_N = replicates_RNO[0][:, inside_O & exact_O].sum(axis=1)
        sampled = list(replicates_RNO[:, :, inside_O & ~exact_O].transpose(2, 1, 0))
        return _with_intervals(exact_N, sampled, int(inside_O.sum()))

    def _frame(
        self, what: str, players: NDArray[np.int64], names: tuple[str, ...], of_band: Any
    ) -> pd.DataFrame:
        import pandas as pd

        tables = []
        for band in self.bands:
            columns: dict[str, Any] = {"band": band}
            columns |= dict(zip(names, np.sort(players, axis=1).T, strict=True))
            columns |= dict(zip((what, "se", "low", "high"), of_band(band), strict=True))
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def _pair_limit(self, bands: Any) -> float:
        return pictures.limit_of(*(self._pairs(band)[0] for band in bands))

    def _patch_limit(self, bands: Any) -> float:
        return pictures.limit_of(*(self._patches(band)[0] for band in bands))

    def _draw_pairs(self, ax: Axes, band: str, limit: float, count: int) -> Any:
        values_P, _, low_P, high_P = self._pairs(band)
        strongest = np.argsort(-np.abs(values_P), kind="stable")[:count]
        return pictures.pairs_over_image(
            *(ax, self.picture_HWC, self._cells_HW, self.record.pairs_P2[strongest]),
            values_P[strongest],
            certain_P=((low_P > 0) | (high_P < 0))[strongest],
            limit=limit,
        )

    def _draw_patches(self, ax: Axes, band: str, limit: float, count: int) -> Any:
        values_N = self._patches(band)[0]
        return pictures.heat_over_image(ax, self.picture_HWC, self._cells_HW, values_N, limit=limit)

    def _draw_partners(self, ax: Axes, patch: int, table: pd.DataFrame, limit: float) -> Any:
        return pictures.partners_over_image(
            *(ax, self.picture_HWC, self._cells_HW, patch),
            table["partner"].to_numpy(),
            table["interaction"].to_numpy(),
            limit=limit,
        )

    def _alone(
        self, ax: Axes | None, label: str, band: str, draw: Any, limit: float, count: int
    ) -> Axes:
        ax = plots.axes_or_new(ax)
        pictures.colour_bar(draw(ax, band, limit, count), ax, label)
        ax.set_title(self._orders(band))
        return ax

    def _orders(self, band: str) -> str:
        orders = self.record.orders_O[bands_of(self.record.orders_O, self.record.n)[band]]
        span = f"{orders.min()}" if len(orders) == 1 else f"{orders.min()} to {orders.max()}"
        return f"{band} orders (m = {span})"

    def _class_said(self) -> list[str]:
        return [] if self.label is None else [f"class {self.label}"]

    def _pairs_said(self, count: int) -> str:
        total = len(self.record.pairs_P2)
        return (
            f"{min(count, total)} strongest of {total} pairs; dashed: the 95 % interval over "
            "contexts holds 0. One image: no interval over images."
        )


def beside(
    explanations: Mapping[str, Explanation],
    what: Literal["pairs", "patches"] = "pairs",
    count: int = 12,
) -> Figure:
    """One image as several networks see it: a row for each, low to high orders, one colour scale.

    Args:
        explanations: of one image, by what the networks are called; in one unit.
        what: what is drawn over the image.
        count: pairs of each band that are drawn, the strongest ones.

    Raises:
        ValueError: if there is no explanation, or they are of different units.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    every = list(explanations.values())
    units = {one.unit for one in every}
    if len(units) != 1:
        raise ValueError(f"expected explanations in one unit, got {sorted(units) or 'none'}")
    bands = list(dict.fromkeys(band for one in every for band in one.bands))
    if what == "pairs":
        limit = max(one._pair_limit(one.bands) for one in every)
    else:
        limit = max(one._patch_limit(one.bands) for one in every)
    with mpl.rc_context(plots.STYLE | {"axes.titlesize": 9}):
        size = (2.0 * (1 + len(bands)) + 0.9, 2.4 * len(every) + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(every), 1 + len(bands), squeeze=False)
        for line, (title, one) in zip(axes, explanations.items(), strict=True):
            line[0].imshow(np.clip(one.picture_HWC, 0, 1), interpolation="nearest")
            said = "\n".join([plots.literal(textwrap.fill(title, 30)), *one._class_said()])
            line[0].set_title(said, fontsize=8)
            draw = one._draw_pairs if what == "pairs" else one._draw_patches
            for ax, band in zip(line[1:], bands, strict=True):
                if band in one.bands:
                    scale = draw(ax, band, limit, count)
                    ax.set_title(one._orders(band))
            for ax in line:
                ax.set_axis_off()
        name = "interaction" if what == "pairs" else "attribution"
        pictures.colour_bar(scale, axes, f"{name} ({units.pop()})")
        if what == "pairs":
            figure.suptitle(every[0]._pairs_said(count), fontsize=8, ha="left", x=0.01)
    return figure


def explain(
    model: nn.Module,
    image: Any,
    label: Any = "prediction",
    players: Players | None = None,
    *,
    pairs: PairSampler | None = None,
    contexts: ContextSampler | None = None,
    ratios: tuple[float, ...] = RATIOS,
    permutations: int = 8,
    fill: str | fills.Fill = fills.zero,
    reward: str | Reward = log_odds,
    transform: Transform | None = None,
    name: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Precision = "float32",
    progress: bool = False,
) -> Explanation:
    """Explain what a network sees in one image: patches, pairs and the curve, by order.

    By default about 11,000 masked images go through the network. Coarser players and fewer pairs,
    contexts or permutations are quicker; more contexts and permutations make intervals shorter.

    Args:
        model: a classifier in eval mode.
        image: ready for the model (C, H, W), or a picture: uint8 array, PIL image, or path.
        label: the class that is played for; that of the whole image if left out.
        players: the patches; a grid of about 7 x 7 if left out.
        pairs: which pairs; all that touch if left out.
        contexts: in which; ``Windows(4, 1)`` if left out.
        ratios: orders as shares of n-2.
        permutations: for the attribution of patches.
        fill: what hidden patches become, as in :class:`interactions.PatchGame`.
        reward: what is played for, as in :class:`interactions.PatchGame`.
        transform: prepares a picture for a model that does not say how, such as torchvision's
            ``weights.transforms()``.
        name: of the image, by which random draws are keyed; that of its file, or ``"0"``.
        seed: random seed.
        batch_size: as in :class:`interactions.PatchGame`.
        precision: as in :class:`interactions.PatchGame`.
        progress: show a progress bar.

    Raises:
        TypeError: for an image that is none.
        ValueError: for a picture that nothing says how to prepare, or settings that do not fit.
    """
    image_CHW = one_image(image, model, transform)
    players = default_players(model, image_CHW) if players is None else players
    name = names_of(None if name is None else [name], image, 1)[0]
    game = PatchGame(
        *(model, image_CHW, label, players, name),
        fill=fill,  # type: ignore[arg-type]
        reward=reward,  # type: ignore[arg-type]
        batch_size=batch_size,
        precision=precision,
    )
    pairs = touching(players, name) if pairs is None else pairs
    design = Design(pairs, contexts or Windows(4, 1), ratios, seed)
    with Bar(_forwards(game.n, design, name, permutations), "masked images", shown=progress) as bar:
        watched = _Watched(game, bar)
        record = measure_one(watched, design)
        return explained(game, record, permutations, seed, watched=watched)


def explained(
    game: OnImage,
    record: Interactions,
    permutations: int = 8,
    seed: int = 0,
    *,
    watched: Game | None = None,
    colours: Colours | None = None,
    unit: str = "",
) -> Explanation:
    """The explanation of a game whose pairs are measured; patches are measured here.

    Args:
        game: of a network and an image.
        record: its interactions.
        permutations: for the attribution of patches, at the orders of the record.
        seed: random seed.
        watched: the game as it is to be played, if it is to be watched.
        colours: mean and deviation of the image's normalisation; the model's own if left out.
        unit: of what values are, if the reward does not say it.
    """
    played: Any = game if watched is None else watched
    colours = colours_of(game.model) if colours is None else colours
    return Explanation(
        picture_HWC=visible_picture(game.image_CHW, colours),
        label=game.label,
        players=game.players,
        record=record,
        marginals=marginals(played, record.orders_O.tolist(), permutations, seed),
        unit=unit or unit_of(game.reward),
    )


def default_players(model: nn.Module, image_CHW: Tensor) -> PatchGrid:
    """A grid of about 7 x 7 cells, of whole patches where the model has patches.

    Raises:
        ValueError: if no grid of 3 to 16 cells divides the image.
    """
    H, W = image_CHW.shape[1:]
    tokens = token_grid(model, H, W)
    lengths = (H, W) if tokens is None else (tokens.rows, tokens.cols)
    sides = [next((side for side in SIDES if length % side == 0), 0) for length in lengths]
    if not all(sides):
        raise ValueError(
            f"expected an image of sides that 3 to 16 cells divide, got {H} x {W} pixels; give "
            "players"
        )
    return PatchGrid(*sides)


def touching(players: Players, image: str) -> PairSampler:
    """All pairs of players that touch, also at a corner of a grid.

    Raises:
        TypeError: for players of another kind, whose pairs have to be given.
    """
    if isinstance(players, PatchGrid):
        near = NeighbourPairs(players, radius=1)
        return NeighbourPairs(players, radius=1, count=len(near.candidates()))
    if isinstance(players, PlayerMap):
        return AdjacentPairs({image: players}, len(players.neighbours()))
    raise TypeError(f"expected pairs for players of {type(players).__name__}, got none")


class _Watched:
    """A game that tells a progress bar what was evaluated."""

    def __init__(self, game: PatchGame, bar: Bar) -> None:
        self.game, self.bar = game, bar
        self.n, self.image = game.n, game.image

    @property
    def precise(self) -> _Watched:
        precise = self.game.precise
        return self if precise is self.game else _Watched(precise, self.bar)

    def __call__(self, coalitions_KN: Tensor) -> Tensor:
        if not self.bar.shown:
            return self.game(coalitions_KN)
        parts = []
        for part_KN in coalitions_KN.split(128):
            parts.append(self.game(part_KN))
            self.bar.advance(len(part_KN))
        return torch.cat(parts)


def _forwards(n: int, design: Design, image: str, permutations: int) -> int:
    """Masked images at most: repeats are not counted out."""
    orders, pairs = orders_of(design.ratios, n), len(design.pairs.draw(n, design.seed, image))
    inner = [m for m in orders if 0 < m < n - 2]
    sizes = {size for m in orders for size in (m, m + 1)}
    contexts = sum(design.contexts.count(n, m) for m in inner) + len(orders) - len(inner)
    return 4 * pairs * contexts + n * permutations * len(sizes)


def _with_intervals(
    exact_X: Array, sampled: list[Array], orders: int
) -> tuple[Array, Array, Array, Array]:
    """Means over orders of what is exact and what is sampled ``(X, R)``, with t intervals.

    Contexts of one replicate are nested from order to order, so replicates are averaged over the
    orders first.
    """
    if not sampled:
        values_X = exact_X / orders
        return values_X, np.zeros(len(values_X)), values_X, values_X
    R = min(x_XR.shape[1] for x_XR in sampled)
    values_XR = (exact_X[:, None] + np.sum([x_XR[:, :R] for x_XR in sampled], axis=0)) / orders
    found = [_interval(values_R) for values_R in values_XR]
    estimate, se, low, high = np.array([(i.estimate, i.se, i.low, i.high) for i in found]).T
    return estimate, se, low, high


def _interval(values_R: Array) -> Interval:
    if len(values_R) < 2:
        return Interval(float(values_R[0]), np.nan, np.nan, np.nan)
    mean, spread = float(values_R.mean()), float(values_R.std(ddof=1))
    return mean_of(mean, spread, len(values_R))


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 12]}...{name[-9:]}"
