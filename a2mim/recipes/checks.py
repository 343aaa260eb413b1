"""What goes together in the settings of ``a2mim pretrain``, beyond what their types say."""

from __future__ import annotations

from a2mim.messages import UsageError
from a2mim.processes import process_rank
from a2mim.recipes.pretrain import A2mim, Cmae, CmaeTokens, PretrainConfig
from a2mim.settings.numbers import check_numbers
from a2mim.training.trackers import Trackers

UNDECIDING = ("keep", "save_every", "trackers", "unreadable", "workers")
"""Settings that change no result: a run may go on with others."""


def check(config: PretrainConfig, recipe: PretrainConfig) -> None:
    """See whether settings go together.

    Args:
        config: the settings.
        recipe: what they were before any was given; its own settings may mean nothing.

    Raises:
        UsageError: for what cannot be, or does nothing.
    """
    check_numbers(config)
    if not 0 <= config.warmup < config.epochs:
        raise UsageError(f"warmup ({config.warmup:g}) must be below epochs ({config.epochs})")
    channels = config.model_kwargs.get("in_chans", 3)
    if {len(config.mean), len(config.std)} != {channels}:
        raise UsageError(
            f"expected --mean and --std of {channels} numbers, one per channel of the network, got "
            f"{config.mean} and {config.std}"
        )
    Trackers(config.trackers).check()
    if config.ema is not None and not 0 < config.ema < 1:
        raise UsageError(f"expected --ema between 0 and 1, such as 0.9999, got {config.ema}")
    if config.fsdp and config.knn_every:
        raise UsageError("expected no k-NN probes with --fsdp, whose parameters lie in parts")
    for key in ("channels_last", "unused_parameters"):
        if config.fsdp and getattr(config, key):
            raise UsageError(f"expected --fsdp or {_option(key)}, got both; leave out one of them")
    if config.knn_data and config.knn_every is None:
        raise UsageError("expected --knn-every with --knn-data, got no probes; give --knn-every")
    if config.few is None and config.few_seed:
        raise UsageError("expected --few with --few-seed, got all images; give --few")
    if config.data == "digits" and config.unreadable != recipe.unreadable:
        raise UsageError(
            "expected --unreadable for images in files, got it for digits, which are in memory"
        )
    files = config.data.startswith(("folder:", "tar:", "stream:"))
    if config.data and not files and config.exact_decoding != recipe.exact_decoding:
        raise UsageError(
            f"expected --exact-decoding for images in files, got it for {config.data}, which is "
            "decoded in full in any case"
        )
    if config.data.startswith("stream:") and config.resident != recipe.resident:
        raise UsageError(
            "expected --resident for images by index, got it for a stream; use tar:PATTERN"
        )
    if config.data and not config.data.startswith("stream:"):
        for key in ("stream_images", "shuffle_buffer"):
            if getattr(config, key) != getattr(recipe, key):
                raise UsageError(
                    f"expected {_option(key)} for stream:PATTERN alone, got it for {config.data}"
                )
    if config.schedule == "step" and config.final_lr != recipe.final_lr:
        raise UsageError(
            "expected --schedule cosine with --final-lr, got step, which ends at a tenth of lr"
        )
    for key in sorted({"img_size", "num_classes"} & config.model_kwargs.keys()):
        raise UsageError(
            f"expected --model-kwargs without {key}, got {key}={config.model_kwargs[key]}; "
            "--image-size says the size, and there is no classifier"
        )
    _check_method(config)


def _check_method(config: PretrainConfig) -> None:
    """The settings of the method."""
    of = config.method
    if isinstance(of, A2mim):
        if of.detach and of.token == "replace":
            raise UsageError(
                "expected --token add or damped with --detach, got replace, with which it does "
                "nothing; leave one of them out"
            )
        if of.fill == "none" and of.token == "add":
            raise UsageError(
                "expected --token replace or damped with --fill none, got add, with which nothing "
                "is hidden; change one of them"
            )
        return
    if not isinstance(of, Cmae):
        width, depth, heads = of.decoder
        if min(width, depth + 1, heads) < 1:
            raise UsageError(
                f"expected width and heads of --decoder above 0, got {width} {depth} {heads}"
            )
    if isinstance(of, Cmae | CmaeTokens):
        if isinstance(of, Cmae) and not of.head:
            raise UsageError("expected --head of at least 1 layer, got none")
        at_once = config.batch_size // (config.accumulate * process_rank()[1])
        if at_once < 2 and (isinstance(of, Cmae) or of.negatives == "images"):
            raise UsageError(
                f"expected at least 2 images at once, each other's negatives, got {at_once}; use a "
                "larger --batch-size, or less --accumulate or processes"
            )


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"
