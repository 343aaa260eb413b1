"""``a2mim interactions``: from models and a folder of images to a figure with intervals."""

from __future__ import annotations

import csv
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import interactions as ix
from a2mim.data import IMAGE_SUFFIXES, DataError, read_image
from experiments.configs.interactions import InteractionsConfig
from experiments.figures import interaction_overlay
from experiments.records import read_record, record_key, shard, weights_hash, write_record
from experiments.results import per_image_rows, strength_rows, write_table
from experiments.runs import UsageError, commit, finish_run, open_run, pick_device
from interactions import plots
from interactions.protocols import protocol

T = TypeVar("T")
Records = list[ix.Interactions]
FILLS = {"zero": ix.fills.zero, "image_mean": ix.fills.image_mean, "blur": ix.fills.blur()}


@dataclass(frozen=True)
class Subject:
    """One network under measurement, with the way it wants its images."""

    name: str
    weights: str
    model: nn.Module
    transform: Callable[[object], Tensor]


def interaction_curves(config: InteractionsConfig) -> None:
    """Measure, write rows and figure, and print the table.

    Under ``torchrun`` the images are shared between the processes; the first one finishes.

    Raises:
        UsageError: if models, images or settings cannot be used.
    """
    start = time.perf_counter()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    config = replace(config, device=pick_device(config.device))
    design = _design(config)
    files = _files(config)
    truth = _truth(config, files)
    subjects = [_load(config, k) for k in range(len(config.models))]
    named = [(subject.name, subject.weights) for subject in subjects]
    if len(set(named)) != len(named):
        raise UsageError("expected every network once: give other models or names of weights")
    settings = {key: value for key, value in asdict(config).items() if key not in ("out", "images")}
    settings |= {
        "images": config.images.resolve().name,
        "weights": [subject.weights for subject in subjects],
    }
    work = open_run(config.out, settings | {"files": list(truth)})
    measured = [
        _measure(subject, config, design, files, truth, work, rank, world) for subject in subjects
    ]
    if rank != 0:
        (work / f"done-{rank}").touch()  # this process reads no record any more
        return
    rows = _rows(config, design, subjects, measured)
    write_table(rows, work / "rows.csv")
    with mpl.rc_context(plots.STYLE):
        figure = interaction_overlay(rows)
        figure.savefig(work / "interaction_curves.png")
        figure.savefig(work / "interaction_curves.svg", metadata={"Date": None})
    for other in range(1, world):
        while not (work / f"done-{other}").exists():
            time.sleep(0.1)
        (work / f"done-{other}").unlink()
    shutil.rmtree(work / "records")
    finish_run(work, config.out, settings, time.perf_counter() - start)
    for subject, (records, floor) in zip(subjects, measured, strict=True):
        forwards = sum(record.forwards for record in records)
        print(f"\n{subject.name}: {len(records)} images, {forwards} forwards")
        print(f"numerical noise floor of one difference: {floor:.1e}")
        print(ix.strength(records).to_frame().to_string(index=False, float_format="%.3f"))
    print(f"\nfigure: {config.out / 'interaction_curves.png'}")


def _rows(
    config: InteractionsConfig,
    design: ix.Design,
    subjects: list[Subject],
    measured: list[tuple[Records, float]],
) -> pd.DataFrame:
    """Strengths, rho and noise floor of every network, as rows of the results table."""
    setting = _setting(config, design)
    tables = []
    for subject, (records, floor) in zip(subjects, measured, strict=True):
        common = {
            "run": "interactions",
            "model": subject.name,
            "weights": subject.weights,
            "dataset": config.images.resolve().name,
            "seed": design.seed,
            "commit": commit(),
        }
        probed = [records[0].image]
        tables += [
            strength_rows(records, setting, **common),
            per_image_rows(
                np.array([[floor]]),
                probed,
                at=[0.0],
                samples=1,
                measure="noise_floor",
                setting=setting,
                **common,
            ),
        ]
    return pd.concat(tables, ignore_index=True)


