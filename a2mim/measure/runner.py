"""Networks measured image by image: games made, records written, shared and read.

A record is read where it is and measured where it is not, so that an interrupted run goes on, and
several processes do the work of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from torch import Tensor

import interactions as ix
from a2mim.data.folders import DataError
from a2mim.data.sources import Source
from a2mim.measure.fills import plain_fill
from a2mim.measure.fitting import parsed_grid
from a2mim.measure.networks import Subject
from a2mim.measure.precision import settled
from a2mim.messages import UsageError
from a2mim.processes import is_first, shared, wait
from a2mim.runs.folder import safe_name
from a2mim.runs.progress import forwards
from a2mim.runs.records import read_record, record_key, write_record
from a2mim.settings.interactions import ENCODER_REWARDS, InteractionsConfig
from interactions.games.base import predicted_class
from interactions.games.encoders import Kind
from interactions.networks.inference import Fitting, Precision
from interactions.orders.adaptive import can_grow, wanted_replicates
from interactions.orders.estimator import add_to_each, measure_each, orders_of
from interactions.orders.published import PublishedPairs
from interactions.orders.rounding import fitting_precision

T = TypeVar("T")
Records = list[ix.Interactions]


@dataclass(frozen=True)
class Measured:
    """What was measured on one network.

    Attributes:
        subject: the network.
        records: one per image.
        precision: the arithmetic, once "auto" is decided.
        floor: the numerical noise of one difference, in the precision of the run.
        floor_of_ends: at m = 0 and m = n-2, which are in float32 in any case.
    """

    subject: Subject
    records: Records
    precision: Precision
    floor: float
    floor_of_ends: float


@dataclass
class Share:
    """Where all processes of a run keep their records.

    Attributes:
        folder: of the records.
        used: the records that the result is made of.
    """

    folder: Path
    used: set[Path] = field(default_factory=set)


def measure(
    subject: Subject,
    config: InteractionsConfig,
    design: ix.Design,
    sources: Sequence[Source],
    share: Share,
    purpose: str = "",
) -> Measured:
    """Records of all images of one model, and the noise floor of the first.

    Records are read where they are and measured where they are not. Without a budget, orders whose
    contexts are noisy get more of them; with one, the design was planned for it. What the reward
    ``auto`` means is decided before.
    """
    precision = _precision(subject, config, design, sources[0], share)
    config = replace(config, precision=precision)
    play = partial(_game, subject, config)
    settings = {
        "design": repr(design),
        "model": [subject.name, str(subject.report.options)],
        "weights": subject.report.sha256,
        "reward": config.reward,
        "fill": config.fill,
        "precision": config.precision,
        "compile": config.compile,
    }
    keys, labels = [], []
    for index, source in enumerate(sources):
        image = subject.see(source)
        labels.append(_label(subject, config, source, image))
        name = _image_name(config, index, source)
        keys.append(record_key(settings | {"image": name}, image, labels[-1]))

    def game(k: int) -> ix.PatchGame | ix.TokenDropGame:
        return play(sources[k], _image_name(config, k, sources[k]), labels[k])

    folder = share.folder / safe_name(f"{subject.name} {subject.weights}")

    def measured(level: int, wanted: Mapping[int, int], before: Records) -> Records:
        """Measure this process's share of the images, then read the records of all."""
        stored = [folder / f"{k:05d}-{key}-{level}.npz" for k, key in enumerate(keys)]
        share.used.update(stored)
        name = subject.name + purpose + (f", more contexts ({level})" if level else "")
        per_image = _added(before[0], wanted) if level else forwards_of(design)
        missing = shared([k for k, path in enumerate(stored) if read_record(path) is None])
        games = (game(k) for k in missing)
        found = measure_each(games, design)
        if level:
            found = add_to_each(games, [before[k] for k in missing], design, wanted)
        total = len(missing) * per_image
        with forwards(name, total, [subject.model]) as bar:
            for done, k in enumerate(missing, start=1):
                write_record(usable(partial(next, found)), stored[k], label=labels[k])
                # What was saved by removing repeats is work that is not left.
                bar.total = bar.n + (len(missing) - done) * per_image
                bar.refresh()
        wait()
        return [_read(path) for path in stored]

    level, records = 0, measured(0, {}, [])
    adaptive = config.target and not config.budget and can_grow(records, design)
    while adaptive and (
        wanted := wanted_replicates(records, config.target, max_contexts=config.max_contexts)
    ):
        level += 1
        records = measured(level, wanted, records)
    # Only the first process reports, and only the result.
    if purpose or not is_first():
        return Measured(subject, records, precision, math.nan, math.nan)
    probed = game(0)
    floor = floor_of_ends = usable(lambda: ix.noise_floor(probed, design))
    if probed.precise is not probed:
        floor_of_ends = usable(lambda: ix.noise_floor(probed.precise, design))
    return Measured(subject, records, precision, floor, floor_of_ends)


