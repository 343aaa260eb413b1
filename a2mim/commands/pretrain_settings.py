"""Settings of ``a2mim pretrain`` beyond their types: what goes together, what does something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args, get_origin, get_type_hints

from a2mim.messages import UsageError
from a2mim.methods.losses import LOSSES
from a2mim.recipes.pretrain import RECIPES, PretrainConfig
from a2mim.runs.folder import process_rank
from a2mim.settings.changes import changed, chosen
from a2mim.training.trackers import Trackers

UNDECIDING = ("keep", "save_every", "trackers", "unreadable", "workers")
"""Settings that change no result: a run may go on with others."""

BELONGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("target", "residual", "loss", "fourier_weight", "depthwise"),
            *("token", "token_init", "detach", "fill", "position"),
        ),
        ("a2mim",),
    ),
    "decoder": ("mae", "rmae", "cmae"),
    "penalty_weight": ("rmae",),
    **dict.fromkeys(("view2", "stop_gradient", "momentum"), ("rmae", "cmae")),
    **dict.fromkeys(("temperature", "level", "head", "negatives"), ("cmae",)),
}
"""The methods that a setting means something to, where it does not to all."""


def configured(name: str, changes: Sequence[str]) -> PretrainConfig:
    """A recipe with settings changed, each as KEY=VALUE.

    Raises:
        UsageError: if there is no such recipe or setting, or a value cannot be, or does nothing.
    """
    recipe = chosen(name, RECIPES)()
    config = changed(recipe, changes)
    _check(config)
    _check_effects(config, recipe)
    return config


def _check(config: PretrainConfig) -> None:
    """What no single setting shows."""
    if config.method == "a2mim" and config.loss not in LOSSES:
        raise UsageError(f"expected a loss of {', '.join(LOSSES)}, got {config.loss!r}")
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(
            f"expected a warm-up of less than the {config.epochs} epochs, got {config.warmup}"
        )
    above_0 = ("epochs", "batch_size", "accumulate", "lr", "save_every", "keep", "shuffle_buffer")
    for key in (*above_0, "clip", "images", "few", "epoch_images", "knn_every", "export_every"):
        value = getattr(config, key)
        if value is not None and not value > 0:
            raise UsageError(f"expected {key} above 0, got {value}")
    for key in ("weight_decay", "final_lr", "depthwise", "workers"):
        if not getattr(config, key) >= 0:
            raise UsageError(f"expected {key} of at least 0, got {getattr(config, key)}")
    _check_tuples(config)
    Trackers(config.trackers).check()
    if config.ema is not None and not 0 < config.ema < 1:
        raise UsageError(f"expected ema between 0 and 1, as 0.9999, got {config.ema}")
    if config.fsdp and config.knn_every:
        raise UsageError("expected no k-NN probes with fsdp, whose parameters lie in parts")
    for key in ("channels_last", "unused_parameters"):
        if config.fsdp and getattr(config, key):
            raise UsageError(f"expected fsdp or {key}, got both; leave out one of them")
    if config.knn_data and config.knn_every is None:
        raise UsageError(
            f"expected knn_every with knn_data={config.knn_data}, got no probes; set knn_every"
        )
    if config.few is None and config.few_seed:
        raise UsageError(f"expected few with few_seed={config.few_seed}, got all images; set few")
    if not 0 < config.crop_pct <= 1:
        raise UsageError(f"expected crop_pct above 0 and up to 1, got {config.crop_pct}")
    if not 0 <= config.unreadable <= 1:
        raise UsageError(f"expected unreadable as a share, as 0.01, got {config.unreadable}")
    if config.detach and config.token == "replace":
        raise UsageError(
            "expected token=add or token=damped with detach, got token=replace, with which it does "
            "nothing; leave one of them out"
        )
    if config.method == "a2mim" and config.fill == "none" and config.token == "add":
        raise UsageError(
            "expected token=replace or token=damped with fill=none, got token=add, with which "
            "nothing is hidden; change one of them"
        )
    for key in sorted({"img_size", "num_classes"} & config.options.keys()):
        raise UsageError(
            f"expected options of the backbone without {key}, got {key}={config.options[key]}; "
            "image_size says the size, and there is no classifier"
        )
    if config.method == "cmae":
        _check_contrast(config)


def _check_tuples(config: PretrainConfig) -> None:
    """How many values there are in settings of several, and of which type."""
    for key, hint in get_type_hints(PretrainConfig).items():
        if get_origin(hint) is not tuple:
            continue
        kind, *others = get_args(hint)
        value = getattr(config, key)
        several = {float: "numbers", int: "whole numbers", str: "names"}[kind]
        if Ellipsis not in others:
            several = f"{1 + len(others)} {several}"
        right = Ellipsis in others or len(value) == 1 + len(others)
        kinds = (int, float) if kind is float else (kind,)
        if not right or any(type(one) not in kinds for one in value):
            raise UsageError(f"expected {key} as {several}, got {value}")
    width, depth, heads = config.decoder
    if min(width, depth + 1, heads, *config.head) < 1:
        raise UsageError(
            "expected width and heads of decoder, and channels of head, above 0, "
            f"got {config.decoder} and {config.head}"
        )


def _check_effects(config: PretrainConfig, recipe: PretrainConfig) -> None:
    """Whether all that was changed does something."""
    for key, methods in BELONGS.items():
        usual = getattr(recipe, key)
        if config.method not in methods and getattr(config, key) != usual:
            raise UsageError(
                f"expected {key} for {' or '.join(methods)} alone, got it for {config.method}; "
                f"leave it at {usual}"
            )
    if config.method == "cmae" and config.level == "image" and config.decoder != recipe.decoder:
        raise UsageError(
            f"expected level=token for decoder={config.decoder}, got level=image, whose head has "
            "no blocks; change head instead"
        )
    if config.data == "digits" and config.unreadable != recipe.unreadable:
        raise UsageError(
            f"expected unreadable for images in files, got it for digits, which are in memory; "
            f"leave it at {recipe.unreadable:g}"
        )
    if config.data and not config.data.startswith("stream:"):
        for key in ("images", "shuffle_buffer"):
            if getattr(config, key) != getattr(recipe, key):
                raise UsageError(
                    f"expected {key} for stream:PATTERN alone, got it for {config.data}; "
                    f"leave it at {getattr(recipe, key)}"
                )
    if config.schedule == "step" and config.final_lr != recipe.final_lr:
        raise UsageError(
            f"expected schedule=cosine for final_lr={config.final_lr}, got schedule=step, which "
            "ends at a tenth of lr; leave it out"
        )


def _check_contrast(config: PretrainConfig) -> None:
    if config.level == "image" and config.negatives != "images":
        raise UsageError(
            f"expected level=token for negatives={config.negatives}, got level=image, which has "
            "one vector per image"
        )
    if config.level == "token" and len(config.head) != 1:
        raise UsageError(
            f"expected head as one number of channels with level=token, as (256,), "
            f"got {config.head}"
        )
    at_once = config.batch_size // (config.accumulate * process_rank()[1])
    if at_once < 2 and config.negatives == "images":
        raise UsageError(
            f"expected at least 2 images at once, each other's negatives, got {at_once}; use a "
            "larger batch_size, or less accumulate or processes"
        )
