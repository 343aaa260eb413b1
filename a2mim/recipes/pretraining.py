"""What a recipe of pre-training is made of: images, method, backbone, and what a run leaves.

The run folder holds

    backbone.safetensors     the backbone, backbone.json how to make it; the same for timm in timm/
    backbone-ema.*           the averaged one, with the setting ema
    checkpoint.safetensors   everything that was trained, decoder and mask token too, as
                             model/<name>; averages as ema/<name>; and the optimiser's state
                             (a2mim.training.state.load_checkpoint reads it)
    exports/epoch-0020/      with the setting export_every, backbones along the way, for timm
    log.jsonl, tensorboard/  the log, a JSON line a report
    rows.csv                 the log as results table
    reconstructions-*        what became of hidden patches, and drawn, reconstructions.png

While it works, all of this is in a folder beside it, to which the link ``<run folder>.running``
leads: ``<run folder>.running/log.jsonl`` is its log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isfunction, signature
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from a2mim.checkpoints.save import save_backbone, save_weights
from a2mim.data.arrays import subset
from a2mim.data.augment import CentreCrop, CropAndFlip, Normalise
from a2mim.data.resident import MIB, ResidentSamples, resident
from a2mim.data.sampler import keyed_seed
from a2mim.data.samples import RepeatedSamples, SomeSamples, few_images
from a2mim.data.sources import Training, labelled_samples, training_samples
from a2mim.data.stream import ShardStream
from a2mim.files import write_whole
from a2mim.measure.fills import plain_fill
from a2mim.messages import UsageError, did_you_mean
from a2mim.methods.mae import MaskedAutoencoder
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.methods.siamese import ContrastiveMAE, ImageLevel, RelaxedMAE, TokenLevel
from a2mim.methods.sites import site_at
from a2mim.recipes.pretrain import A2mim, Cmae, CmaeTokens, Mae, PretrainConfig, Rmae
from a2mim.recipes.training import tolerance
from a2mim.recipes.watching import PICTURES, Images, Masked, OnlineKnn, writing
from a2mim.training.arithmetic import compiles, fastest
from a2mim.training.loop import Saving, Trained
from a2mim.training.optim import RULES, fused_on, parameter_groups
from a2mim.training.state import latest
from interactions.keys import torch_seeded

INTERPOLATION = "bilinear"
"""Of crops, in training and where the backbone is used as it says of itself."""

KNN_TRAIN, KNN_TEST = 10_000, 2_000
"""Images of the online k-NN probe, at most."""


def settled(config: PretrainConfig, device: str) -> PretrainConfig:
    """With what is faster on a device, where that was left open."""
    return replace(
        config,
        precision=config.precision or fastest(device),
        compile=compiles(device) if config.compile is None else config.compile,
    )


def prepared(config: PretrainConfig, device: str) -> tuple[Masked, torch.optim.Optimizer]:
    """The method of a configuration and its optimiser.

    Raises:
        TypeError: as :func:`method_of`.
        ValueError: as :func:`method_of`.
    """
    method = method_of(config)
    groups = parameter_groups(method, config.lr, config.weight_decay, RULES[config.rules])
    fused = fused_on(device, config.precision or fastest(device))
    return method, torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def samples_of(config: PretrainConfig) -> Images:
    """The training images of a configuration, uint8; held in memory if they are few and small.

    Raises:
        UsageError: if it names none, or a few images of a stream.
        DataError: if they cannot be had.
        ValueError: if there are not as many.
    """
    augment = CropAndFlip(
        config.image_size,
        config.crop,
        mean=None,
        std=config.std,
        interpolation=INTERPOLATION,
        exact=config.exact_decoding,
        flip=config.flip,
    )
    read = training_samples(
        config.data,
        augment,
        config.seed,
        images=config.stream_images,
        buffer=config.shuffle_buffer,
        tolerance=tolerance(config.unreadable),
    )
    samples: Training | ResidentSamples = read
    if config.resident and not isinstance(read, ShardStream):
        samples = resident(read, augment, config.seed, config.resident * MIB) or read
    if config.few is None and config.epoch_images is None:
        return samples
    if isinstance(samples, ShardStream):
        raise UsageError(
            "expected images by index for --few or --epoch-images, got a stream; use tar:PATTERN"
        )
    length = config.epoch_images or len(samples)
    if config.few is None:
        return RepeatedSamples(samples, length)
    return few_images(samples, config.few, length, config.few_seed)


def first_images(samples: Images, config: PretrainConfig) -> Tensor:
    """A few of the training images ``(I, C, H, W)``, to look at: all, if there are fewer."""
    if isinstance(samples, ShardStream):
        pixels_ICHW = next(iter(samples.epoch(0, min(PICTURES, len(samples)))))["image"]
    else:
        chosen = subset(len(samples), PICTURES, 0)
        pixels_ICHW = torch.stack([samples.load(k, 0) for k in chosen])
    return Normalise(config.mean, config.std)(pixels_ICHW)


def online_knn(config: PretrainConfig, device: str) -> OnlineKnn | None:
    """The probe of a configuration, on images of its own or from where its training images come.

    Raises:
        UsageError: if that is neither a set by name nor a folder.
        DataError: if its images have no classes.
    """
    if config.knn_every is None:
        return None
    data = config.knn_data or config.data
    if data.startswith(("tar:", "stream:")):
        raise UsageError(
            "expected --knn-data folder:PATH or a set by name for k-NN probes, for shards have no "
            f"classes here, got {data}"
        )
    crop = CentreCrop(
        config.image_size,
        config.crop_pct,
        mean=config.mean,
        std=config.std,
        interpolation=INTERPOLATION,
    )
    train, test = (
        SomeSamples(samples, subset(len(samples), limit, config.seed))
        for samples, limit in zip(labelled_samples(data, crop), (KNN_TRAIN, KNN_TEST), strict=True)
    )
    return OnlineKnn(train, test, min(config.batch_size, 256), torch.device(device))


@dataclass(frozen=True)
class Exports:
    """Backbones along the way: ``exports/epoch-0020``, which timm reads as ``local-dir:``.

    Attributes:
        work: folder of the run.
        about: how to make the backbone, in JSON.
        steps_per_epoch: of the run.
    """

    work: Path
    about: str
    steps_per_epoch: int

    def __call__(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the backbone, and the averaged one if there is.

        Args:
            step: how many are done, whole epochs.
            weights: named as in a checkpoint.

        Raises:
            UsageError: if they cannot be written.
        """
        folder = self.work / "exports" / f"epoch-{step // self.steps_per_epoch:04d}"
        with writing(self.work):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "config.json", self.about)
            for part, file in (("model", "model"), ("ema", "model-ema")):
                start = f"{part}/backbone."
                own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
                if own:
                    save_weights(own, folder / f"{file}.safetensors")