def game_of(
    subject: Subject, config: InteractionsConfig, source: Source
) -> ix.PatchGame | ix.TokenDropGame:
    """The game of one image, as :func:`measure` plays it if it is the first, in float32."""
    config = replace(config, precision="float32")
    label = _label(subject, config, source, subject.see(source))
    return _game(subject, config, source, _image_name(config, 0, source), label)


def _game(
    subject: Subject, config: InteractionsConfig, source: Source, name: str, label: int
) -> ix.PatchGame | ix.TokenDropGame:
    """The game of one image."""
    image = subject.see(source)
    grid = grid_of(config)
    batch_size = config.batch_size or None
    precision: Precision = "float32" if config.precision == "auto" else config.precision

    def build() -> ix.PatchGame | ix.TokenDropGame:
        if config.reward in ENCODER_REWARDS:
            (game,) = ix.encoder_games(
                subject.model,
                image[None],
                grid,
                kind=cast(Kind, config.reward),
                names=[name],
                fill=plain_fill(config.fill, *subject.colours),
                batch_size=batch_size,
                precision=precision,
                compile=config.compile,
            )
            return game
        reward = ix.REWARDS[config.reward]
        if config.fill == "token_drop":
            return ix.TokenDropGame(
                subject.model, image, label, grid, name, reward, batch_size, precision
            )
        fill = plain_fill(config.fill, *subject.colours)
        return ix.PatchGame(
            *(subject.model, image, label, grid, name, fill, reward, batch_size, precision),
            compile=config.compile,
        )

    return usable(build)


def _precision(
    subject: Subject, config: InteractionsConfig, design: ix.Design, first: Source, share: Share
) -> Precision:
    """The arithmetic of a network, chosen once."""
    path = share.folder.parent / f"precision {safe_name(f'{subject.name} {subject.weights}')}.json"

    def choose() -> Fitting:
        plain = replace(config, compile=False)
        label = _label(subject, config, first, subject.see(first))
        game = _game(subject, plain, first, _image_name(config, 0, first), label)
        return usable(lambda: fitting_precision(game, design))

    return settled(config.precision, path, subject.name, choose)


def _label(subject: Subject, config: InteractionsConfig, source: Source, image: Tensor) -> int:
    if config.reward in ENCODER_REWARDS:
        return 0
    if config.label == "prediction":
        return predicted_class(subject.model, image)
    if config.label == "truth":
        assert source.truth is not None
        return source.truth
    return int(config.label)


def _image_name(config: InteractionsConfig, index: int, source: Source) -> str:
    # Published draws are keyed by the index of the image in the run.
    return str(index) if config.protocol else source.name


def usable(work: Callable[[], T]) -> T:
    """What the library refuses with a reason is the user's input, not a fault."""
    try:
        return work()
    except (ValueError, DataError, ImportError) as error:
        raise UsageError(str(error)) from error


def _read(path: Path) -> ix.Interactions:
    """A record that has been written."""
    record = read_record(path)
    if record is None:
        raise UsageError(f"cannot read {path}, which was just written; run the same command again")
    return record


def grid_of(config: InteractionsConfig) -> ix.PatchGrid:
    """The players."""
    side = {"": config.grid, "iclr22": 16, "a2mim": 14}[config.protocol]
    assert side is not None, "a grid that fits the networks"
    return parsed_grid(side)


def forwards_of(design: ix.Design) -> int:
    """Forwards per image at most, for neighbouring pairs: repeats are not counted out."""
    pairs = design.pairs
    assert isinstance(pairs, ix.NeighbourPairs | PublishedPairs)
    n = pairs.grid.n
    per_replicate = design.contexts.count(n, 1) // design.contexts.replicates
    contexts = sum(
        1 if m in (0, n - 2) else R * per_replicate
        for m, R in zip(orders_of(design.ratios, n), design.replicates_at(n), strict=True)
    )
    return 4 * pairs.count * contexts


def _added(record: ix.Interactions, wanted: Mapping[int, int]) -> int:
    """Forwards that so many replicates, by order, add to those of a record."""
    more = sum(
        wanted.get(int(m), 0) - record.replicates(o).shape[1]
        for o, m in enumerate(record.orders_O)
        if int(m) in wanted
    )
    return 4 * len(record.pairs_P2) * record.per_replicate * more
