"""``a2mim reconstruct``: what masked models predict of the hidden parts of images.

The picture shows each image, what the network saw of it, its prediction, and the hidden part
completed. The table has for every image, in pixel values from 0 to 1 and over hidden pixels,

    reconstruction_mse        mean squared error of the prediction
    reconstruction_mse_mean   that of the mean colour of the visible pixels

An MAE with normalised pixels is told the mean and deviation of every hidden patch, and its error is
the smaller for it; the setting says ``norm_pix=yes`` there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from a2mim.checkpoints.decoders import decoder_heads, with_decoder
from a2mim.checkpoints.files import WeightsError, read_state
from a2mim.checkpoints.load import LoadReport
from a2mim.checkpoints.renaming import without_common_prefix
from a2mim.data.augment import PilTransform
from a2mim.data.sampler import keyed_seed
from a2mim.data.sources import Source, as_seen, images_of, set_name
from a2mim.files import write_arrays
from a2mim.measure.checkpoints import LeftOut, left_out_of, with_all
from a2mim.measure.networks import (
    called,
    check_different,
    identity,
    load,
    nicknames,
    parts_of,
    recorded,
    write_reports,
)
from a2mim.messages import UsageError
from a2mim.methods.mae import MaskedAutoencoder, pixel_target
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.recipes.pretrain import changed, recorded_config
from a2mim.recipes.pretraining import method_of
from a2mim.recipes.watching import Masked, as_levels, seen_and_completed
from a2mim.report.figures import figures_of_pictures, save
from a2mim.runs.folder import (
    commit,
    finish_run,
    is_run,
    nothing_left_empty,
    open_run,
    pick_device,
    safe_name,
)
from a2mim.runs.table import per_image_rows, write_table
from a2mim.settings.reconstruct import ReconstructConfig
from a2mim.settings.weights import check_checkpoints
from a2mim.training.state import CheckpointError, load_checkpoint
from interactions import stats

CHECKPOINT = "checkpoint.safetensors"
"""What a run of ``a2mim pretrain`` calls its last checkpoint, decoder and token included."""


@dataclass(frozen=True)
class _Network:
    """A masked model and how it sees images.

    Attributes:
        method: with its weights, in eval mode.
        report: what became of the weights of its backbone.
        look: mean, std, crop and interpolation, as timm names them.
        ours: whether it is a run of ``a2mim pretrain``, whose settings are known.
    """

    method: Masked
    report: LoadReport
    look: dict[str, Any]
    ours: bool


@nothing_left_empty()
def reconstruct(config: ReconstructConfig) -> dict[str, str]:
    """Draw what networks predict of hidden patches, and write its error image by image.

    Returns:
        Which checkpoints were left out: name -> why.

    Raises:
        UsageError: if a checkpoint has no decoder, or a setting cannot be used.
        DataError: if an image cannot be read.
    """
    start = time.perf_counter()
    config = with_all(config)
    sources = _sources(config)
    device = pick_device(config.device, float64=False)
    left_out = LeftOut(config.checkpoints, config.weights)
    networks = left_out.each(lambda name: _network(name, config))
    reports = [network.report for network in networks]
    check_different(reports)
    settings = asdict(config)
    for key in ("device", "out", "resume", "images", "data"):
        settings.pop(key)
    settings["dataset"] = set_name(config.images, config.data)
    settings["weights"] = recorded(config.weights)
    names = nicknames(reports)
    settings["checkpoints"] = [
        f"{name} {report.sha256}" for name, report in zip(names, reports, strict=True)
    ]
    pairs = zip(left_out.rest(), reports, strict=True)
    everything = settings | {
        "run": "reconstruct",
        "images": [source.identity() for source in sources],
        "checkpoints": [identity(name, report) for name, report in pairs],
        **left_out.decides(),
    }
    run = open_run(config.out, "reconstruct", names, everything, resume=config.resume)
    if run.finished:
        return left_out_of(run.out)
    work, out = run.work, run.out
    tables = []
    for number, (name, network) in enumerate(zip(names, networks, strict=True)):
        stacks, table = _reconstructed(network, sources, config, device)
        tables.append(table.assign(dataset=settings["dataset"]))
        file = f"reconstructions-{len(networks) - number}-{safe_name(name)}.npz"
        write_arrays(work / file, stacks)
        print(f"{name}: {_said(table)}")
    write_table(pd.concat(tables, ignore_index=True), work / "rows.csv")
    write_reports(reports, work / "weights.json")
    save(figures_of_pictures(work), work)
    left_out.keep(work)
    if left_out.reasons:
        settings["doubts"] = left_out.sentences()
    finish_run(run, settings, time.perf_counter() - start)
    print(f"\npicture: {out / 'reconstructions.png'}   table: {out / 'rows.csv'}")
    return left_out.named()


def _sources(config: ReconstructConfig) -> list[Source]:
    check_checkpoints(config.checkpoints, config.weights)
    if config.count < 1:
        raise UsageError(f"expected --count of at least 1, got {config.count}")
    if (config.images is None) == (not config.data):
        raise UsageError("expected either --images DIR or --data NAME")
    return images_of(config.images, config.data, config.count, config.seed)


def _network(name: str, config: ReconstructConfig) -> _Network:
    """A masked model with its decoder: from a run of ours, or from a public file."""
    loaded = load(name, config.weights)
    folder = Path(name)
    ours = (folder / CHECKPOINT).is_file() and is_run(folder)
    try:
        if ours:
            if config.weights.image_size:
                raise UsageError("expected no --image-size for a run of a2mim pretrain")
            method = _of_run(folder, config)
        else:
            file = Path(parts_of(name)[1])
            if not file.is_file():
                raise UsageError(
                    f"expected a run of a2mim pretrain or a file with a decoder, got {name}"
                )
            state = read_state(file, "ema" if config.weights.ema else "plain")
            tensors = without_common_prefix(state.tensors)
            method = with_decoder(
                {key: tensor for key, (_, tensor) in tensors.items()},
                loaded.model,
                image_size=loaded.data_config["input_size"][-1],
                ratio=config.mask_ratio,
                block=config.block,
                heads=decoder_heads(state),
                where=name,
            )
    except (WeightsError, CheckpointError, ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    return _Network(method, loaded.report, loaded.data_config, ours)


def _of_run(folder: Path, config: ReconstructConfig) -> Masked:
    """The method of a finished pre-training, with its last weights, or the averaged ones."""
    settings = json.loads((folder / "config.json").read_text())["config"]
    given = {"mask_ratio": config.mask_ratio, "block": config.block}
    recorded = recorded_config(settings)
    method = method_of(changed(recorded, **{k: v for k, v in given.items() if v is not None}))
    part = "ema/" if config.weights.ema else "model/"
    tensors = load_checkpoint(folder / CHECKPOINT).tensors
    own = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
    method.load_state_dict(own)
    return method


@torch.inference_mode()
def _reconstructed(
    network: _Network, sources: Sequence[Source], config: ReconstructConfig, device: str
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The picture of one network, and its rows of the table but for the data set."""
    method, look = network.method.eval().to(device), network.look
    images = as_seen(sources, PilTransform.of(look)).to(device)
    numbers = torch.arange(len(images), device=device)
    visible = method.draw(numbers, keyed_seed(config.seed, "pictures"))
    grid = method.mask.grid if isinstance(method, MaskedImageModel) else method.grid
    hidden = 1 - visible.float().mean().item()
    setting = f"hidden={hidden:.3g} grid={grid.rows}x{grid.cols}"
    if isinstance(method, MaskedAutoencoder):
        if not network.ours:
            method.norm_pix = _norm_pix(method, images, visible, config.norm_pix)
            block: Any = method.decoder.blocks[0]
            setting += f" decoder_heads={block.attn.num_heads}"
        setting += f" norm_pix={'yes' if method.norm_pix else 'no'}"
    stacks = seen_and_completed(method, images, visible)
    if "prediction" not in stacks:
        raise UsageError(
            f"expected a network that predicts pixels, {network.report.source} does not"
        )
    shown = grid.pixels(visible, *images.shape[2:])
    std_C11 = torch.tensor(look["std"], device=device)[:, None, None]
    colour = (images * shown).sum(dim=(2, 3), keepdim=True) / shown.sum(dim=(2, 3), keepdim=True)
    errors = {
        measure: (((guess - images) * std_C11) ** 2 * ~shown).sum(dim=(1, 2, 3))
        / (~shown).sum(dim=(1, 2, 3))
        / images.shape[1]
        for measure, guess in (("mse", stacks["prediction"]), ("mse_mean", colour))
    }
    rows = [
        per_image_rows(
            values_I.cpu().double().numpy()[:, None],
            [source.name for source in sources],
            at=[hidden],
            samples=1,
            run="reconstruct",
            measure=f"reconstruction_{measure}",
            model=network.report.architecture,
            weights=called(network.report),
            dataset="",
            setting=setting,
            seed=config.seed,
            commit=commit(),
        )
        for measure, values_I in errors.items()
    ]
    pictures = {what: as_levels(x, look["mean"], look["std"]) for what, x in stacks.items()}
    return pictures, pd.concat(rows, ignore_index=True)


def _norm_pix(method: MaskedAutoencoder, images: Tensor, visible: Tensor, asked: str) -> bool:
    """Whether predictions are relative to each patch: as told, or what they fit better.

    Errors of hidden patches are compared, each relative to the spread of its own target.
    """
    if asked != "auto":
        return asked == "yes"
    predicted = method.predict(images, visible)
    relative = []
    for norm_pix in (False, True):
        target = pixel_target(images, method.grid, norm_pix).patches_BND[~visible]
        error = (predicted[~visible] - target).square().mean()
        relative.append((error / target.var()).item())
    return relative[1] < relative[0]


def _said(table: pd.DataFrame) -> str:
    """The mean errors of one network, with intervals over images where there are several."""
    said = []
    for measure in ("reconstruction_mse", "reconstruction_mse_mean"):
        values = table.loc[table["measure"] == measure, "value"].to_numpy()
        mean = stats.mean(values, low=0.0) if len(values) > 1 else f"{values[0]:.3g}"
        said.append(str(mean))
    return (
        f"error of hidden pixels {said[0]} (mean square, values from 0 to 1); of the mean colour "
        f"{said[1]}; {table['setting'].iloc[0]}"
    )
