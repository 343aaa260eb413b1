"""How networks are run: in a stated arithmetic, and in batches that fit.

    float32    IEEE products: TF32, which PyTorch uses in convolutions unless told otherwise, is off
    tf32       products of float32 numbers with 11 bits, where the device has them
    float16    11 bits, numbers up to 65504
    bfloat16   8 bits
    model      as the module is: its own number formats, TF32 off

There are two ways to run in half precision. :func:`running` gives a frozen network half weights,
and convolutions the layout that tensor cores read: fastest. :func:`arithmetic` is autocast, which
keeps weights, norms and sums in float32: what training takes. All else is the same for both.

A second difference is much smaller than the four values it is made of, so the arithmetic matters
more here than for predictions; :func:`fastest_of` chooses by a measured error. Neither batches nor
their size change a draw.

Shapes: K coalitions, N players, C channels, H x W pixels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Precision = Literal["float32", "tf32", "float16", "bfloat16", "model"]
"""Arithmetic of the network; what is computed from its outputs is in float64 or float32 anyway."""

FASTEST_FIRST: tuple[Precision, ...] = ("float16", "bfloat16", "tf32", "float32")
"""From the fastest on a GPU to the most exact."""

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}

PIXELS_ON_CPU = 1 << 18
"""Pixels in one batch on a CPU: 4 images of 224 px. Larger batches are not faster there: their
activations leave the caches, and memory allocators return large blocks to the system, which has to
clear them again for every layer (MobileNetV2 on one core: 20 images a second in batches of 32, 50
in batches of 4; ViT-Tiny the same in both)."""

LARGEST_ON_CPU, LARGEST = 256, 1024
"""Images in the largest automatic batch, on a CPU (a three-layer network on 8 px: 130,000 images a
second in batches of 256, 58,000 in batches of 1024) and on an accelerator."""

_PROBE = 8

_sizes: WeakKeyDictionary[nn.Module, dict[object, int]] = WeakKeyDictionary()


def check_precision(precision: str) -> None:
    """Raise a ValueError unless it is one of :data:`Precision`."""
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise ValueError(f"expected a precision of {known}, got {precision!r}")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """State the arithmetic, whatever is set outside, and restore that afterwards.

    Within the block float16 and bfloat16 are autocast (mixed precision). No weight is changed, so
    gradients can be taken; call ``backward()`` within the block too.

    Args:
        precision: see the top of this module.
        device: where the network runs; a CPU has no TF32.

    Raises:
        ValueError: for a device without float64, which rewards and statistics are computed in.
    """
    if device.type == "mps":
        raise ValueError(
            "expected a device with float64, got mps, which has none; move the model to the CPU"
        )
    dtype = _HALF.get(precision)
    backends: list[Any] = []
    cuda: Any = torch.backends.cuda.matmul
    if device.type == "cuda":
        cudnn: Any = torch.backends.cudnn
        backends = [cuda, cudnn.conv]
    elif device.type == "cpu":
        mkldnn: Any = torch.backends.mkldnn
        backends = [mkldnn.matmul, mkldnn.conv]
    products = "tf32" if precision == "tf32" and device.type == "cuda" else "ieee"
    before = [backend.fp32_precision for backend in backends]

    def put(told: Sequence[str]) -> None:
        if cuda in backends:
            # By the old name too: torch refuses to tell it once both differ, and compilers ask.
            # a2mim.training.arithmetic does the same, which may not import this.
            cuda.allow_tf32 = told[0] == "tf32"
        for backend, one in zip(backends, told, strict=True):
            backend.fp32_precision = one

    try:
        put([products] * len(backends))
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            yield
    finally:
        put(before)


@contextmanager
def running(model: nn.Module, precision: Precision) -> Iterator[Callable[[Tensor], Tensor]]:
    """Within the block a frozen network runs in a stated arithmetic, as fast as it goes.

        with torch.inference_mode(), running(model, "float16") as ready:
            logits = model(ready(images_BCHW))

    In float16 and bfloat16 all weights and buffers are halves, those of convolutions on a GPU in
    the layout "channels last"; in float32 and TF32 halves are float32. They stand in for the
    network's own within the block only: hooks, lesions and names are those of the network, its
    weights come back to the bit, also after errors. Nothing else may use the network meanwhile.

    Args:
        model: the network.
        precision: see the top of this module.

    Yields:
        What makes images fit: on the network's device, in its number format and layout.
    """
    device = device_of(model)
    last = device.type == "cuda" and precision in ("tf32", *_HALF) and _is_convolutional(model)

    def fitting(tensor: Tensor) -> Tensor:
        dtype = _dtype_within(tensor.dtype, precision)
        if last and tensor.ndim == 4:
            return tensor.to(dtype=dtype, memory_format=torch.channels_last)
        return tensor.to(dtype)

    own: list[tuple[dict[str, Any], str, Tensor]] = []
    fitted: dict[Tensor, Tensor] = {}  # tied weights stay tied
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    seen = None if first is None else _dtype_within(first.dtype, precision)

    def ready(images_BCHW: Tensor) -> Tensor:
        return fitting(images_BCHW.to(device, seen))

    try:
        for module in model.modules():
            for tensors in cast(list[dict[str, Any]], [module._parameters, module._buffers]):
                for name, tensor in tensors.items():
                    if tensor is None or not tensor.is_floating_point():
                        continue
                    if tensor not in fitted:
                        fitted[tensor] = fitting(tensor.detach())
                    if fitted[tensor].dtype != tensor.dtype or last:
                        own.append((tensors, name, tensor))
                        tensors[name] = fitted[tensor]
        with arithmetic("tf32" if precision == "tf32" else "model", device):
            yield ready
    finally:
        for tensors, name, tensor in own:
            tensors[name] = tensor


@dataclass(frozen=True)
class Fitting:
    """What the precision "auto" is for a network.

    Attributes:
        precision: the arithmetic.
        allowed: what its noise floor had to be below; NaN where nothing was measured.
        floors: the noise floors that were measured, the fastest arithmetic first; infinite where
            the network does not run in it.
    """

    precision: Precision
    allowed: float = math.nan
    floors: dict[Precision, float] = field(default_factory=dict)


def fastest_of(
    floor: Callable[[Precision], float],
    allowed: float,
    device: torch.device,
    candidates: Sequence[Precision] = FASTEST_FIRST,
) -> Fitting:
    """The fastest arithmetic whose error is small enough: what the precision "auto" is.

    Args:
        floor: measures the error of an arithmetic, in any unit. A ValueError, or a RuntimeError
            other than for want of memory, means that the network does not run in it.
        allowed: what the error has to be below.
        device: where the network runs; on a CPU the answer is float32 and nothing is measured.
        candidates: the fastest first; the last is taken, unmeasured, if no other one will do.
    """
    if device.type == "cpu":
        return Fitting("float32")
    floors: dict[Precision, float] = {}
    for precision in candidates[:-1]:
        try:
            floors[precision] = floor(precision)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError):
            floors[precision] = math.inf
        if floors[precision] < allowed:
            return Fitting(precision, allowed, floors)
    return Fitting(candidates[-1], allowed, floors)


def _dtype_within(dtype: torch.dtype, precision: Precision) -> torch.dtype:
    """The number format of weights and images; float64 is not lowered to float32."""
    if precision in _HALF:
        return _HALF[precision]
    lifted = precision != "model" and dtype in _HALF.values()
    return torch.float32 if lifted else dtype


def _is_convolutional(model: nn.Module) -> bool:
    """Whether it has convolutions other than that of a patch embedding."""
    return sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def in_batches(
    values_of: Callable[[Tensor], Tensor], coalitions_KN: Tensor, batch_size: int
) -> Tensor:
    """Values of coalitions, a batch at a time; batches are halved where the device is too small.

    Args:
        values_of: from coalitions ``(B, N)`` on the CPU to values ``(B,)`` or ``(B, D)``.
        coalitions_KN: bool.
        batch_size: the largest batch.

    Returns:
        The values, on the CPU: batches are not waited for one by one.

    Raises:
        torch.OutOfMemoryError: if not even one coalition fits.
    """
    # One tensor for all: small ones that outlive the large ones of a batch would take their places
    # in memory, one a batch, until gigabytes lie in holes.
    values = torch.empty(0, dtype=torch.float64)
    start = 0
    while start < len(coalitions_KN):
        batch_BN = coalitions_KN[start : start + batch_size]
        try:
            batch = values_of(batch_BN)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        if not start:
            values = batch.new_empty(len(coalitions_KN), *batch.shape[1:])
        values[start : start + len(batch_BN)] = batch
        start += len(batch_BN)
    return values.cpu()


def automatic_batch_size(
    model: nn.Module,
    image_CHW: Tensor,
    precision: Precision,
    device: torch.device,
    evaluate: Callable[[int], object],
) -> int:
    """A batch size that fills the device: a power of two that is the same in every run.

    On a CPU it follows from the size of the image. On an accelerator one small batch is evaluated
    and its memory measured; half of the device's memory is filled. No clock is read, so that a
    resumed run uses the batches of an uninterrupted one. The size is found once per model, size of
    image and precision.

    Args:
        model: the network.
        image_CHW: an image of the size that is used.
        precision: of the network.
        device: where the network is.
        evaluate: evaluates that many masked images.
    """
    known = _sizes.setdefault(model, {})
    key = (tuple(image_CHW.shape), precision, device)
    if key not in known:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            evaluate(_PROBE)
            needed = torch.cuda.max_memory_allocated(device) - before
            room = torch.cuda.get_device_properties(device).total_memory // 2
            fits = min(room * _PROBE // max(needed, 1), LARGEST)
        else:
            fits = min(PIXELS_ON_CPU // image_CHW[0].numel(), LARGEST_ON_CPU)
        known[key] = 1 << max(fits, 1).bit_length() - 1
    return known[key]


def largest_size(
    model: nn.Module, image_CHW: Tensor, precision: Precision, device: torch.device
) -> int:
    """The largest batch that is not known to be too large."""
    key = ("limit", tuple(image_CHW.shape), precision, device)
    return _sizes.get(model, {}).get(key, sys.maxsize)


def too_large(
    model: nn.Module, image_CHW: Tensor, precision: Precision, device: torch.device, size: int
) -> None:
    """Remember that a batch of more than this size did not fit on the device."""
    key = ("limit", tuple(image_CHW.shape), precision, device)
    _sizes.setdefault(model, {})[key] = size


def check_eval(model: nn.Module) -> None:
    """See whether a network is in eval mode, and all of its parts that act otherwise in training.

    A network may leave some of them as they were: a frozen part whose ``train`` does nothing, or an
    ``eval`` of its own.

    Raises:
        ValueError: naming the first part that is not.
    """
    for name, module in model.named_modules():
        if module.training and (not name or _acts_in_training(module)):
            where = f" at {name} ({type(module).__name__})" if name else ""
            raise ValueError(
                f"expected a model in eval mode, got one in training mode{where}, whose batch "
                "statistics and dropout make outputs depend on the batch, or on chance; call "
                "model.eval() first"
            )


def _acts_in_training(module: nn.Module) -> bool:
    """Whether a module does something else in training: batch norms, and what drops anything."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return True
    share = getattr(module, "p", getattr(module, "drop_prob", None))
    return ("Drop" in type(module).__name__ or "Stochastic" in type(module).__name__) and share != 0


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU for a model without parameters."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device