def saving_of(
    config: PretrainConfig, work: Path, about: str, steps_per_epoch: int, settings: Mapping
) -> Saving:
    """Checkpoints of a run, and backbones along the way.

    Args:
        config: of the run.
        work: its folder.
        about: how to make the backbone, in JSON.
        steps_per_epoch: of the run.
        settings: noted in each; a run with others does not go on.
    """
    return Saving(
        work / "checkpoints",
        every_steps=config.save_every * steps_per_epoch,
        keep=config.keep,
        settings={"config": {k: str(v) for k, v in settings.items()}},
        export=Exports(work, about, steps_per_epoch) if config.export_every else None,
        export_steps=(config.export_every or 1) * steps_per_epoch,
    )


def save(method: Masked, trained: Trained, about: str, work: Path) -> None:
    """The backbone, the averaged one if there is, and the checkpoint with all the rest.

    Args:
        method: trained.
        trained: what training left.
        about: how to make the network that the backbone's weights belong to, in JSON.
        work: folder of the run.
    """
    for end, one in (("", method), ("-ema", trained.ema)):
        if one is not None:
            save_backbone(cast(Any, one).backbone, work / f"backbone{end}.safetensors")
            write_whole(work / f"backbone{end}.json", about)
    # What timm's "local-dir:" reads: the same two files under the names that it looks for.
    folder = work / "timm"
    folder.mkdir(exist_ok=True)  # of an attempt that a full disk ended
    write_whole(folder / "config.json", about)
    _same(work / "backbone.safetensors", folder / "model.safetensors")
    last = latest(work / "checkpoints")
    assert last is not None  # the last step always is saved
    _same(last, work / "checkpoint.safetensors")