def _measure(
    subject: Subject,
    config: InteractionsConfig,
    design: ix.Design,
    files: list[Path],
    truth: dict[str, int | None],
    work: Path,
    rank: int,
    world: int,
) -> tuple[Records, float]:
    """Records of all images of one model, and the noise floor of the first.

    Records are read where they are and measured where they are not.
    """
    games, paths = [], []
    settings = {
        "design": repr(design),
        "weights": weights_hash(subject.model),
        "reward": config.reward,
        "fill": config.fill,
    }
    for index, (file, name) in enumerate(zip(files, truth, strict=True)):
        image = subject.transform(_usable(partial(read_image, file)))
        label = truth[name]
        label = _predict(subject, image, config) if label is None else label
        game = partial(
            ix.PatchGame,
            model=subject.model,
            image_CHW=image,
            label=label,
            grid=ix.PatchGrid(_side(config), _side(config)),
            # published draws are keyed by the index of the image in the run
            image=str(index) if config.protocol else name,
            fill=FILLS[config.fill],
            reward=ix.REWARDS[config.reward],
            batch_size=config.batch_size,
        )
        games.append(_usable(game))
        key = record_key(settings | {"image": games[-1].image}, image, label)
        paths.append(work / "records" / key)

    def measured(level: int, orders: Sequence[int], before: Records) -> Records:
        """Measure this process's share of the images, then read the records of all."""
        stored = [path.with_name(f"{path.name}-{level}.npz") for path in paths]
        mine = list(shard(len(games), rank, world))
        name = subject.name + (f", more contexts ({level})" if level else "")
        forwards, begin = 0, time.perf_counter()
        with tqdm(total=len(mine), desc=name, unit="image", disable=rank != 0) as bar:
            for k in mine:
                if read_record(stored[k]) is None:
                    if level:
                        record = ix.add_replicates(games[k], before[k], design, orders)
                        forwards += record.forwards - before[k].forwards
                    else:
                        record = _usable(partial(ix.measure_one, games[k], design))
                        forwards += record.forwards
                    write_record(record, stored[k])
                    speed = forwards / (time.perf_counter() - begin)
                    bar.set_postfix_str(f"{speed:.0f} forwards/s", refresh=False)
                bar.update()
        return _await(stored)

    level, records = 0, measured(0, (), [])
    while config.bias_tol and (
        orders := ix.biased_orders(records, config.bias_tol, config.max_contexts)
    ):
        level += 1
        records = measured(level, orders, records)
    # Only the first process reports.
    floor = math.nan if rank else _usable(partial(ix.noise_floor, games[0], design))
    return records, floor


def _design(config: InteractionsConfig) -> ix.Design:
    if config.bias_tol < 0:
        raise UsageError(f"expected --bias-tol of at least 0, got {config.bias_tol}")
    if config.bias_tol and (config.protocol or config.replicates % 4):
        raise UsageError(
            "expected --replicates in multiples of 4 and no --protocol with --bias-tol, "
            f"got {config.replicates} and {config.protocol or 'none'}"
        )
    if config.protocol:
        return protocol(config.protocol)

    def build() -> ix.Design:
        grid = ix.PatchGrid(config.grid, config.grid)
        pairs = ix.NeighbourPairs(grid, config.radius, config.pairs)
        design = ix.Design(
            pairs, ix.Windows(config.replicates, config.windows), config.orders, config.seed
        )
        # Drawn once here, so that impossible settings fail before any model is loaded.
        pairs.draw(grid.n, design.seed, "")
        ix.orders_of(design.ratios, grid.n)
        return design

    if config.replicates % 2:
        raise UsageError(f"expected an even number of --replicates, got {config.replicates}")
    return _usable(build)


def _side(config: InteractionsConfig) -> int:
    return {"": config.grid, "iclr22": 16, "a2mim": 14}[config.protocol]


