"""Features of a frozen network for many images, and how well it classifies them.

    pooled        f = head(z)                    as the model hands it to its classifier
    class_token   f = norm(z_class)              z: what the last block, or block k, gives
    mean          f = mean over patches of norm(z_patch)
                  f = norm(mean over patches of z_patch)    where the model norms after pooling

Which one it was changes a probe's number by many points (pooling and norm are behind most reports
of "absurdly low" ones), so it is written out beside the features. SimMIM's own protocol is
``Readout("mean", block=8, norm=False)``: patches after the 8th of 12 blocks, without the last norm
(microsoft/SimMIM, issue 14).

The network is in eval mode: batch norms use, and keep, their running statistics. Images go through
in order, in batches that never cross the border of a chunk, and a chunk is what a cache holds: so
an image meets the same batch whether or not the run was resumed. An image that cannot be read is
left out, and the setting says which; too many are an error. (The one that is loaded in its place,
as in training, is not measured in its name: its row is dropped.)

Shapes: I images, B in a batch, X in a chunk, C channels, H x W pixels, D features, K classes,
N tokens of E channels, h x w feature cells.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from a2mim.data.folders import DataError
from a2mim.data.loader import each
from a2mim.data.sampler import Samples, make_loader
from a2mim.files import write_whole
from a2mim.methods.sites import is_of_features, output_layout, site_of
from a2mim.processes import shared, wait
from a2mim.training.arithmetic import MIXED, Precision, check_precision, float32_products
from interactions.stats import share

Pool = Literal["pooled", "class_token", "mean"]
Progress = Callable[[int, int], None]
"""Called after every batch with the images that are done, and all."""

TOKEN_NORMS = ("norm",)
"""Where timm keeps the final norm of tokens."""
POOLED_NORMS = ("fc_norm", "head.norm")
"""Where timm keeps a norm that follows the pooling and belongs to the features."""

CHUNK = 512  # images per file of a cache
CACHED = r"features(-\d{9}\.safetensors|\.json)"
"""Names of the files of a cache."""
SHOWN = 8  # images whose pixels tell one set of images from another
VERSION = 1


@dataclass(frozen=True)
class Readout:
    """Which numbers of a network are its features.

    Attributes:
        pool: ``"pooled"``: what the model hands to its classifier, and of a module that is not
            timm's its output; ``"class_token"``; ``"mean"``: over patch tokens, or over the map.
        block: after this block (ViT) or feature map (timm's ``feature_info``), counted from 1; None
            is the end of the network.
        norm: whether the model's final norm is applied, if it has one. Without it and without
            ``block``, the features are those of the last block.

    Raises:
        ValueError: if ``"pooled"`` is to be anything but the model's own.
    """

    pool: Pool = "pooled"
    block: int | None = None
    norm: bool = True

    def __post_init__(self) -> None:
        if self.pool not in ("pooled", "class_token", "mean"):
            raise ValueError(f"expected 'pooled', 'class_token' or 'mean', got {self.pool!r}")
        if self.pool == "pooled" and (self.block is not None or not self.norm):
            raise ValueError(
                "expected 'pooled' without a block and with the norm, for it is what the model "
                f"itself hands to its classifier, got {self}; use 'mean' or 'class_token'"
            )

    def setting(self, model: nn.Module) -> dict[str, Any]:
        """What this means for a model, to stand beside its numbers, in JSON.

        Raises:
            ValueError: if the model lacks it.
        """
        if self.pool == "pooled":
            return {"pool": "pooled", "global_pool": _global_pool(model)}
        after = "forward_features"
        if self.block is not None or not self.norm:
            modules = _blocks(model)
            number = len(modules) if self.block is None else self.block
            if not 1 <= number <= len(modules):
                raise ValueError(
                    f"expected a block from 1 to {len(modules)} of {type(model).__name__}, "
                    f"got {number}"
                )
            after = f"{modules[number - 1]} ({number} of {len(modules)})"
        _check_tokens(model, self)
        norms = [name for name, _ in (*_norms(model, TOKEN_NORMS), *_norms(model, POOLED_NORMS))]
        return {"pool": self.pool, "after": after, "final_norm": norms if self.norm else []}

    def idle(self, without_gradient: Sequence[str]) -> tuple[str, ...]:
        """Of modules that pre-training gave no gradient, pools by attention, those it reads."""
        if self.pool == "class_token" and self.block is None:  # pools do not make tokens
            return tuple(name for name in without_gradient if "pool" not in name and name != "head")
        return tuple(without_gradient) if self.pool == "pooled" else ()

    def read(self, model: nn.Module, images_BCHW: Tensor) -> Tensor:
        """The features of a batch, ``(B, D)``.

        Raises:
            ValueError: if the model lacks them, or they are not a vector per image.
        """
        if self.pool == "pooled":
            features = _pooled(model, images_BCHW)
        else:
            prefix_BNE, patches_BNE = _tokens(model, images_BCHW, self)
            if self.pool == "class_token":
                features = prefix_BNE[:, 0]
            else:  # 16 bits are too few for a sum over patches
                features = patches_BNE.float().mean(dim=1)
            for name, norm in _norms(model, POOLED_NORMS) if self.norm else ():
                features = _normed(norm, features[:, None], name)[:, 0]
        if not isinstance(features, Tensor) or features.shape[:-1] != images_BCHW.shape[:1]:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"expected a vector per image from {type(model).__name__}, got {got}; "
                "use another readout, or a module that pools"
            )
        return features


@dataclass(frozen=True)
class Features:
    """Features of all images of a set, in their order.

    Attributes:
        features_ID: float32, on the CPU.
        labels_I: int64 class indices, if the images have them.
        setting: what they are: model, a hash of its weights, readout, precision, images. JSON.
    """

    features_ID: Tensor
    labels_I: Tensor | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features_ID.ndim != 2:
            raise ValueError(f"expected features (I, D), got {tuple(self.features_ID.shape)}")
        if self.labels_I is not None:
            _check_labels(self.labels_I, len(self.features_ID))


def extract(
    model: nn.Module,
    samples: Samples,
    *,
    readout: Readout = Readout(),
    batch_size: int = 256,
    device: torch.device | str | None = None,
    workers: int = 0,
    precision: Precision = "float32",
    cache: Path | None = None,
    on_batch: Progress = lambda done, total: None,
) -> Features:
    """The features of all images, once each, in order.

    With a cache folder, every chunk of 512 images is written as soon as it is there, whole or not
    at all; the next call makes those that are missing, and several processes of one command
    (:mod:`a2mim.processes`) share them. The folder says what it is a cache of: the
    model's weights and settings, readout, precision, names of the images and the pixels of eight of
    them. It does not notice if other pixels change under the same names.

    Args:
        model: a timm model or any module; left in the mode in which it came.
        samples: the images, as ``load(index, 0)`` gives them; labels are ``samples.labels_I``.
        readout: which features.
        batch_size: B; decides speed and memory, not the features.
        device: where to run; the model is moved there. None is where the model is.
        workers: processes that load images; 0 loads in between batches.
        precision: see :mod:`a2mim.training.arithmetic`; ``"float16"`` needs an accelerator.
        cache: a folder for these features alone.
        on_batch: see :data:`Progress`.

    Raises:
        DataError: if too many images cannot be read, or the cache cannot be used.
        FloatingPointError: if a feature is not finite.
        ValueError: if the model lacks what the readout asks for, or for arguments out of range.
    """
    device = _prepared(model, samples, batch_size, device, precision)
    setting = {
        **_setting(model, samples, precision),
        "readout": readout.setting(model),
    }
    features_ID = _rows(
        model,
        lambda images_BCHW, _: readout.read(model, images_BCHW),
        samples,
        setting,
        cache=cache,
        batch_size=batch_size,
        device=device,
        workers=workers,
        precision=precision,
        on_batch=on_batch,
    )
    read_I, setting = _read(features_ID, setting)
    labels_I = getattr(samples, "labels_I", None)
    return Features(features_ID[read_I], None if labels_I is None else labels_I[read_I], setting)


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said about every image.

    Attributes:
        rank_I: int64, how many classes came before the right one; of equal logits the lower class
            comes first, so that a network that says nothing is not always right.
        predicted_I: int64, the class that came first.
        log_p_I: float32, log-probability of the right class in nats.
        labels_I: int64, the right classes.
        setting: model, a hash of its weights, precision, images. JSON.
    """

    rank_I: Tensor
    predicted_I: Tensor
    log_p_I: Tensor
    labels_I: Tensor
    setting: Mapping[str, Any]

    @property
    def top1_I(self) -> Tensor:
        """Whether the right class came first, bool."""
        return self.rank_I == 0

    @property
    def top5_I(self) -> Tensor:
        """Whether the right class was among the first five, bool; always, if there are no more."""
        return self.rank_I < 5

    @property
    def accuracy(self) -> float:
        """Share of images whose right class came first."""
        return float(self.top1_I.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, over images (Wilson)."""
        found = share(self.top1_I.cpu().numpy())
        return found.low, found.high


def evaluate(
    model: nn.Module,
    samples: Samples,
    labels_I: Tensor | None = None,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    workers: int = 0,
    precision: Precision = "float32",
    cache: Path | None = None,
    on_batch: Progress = lambda done, total: None,
) -> Evaluation:
    """Run a classifier over images: ranks and log-probabilities of the right classes.

    Args:
        model: images ``(B, C, H, W)`` -> logits ``(B, K)``; left in the mode in which it came.
        samples: the images, as ``load(index, 0)`` gives them.
        labels_I: int64, the right classes; None is ``samples.labels_I``.
        batch_size: as in :func:`extract`, like all that follows.
        device: where to run.
        workers: processes that load images.
        precision: of mixed precision.
        cache: a folder for what is said of each image.
        on_batch: see :data:`Progress`.

    Raises:
        DataError: if too many images cannot be read.
        FloatingPointError: if a log-probability is not finite.
        ValueError: for labels that do not fit, or for arguments out of range.
    """
    labels_I = getattr(samples, "labels_I", None) if labels_I is None else labels_I
    if labels_I is None:
        raise ValueError(f"expected labels, {type(samples).__name__} has none; pass labels_I")
    _check_labels(labels_I, len(samples))
    device = _prepared(model, samples, batch_size, device, precision)
    labels = labels_I.to(device)
    most = int(labels_I.max())

    def judge(images_BCHW: Tensor, rows: slice) -> Tensor:
        logits_BK = model(images_BCHW)
        if not isinstance(logits_BK, Tensor) or logits_BK.ndim != 2 or logits_BK.shape[1] <= most:
            raise ValueError(
                f"expected logits (B, K) of more than {most} classes, got "
                f"{getattr(logits_BK, 'shape', type(logits_BK).__name__)}; "
                "use a model with a classifier for these labels"
            )
        return _judged(logits_BK, labels[rows])

    setting = _setting(model, samples, precision)
    rows_I3 = _rows(
        model,
        judge,
        samples,
        {**setting, "labels": hashlib.blake2b(labels_I.numpy().data, digest_size=8).hexdigest()},
        cache=cache,
        batch_size=batch_size,
        device=device,
        workers=workers,
        precision=precision,
        on_batch=on_batch,
    )
    read_I, setting = _read(rows_I3, setting)
    rank_I, predicted_I, log_p_I = rows_I3[read_I].unbind(1)
    return Evaluation(rank_I.long(), predicted_I.long(), log_p_I.clone(), labels_I[read_I], setting)


def _judged(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Rank of the right class, first class, log-probability: float32 ``(B, 3)``, one copy."""
    # float32 holds whole numbers up to 2^24 exactly
    logits_BK, right_B1 = logits_BK.float(), labels_B[:, None]
    right = logits_BK.gather(1, right_B1)
    lower = torch.arange(logits_BK.shape[1], device=logits_BK.device) < right_B1
    rank = ((logits_BK > right) | ((logits_BK == right) & lower)).sum(1)
    log_p = right[:, 0] - logits_BK.logsumexp(1)
    return torch.stack([rank, logits_BK.argmax(1), log_p], dim=1)


def _pooled(model: nn.Module, images_BCHW: Tensor) -> Any:
    if not hasattr(model, "forward_head"):
        return model(images_BCHW)
    timm = cast(Any, model)
    return timm.forward_head(timm.forward_features(images_BCHW), pre_logits=True)


def _global_pool(model: nn.Module) -> str | None:
    """timm's name for how a model pools."""
    for owner in (model, getattr(model, "head", None)):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return pool
    return None


def _tokens(model: nn.Module, images_BCHW: Tensor, readout: Readout) -> tuple[Tensor, Tensor]:
    """Prefix and patch tokens, each ``(B, N, E)``; token norms are applied if they are wanted."""
    timm = cast(Any, model)
    if readout.block is None and readout.norm:
        features = timm.forward_features(images_BCHW)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            got = getattr(features, "shape", type(features).__name__)
            raise ValueError(
                f"expected tokens or a map from {type(model).__name__}.forward_features, got "
                f"{got}; use the readout 'pooled'"
            )
        if features.ndim == 4:
            channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
            spatial = features.flatten(1, 2) if channels_last else features.flatten(2).mT
            return spatial[:, :0], spatial
        prefix = _prefix(model, images_BCHW.shape[-1])
        return features[:, :prefix], features[:, prefix:]
    number = readout.block or len(_blocks(model))
    options = {"return_prefix_tokens": True} if readout.pool == "class_token" else {}
    [found] = timm.forward_intermediates(
        images_BCHW,
        indices=[number - 1],
        norm=False,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
        **options,
    )
    map_BEhw, prefix_BNE = found if isinstance(found, tuple) else (found, None)
    patches_BNE = map_BEhw.flatten(2).mT
    prefix_BNE = patches_BNE[:, :0] if prefix_BNE is None else prefix_BNE
    for name, norm in _norms(model, TOKEN_NORMS) if readout.norm else ():
        patches_BNE = _normed(norm, patches_BNE, name)
        prefix_BNE = _normed(norm, prefix_BNE, name) if prefix_BNE.shape[1] else prefix_BNE
    return prefix_BNE, patches_BNE


def _prefix(model: nn.Module, image_size: int) -> int:
    """How many of the last tokens are not patches."""
    if hasattr(model, "num_prefix_tokens"):
        return int(cast(Any, model).num_prefix_tokens)
    try:
        return output_layout(model, site_of(model, image_size))[1]
    except ValueError as error:
        raise ValueError(
            f"expected to know which tokens of {type(model).__name__} are patches: {error}; or "
            "use the readout 'pooled'"
        ) from error


def _blocks(model: nn.Module) -> list[str]:
    """The modules whose output ``forward_intermediates`` gives, in order."""
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise ValueError(
            f"expected a timm model with forward_intermediates, got {type(model).__name__}; "
            "use the readout 'pooled'"
        )
    return [entry["module"] for entry in (info if isinstance(info, list) else info.info)]


def _check_tokens(model: nn.Module, readout: Readout) -> None:
    if not hasattr(model, "forward_features"):
        raise ValueError(
            f"expected a timm model for the readout {readout.pool!r}, got "
            f"{type(model).__name__}; use 'pooled', which is a module's output"
        )
    if readout.pool == "mean":
        return
    if getattr(model, "cls_token", None) is None:
        raise ValueError(
            f"expected a model with a class token, {type(model).__name__} has none; use 'mean'"
        )
    if readout.block is not None or not readout.norm:
        accepted = inspect.signature(cast(Any, model).forward_intermediates).parameters
        if "return_prefix_tokens" not in accepted:
            raise ValueError(
                f"expected a class token after every block, {type(model).__name__} has one at its "
                "end only; use 'mean', or 'class_token' without a block and with the norm"
            )


def _norms(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Those of the named norms that the model has and that do something."""
    for name in names:
        module: Any = model
        for part in name.split("."):
            module = getattr(module, part, None)
        if not isinstance(module, nn.Module) or isinstance(module, nn.Identity):
            continue
        if name not in POOLED_NORMS or is_of_features(model, module):
            yield name, module


def _normed(norm: nn.Module, tokens_BNE: Tensor, name: str) -> Tensor:
    weight = getattr(norm, "weight", None)
    width = tokens_BNE.shape[2]
    if weight is not None and len(weight) != width:
        raise ValueError(
            f"expected features of {len(weight)} channels for the final norm {name!r}, got "
            f"{width}: it belongs to the end of the network; use norm=False at this block"
        )
    if type(norm).__name__.endswith("2d") or isinstance(norm, nn.GroupNorm):
        return norm(tokens_BNE.mT[..., None])[..., 0].mT
    return norm(tokens_BNE)


def _prepared(
    model: nn.Module,
    samples: Samples,
    batch_size: int,
    device: torch.device | str | None,
    precision: Precision,
) -> torch.device:
    """Arguments checked, the model moved; the device on which it is then."""
    if batch_size < 1 or not len(samples):
        raise ValueError(
            f"expected images and a batch of at least 1, got {len(samples)} and {batch_size}"
        )
    if device is None:
        weight = next(model.parameters(), None)
        device = torch.device("cpu") if weight is None else weight.device
    device = torch.device(device)
    check_precision(precision, device)
    model.to(device)
    return device


def _rows(
    model: nn.Module,
    compute: Callable[[Tensor, slice], Tensor],
    samples: Samples,
    setting: Mapping[str, Any],
    *,
    cache: Path | None,
    **how: Any,
) -> Tensor:
    """A float32 row for each image, ``(I, D)``: from the cache, or as :func:`_stream` makes it."""
    known = _Cache.opened(cache, setting) if cache else None
    chunks: dict[int, Tensor] = {}
    missing: Sequence[int] = range(0, len(samples), CHUNK)
    if known:
        missing = shared([first for first in missing if not known.has(first)])

    def keep(first: int, rows_XD: Tensor) -> None:
        chunks[first] = rows_XD
        if known:
            known.write(first, rows_XD)

    _stream(model, compute, samples, missing, on_chunk=keep, **how)
    if known:
        wait()
        for first in range(0, len(samples), CHUNK):
            if first not in chunks:
                chunks[first] = known.read(first, min(CHUNK, len(samples) - first))
    return torch.cat([chunks[first] for first in sorted(chunks)])


def _stream(
    model: nn.Module,
    compute: Callable[[Tensor, slice], Tensor],
    samples: Samples,
    firsts: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    workers: int,
    precision: Precision,
    on_batch: Progress,
    on_chunk: Callable[[int, Tensor], None],
) -> None:
    """Images of the chunks that begin there through a network: a float32 row for each.

    Rows stay on the device until their chunk is full: that copy is the only time it is waited for.
    """
    total = len(samples)
    dtype = MIXED.get(precision)
    loader = make_loader(
        samples,
        _in_order(firsts, total, batch_size),
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    rows: list[Tensor] = []
    with _frozen(model), closing(each([loader])) as batches:
        for batch in batches:
            first = int(batch["index"][0])
            done = first + len(batch["index"])
            images_BCHW = batch["image"].to(device, non_blocking=True)
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
                float32_products(precision, device),
            ):
                rows.append(compute(images_BCHW, slice(first, done)).float())
            on_batch(done, total)
            if done % CHUNK == 0 or done == total:
                rows_XD = torch.cat(rows).cpu()  # outside of inference mode: an ordinary tensor
                rows.clear()
                _check_chunk(rows_XD, samples, done - len(rows_XD))
                on_chunk(done - len(rows_XD), rows_XD)


def _in_order(
    firsts: Sequence[int], total: int, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """(epoch, index) of the images of chunks, in batches that end where a chunk does."""
    for first in firsts:
        stop = min(first + CHUNK, total)
        for start in range(first, stop, batch_size):
            yield [(0, index) for index in range(start, min(start + batch_size, stop))]


def _check_chunk(rows_XD: Tensor, samples: Samples, first: int) -> None:
    damage = getattr(samples, "damage", None)
    bad = (~rows_XD.isfinite()).any(1).nonzero()[:, 0]
    if len(bad):
        raise FloatingPointError(
            f"expected finite numbers, got others for {len(bad)} images, first "
            f"{_name(samples, first + int(bad[0]))}; see whether the weights are finite, or use "
            "precision float32"
        )
    for index in damage.indices() if damage is not None else ():
        if first <= index < first + len(rows_XD):
            rows_XD[index - first] = torch.nan


def _read(rows_ID: Tensor, setting: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Which images could be read, bool ``(I,)``, and the setting that names the others."""
    read_I = ~rows_ID[:, 0].isnan()
    left_out = (~read_I).nonzero()[:, 0].tolist()
    if not read_I.any():
        raise DataError("expected images that can be read, got none")
    return read_I, {**setting, "left_out": left_out} if left_out else setting


def _name(samples: Samples, index: int) -> str:
    names = getattr(samples, "names", None)
    return f"image {index}" if names is None else str(names[index])


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards every module in its own."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _check_labels(labels_I: Tensor, count: int) -> None:
    if labels_I.dtype != torch.int64 or labels_I.shape != (count,):
        raise ValueError(
            f"expected int64 labels ({count},), got {labels_I.dtype} {tuple(labels_I.shape)}"
        )
    if count and labels_I.min() < 0:
        raise ValueError(f"expected classes from 0 on, got {int(labels_I.min())}")


def _setting(model: nn.Module, samples: Samples, precision: Precision) -> dict[str, Any]:
    """What decides a number, in JSON."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return {
        "model": config.get("architecture") or type(model).__name__,
        "weights": _weights(model),
        "precision": precision,
        "images": _images(samples),
    }


def _weights(model: nn.Module) -> str:
    """A hash of all weights, and of the plain settings of all modules.

    Weights alone would not tell the number of heads, or how the model pools.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, module in model.named_modules():
        plain = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, (bool, int, float, str)) and key[0] != "_" and key != "training"
        }
        digest.update(repr((name, type(module).__name__, plain)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            flat = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
            # 32 bits per tensor take a fifth of the time of a long hash of all of them
            digest.update(repr((name, tensor.dtype, tensor.shape, zlib.crc32(flat.data))).encode())
    return digest.hexdigest()


def _images(samples: Samples) -> dict[str, Any]:
    """How many, a hash of all names, and one of the pixels of some, as the network sees them."""
    names = hashlib.blake2b(digest_size=8)
    for name in getattr(samples, "names", ()):
        names.update(repr(name).encode())
    pixels = hashlib.blake2b(digest_size=8)
    last = len(samples) - 1
    for index in sorted({last * k // (SHOWN - 1) for k in range(SHOWN)}):
        image_CHW = samples.load(index, 0)
        pixels.update(repr(tuple(image_CHW.shape)).encode())
        pixels.update(image_CHW.contiguous().numpy().data)
    return {"count": len(samples), "names": names.hexdigest(), "pixels": pixels.hexdigest()}


@dataclass(frozen=True)
class _Cache:
    """A folder of chunks, and what they are of."""

    folder: Path
    digest: str

    @classmethod
    def opened(cls, folder: Path, setting: Mapping[str, Any]) -> _Cache:
        """The cache of this setting; its folder is made and labelled if it is new."""
        text = json.dumps({"version": VERSION, "chunk": CHUNK, **setting}, indent=1)
        label = json.loads(text)
        file = folder / "features.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_whole(file, text, sync=True)
            found = json.loads(file.read_bytes())
            if not isinstance(found, dict):
                raise ValueError(f"{file} holds a {type(found).__name__}")
        except (OSError, ValueError) as error:
            raise DataError(
                f"expected a folder for features, cannot use {folder}: {error}; choose another"
            ) from error
        if other := [key for key in label if found.get(key) != label[key]]:
            raise DataError(
                f"expected a cache of these features, {folder} is one of others: its "
                f"{' and '.join(other)} differ (see {file.name} there); use another folder"
            )
        return cls(folder, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())

    def has(self, first: int) -> bool:
        """Whether the chunk that begins with this image is there."""
        return self._file(first).exists()

    def read(self, first: int, images: int) -> Tensor:
        """The chunk of so many images that begins with this one."""
        file = self._file(first)
        try:
            with safe_open(file, framework="pt") as opened:
                rows_XD = opened.get_tensor("features")
                own = (opened.metadata() or {}).get("of") == self.digest
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"expected features, cannot read {file}: {error}; remove it to go on"
            ) from error
        if not own or len(rows_XD) != images:
            raise DataError(
                f"expected features of this cache, {file} holds others; remove it to go on"
            )
        return rows_XD

    def write(self, first: int, rows_XD: Tensor) -> None:
        """Keep the chunk that begins with this image."""
        try:
            chunk = save({"features": rows_XD}, {"of": self.digest})
            write_whole(self._file(first), chunk, sync=True)
        except OSError as error:
            raise DataError(
                f"expected to write features to {self.folder}, cannot: {error}; make room and "
                "start again to go on from the last chunk"
            ) from error

    def _file(self, first: int) -> Path:
        return self.folder / f"features-{first:09d}.safetensors"
