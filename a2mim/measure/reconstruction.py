"""What masked models predict of the hidden parts of images, and by how much it is off.

For every image, in pixel values from 0 to 1 and over hidden pixels,

    reconstruction_mse        mean squared error of the prediction
    reconstruction_mse_mean   that of the mean colour of the visible pixels

An MAE with normalised pixels is told the mean and deviation of every hidden patch, and its error is
the smaller for it; the setting says ``norm_pix=yes`` there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from a2mim.checkpoints.decoders import decoder_heads, kind_of, with_decoder
from a2mim.checkpoints.files import WeightsError, read_state
from a2mim.checkpoints.folders import SUFFIXES
from a2mim.checkpoints.load import LoadReport
from a2mim.checkpoints.renaming import without_common_prefix
from a2mim.data.augment import PilTransform
from a2mim.data.sampler import keyed_seed
from a2mim.data.sources import Source, as_seen
from a2mim.measure.networks import called, load, parts_of
from a2mim.messages import UsageError
from a2mim.methods.mae import MaskedAutoencoder, pixel_target
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.recipes.pretrain import changed, recorded_config
from a2mim.recipes.pretraining import method_of
from a2mim.recipes.watching import Masked, as_levels, seen_and_completed
from a2mim.runs.folder import commit, is_run
from a2mim.runs.table import per_image_rows
from a2mim.settings.reconstruct import ReconstructConfig
from a2mim.training.state import CheckpointError, load_checkpoint
from interactions import stats

CHECKPOINT = "checkpoint.safetensors"
"""What a run of ``a2mim pretrain`` calls its last checkpoint, decoder and token included."""


@dataclass(frozen=True)
class Pretrained:
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


def pretrained(name: str, config: ReconstructConfig) -> Pretrained:
    """A masked model with its decoder: from a run of ours, or from a public file.

    Raises:
        UsageError: if there is no decoder, or a setting cannot be used with it.
    """
    folder = Path(name)
    ours = (folder / CHECKPOINT).is_file() and is_run(folder)
    if ours and config.weights.image_size:
        raise UsageError("expected no --image-size for a run of a2mim pretrain")
    try:
        # Whether there is a decoder is seen first: no other setting would help.
        heads, tensors = (None, {}) if ours else _of_file(name, config)
        loaded = load(name, config.weights)
        if ours:
            method = _of_run(folder, config)
        else:
            method = with_decoder(
                tensors,
                loaded.model,
                image_size=loaded.data_config["input_size"][-1],
                ratio=config.mask_ratio,
                block=config.block,
                heads=heads,
                where=name,
            )
    except (WeightsError, CheckpointError, ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    return Pretrained(method, loaded.report, loaded.data_config, ours)


def _of_file(name: str, config: ReconstructConfig) -> tuple[int | None, dict[str, Tensor]]:
    """Heads of the decoder, if a file tells, and the tensors, a decoder among them."""
    file = Path(parts_of(name)[1])
    if not file.is_file() and file.suffix not in SUFFIXES:
        raise UsageError(f"expected a run of a2mim pretrain or a file with a decoder, got {name}")
    state = read_state(file, "ema" if config.weights.ema else "plain")
    named = without_common_prefix(state.tensors)
    tensors = {key: tensor for key, (_, tensor) in named.items()}
    kind_of(tensors, name)
    return decoder_heads(state), tensors


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
def reconstructed(
    network: Pretrained, sources: Sequence[Source], config: ReconstructConfig, device: str
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


def said_of(table: pd.DataFrame) -> str:
    """The mean errors of one network, with intervals over images where there are several."""
    found = []
    for measure in ("reconstruction_mse", "reconstruction_mse_mean"):
        values = table.loc[table["measure"] == measure, "value"].to_numpy()
        mean = stats.mean(values, low=0.0) if len(values) > 1 else f"{values[0]:.3g}"
        found.append(str(mean))
    return (
        f"error of hidden pixels {found[0]} (mean square, values from 0 to 1); of the mean colour "
        f"{found[1]}; {table['setting'].iloc[0]}"
    )