def _setting(config: InteractionsConfig, design: ix.Design) -> str:
    side = _side(config)
    start = f"grid={side}x{side} reward={config.reward} label={config.label} fill={config.fill}"
    if config.protocol:
        return f"{start} protocol={config.protocol}"
    return (
        f"{start} pairs={config.pairs} radius={config.radius} "
        f"contexts={config.replicates}x{config.windows} bias_tol={config.bias_tol:g}"
    )


def _files(config: InteractionsConfig) -> list[Path]:
    """The images of the run, by seed where there are more than wanted."""
    if config.count < 2:
        raise UsageError(f"expected --count of at least 2 images, got {config.count}")
    if not config.images.is_dir():
        raise UsageError(f"expected a folder of images, found none at {config.images}")
    found = sorted(
        file
        for file in config.images.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if len(found) < 2:
        raise UsageError(f"expected at least 2 images in {config.images}, found {len(found)}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(config.seed))
    return [found[k] for k in sorted(order[: config.count].tolist())]


def _truth(config: InteractionsConfig, files: list[Path]) -> dict[str, int | None]:
    """The class of each image by its name; None where the model's prediction is played for."""
    names = [file.relative_to(config.images).as_posix() for file in files]
    if config.label == "prediction":
        return dict.fromkeys(names)
    if config.label != "truth":
        if not config.label.isdecimal():
            raise UsageError(
                f"expected --label prediction, truth or a class index, got {config.label!r}"
            )
        return dict.fromkeys(names, int(config.label))
    table = config.images / "labels.csv"
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            classes = {row["file"]: int(row["class_index"]) for row in csv.DictReader(lines)}
        return {name: classes[name] for name in names}
    except OSError as error:
        raise UsageError(f"expected classes in {table} for --label truth: {error}") from error
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"expected the columns file,class_index and a row for every image in {table}, "
            f"missing or wrong: {error}"
        ) from error


def _load(config: InteractionsConfig, k: int) -> Subject:
    """A timm model with its own weights or those of a file, and its own preprocessing."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    name = config.models[k]
    if config.weights and len(config.weights) != len(config.models):
        raise UsageError(
            f"expected one --weights for each of {len(config.models)} models, "
            f"got {len(config.weights)}"
        )
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:3]
        raise UsageError(
            f"expected the name of a timm model, got {name!r}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    try:
        if config.weights:
            model = timm.create_model(name)
            model.load_state_dict(_state(config.weights[k]))
            weights = config.weights[k].name
        else:
            model = timm.create_model(name, pretrained=True)
            weights = name.partition(".")[2] or "timm default"
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"cannot load weights for {name}: {reason}") from error
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return Subject(name, weights, model.to(config.device).eval(), transform)


def _state(path: Path) -> dict[str, Tensor]:
    """Weights of a file, never unpickled beyond tensors."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    import pickle

    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights and is not opened") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} and not weights by name")
    return state.get("state_dict", state)


@torch.inference_mode()
def _predict(subject: Subject, image_CHW: Tensor, config: InteractionsConfig) -> int:
    return int(subject.model(image_CHW[None].to(config.device)).argmax())


def _usable(work: Callable[[], T]) -> T:
    """What the library refuses with a reason is the user's input, not a fault."""
    try:
        return work()
    except (ValueError, DataError) as error:
        raise UsageError(str(error)) from error


def _await(paths: list[Path]) -> Records:
    """All records, once the other processes have written theirs."""
    records: list[ix.Interactions | None] = [None] * len(paths)
    while True:
        for k, path in enumerate(paths):
            if records[k] is None:
                records[k] = read_record(path)
        complete = [record for record in records if record is not None]
        if len(complete) == len(paths):
            return complete
        time.sleep(0.1)


if __name__ == "__main__":  # torchrun --nproc-per-node N -m experiments.interaction_curves ...
    from experiments.cli import main

    main(["interactions", *sys.argv[1:]])