def _same(there: Path, here: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    here.unlink(missing_ok=True)
    try:
        os.link(there, here)
    except OSError:
        shutil.copyfile(there, here)


def method_of(config: PretrainConfig) -> Masked:
    """The method of a configuration, with weights drawn by its seed.

    Raises:
        TypeError: for a backbone that the method cannot be built around.
        ValueError: for choices that do not go together.
    """
    with torch_seeded(keyed_seed(config.seed, "weights")):
        backbone = backbone_of(config)
        of = config.method
        if not isinstance(of, A2mim):
            return _token_method(config, of, backbone)
        size = config.image_size
        mask = BlockMask(size, config.block, config.mask_ratio)
        _check_hidden(config, mask.grid.n, mask.hidden)
        fill = None
        if of.fill != "none":
            fill = plain_fill(of.fill, config.mean, config.std, config.seed)
        return MaskedImageModel(
            backbone,
            mask,
            site=None if of.position is None else site_at(backbone, of.position, size),
            token=of.token,
            token_init=of.token_init,
            detach=of.detach,
            fill=fill,
            loss=of.loss,
            fourier_weight=of.fourier_weight,
            decoder_depth=of.depthwise,
            target=of.target,
            residual=of.residual,
        )


def _check_hidden(config: PretrainConfig, blocks: int, hidden: int) -> None:
    if not 0 < hidden < blocks:
        raise ValueError(
            f"expected --mask-ratio that hides some of {blocks} blocks and not all, got "
            f"{config.mask_ratio}, which hides {hidden}"
        )


def _token_method(
    config: PretrainConfig, of: Mae | Rmae | Cmae | CmaeTokens, backbone: nn.Module
) -> MaskedAutoencoder | RelaxedMAE | ContrastiveMAE:
    """A method whose encoder sees visible patches alone."""
    method: MaskedAutoencoder | RelaxedMAE | ContrastiveMAE
    if isinstance(of, Mae):
        method = MaskedAutoencoder(backbone, config.mask_ratio, **_decoder(of))
    elif isinstance(of, Rmae):
        method = RelaxedMAE(
            backbone,
            config.mask_ratio,
            penalty_weight=of.penalty_weight,
            **_views(of),
            **_decoder(of),
        )
    else:
        level = (
            ImageLevel(of.head)
            if isinstance(of, Cmae)
            else TokenLevel(*of.decoder, of.channels, of.negatives)
        )
        method = ContrastiveMAE(
            backbone, config.mask_ratio, level=level, temperature=of.temperature, **_views(of)
        )
    patch = config.image_size // method.grid.rows
    if config.block != patch:
        raise ValueError(
            f"expected --block {patch} for {of.name}, which hides patches of {patch} px, "
            f"got {config.block}"
        )
    _check_hidden(config, method.grid.n, method.grid.n - method.kept)
    return method


def _decoder(of: Mae | Rmae) -> dict[str, Any]:
    return dict(zip(("decoder_width", "decoder_depth", "decoder_heads"), of.decoder, strict=True))


def _views(of: Rmae | Cmae | CmaeTokens) -> dict[str, Any]:
    stop = None if of.stop_gradient == "none" else of.stop_gradient
    return {"view2": of.view2, "stop_gradient": stop, "momentum": of.momentum}


def backbone_of(config: PretrainConfig) -> nn.Module:
    """The timm model of a configuration, without a classifier.

    Raises:
        ValueError: for the name of no timm model, with the nearest ones, or sines for a network
            that learns no positions of patches.
        TypeError: for options that it does not have.
    """
    backbone = _drawn(config)
    if config.positions == "sines":
        positions_1LE: Any = getattr(backbone, "pos_embed", None)
        grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
        if positions_1LE is None or grid is None or positions_1LE.shape[2] % 4:
            raise ValueError(
                f"expected a ViT whose width is a multiple of 4 for sines, got {config.backbone}"
            )
        sines_NE = build_sincos2d_pos_embed(list(grid), positions_1LE.shape[2])
        with torch.no_grad():
            positions_1LE[0, -len(sines_NE) :] = sines_NE
    return backbone


def _drawn(config: PretrainConfig) -> nn.Module:
    """As timm draws it."""
    options: dict[str, Any] = {"num_classes": 0, **config.model_kwargs}
    try:
        return timm.create_model(config.backbone, img_size=config.image_size, **options)
    except TypeError:  # a network for images of any size
        return timm.create_model(config.backbone, **options)
    except RuntimeError as error:
        known = timm.is_model(config.backbone)
        hint = "" if known else did_you_mean(config.backbone, timm.list_models(), most=3)
        raise ValueError(f"expected the name of a timm model: {error}{hint}") from error


def description(
    backbone: nn.Module, config: PretrainConfig, idle: Sequence[str] = ()
) -> dict[str, object]:
    """How to make the network that the saved weights belong to, for people and for timm."""
    # A class that takes **kwargs, as that of distilled networks, hands them to the one before it.
    makers = [vars(of).get("__init__") for of in type(backbone).__mro__]
    sized = any("img_size" in signature(made).parameters for made in makers if isfunction(made))
    return {
        "architecture": config.backbone,
        "num_classes": 0,
        "model_args": ({"img_size": config.image_size} if sized else {}) | config.model_kwargs,
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "crop_pct": config.crop_pct,
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": INTERPOLATION,
            "num_classes": 0,
        },
        **({"without_gradient": list(idle)} if idle else {}),
    }
