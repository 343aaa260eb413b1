"""How masked images go through a network: in batches that fit, in a stated arithmetic.

A second difference is much smaller than the four values it is made of, so the arithmetic matters
more here than for predictions: float32 keeps 24 bits of every product, TF32 and float16 keep 11,
bfloat16 keeps 8. Neither batches nor their size change a draw.

Shapes: K coalitions, N players, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Precision = Literal["float32", "tf32", "float16"]
"""Arithmetic of the network; values are computed from its outputs in float64 in any case."""

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
    if precision in ("bfloat16", "bf16"):
        raise ValueError(
            "expected the precision float32, tf32 or float16, got bfloat16: with its 8 bits a "
            "difference of four values is mostly rounding, and nothing averages it at m = 0 and n-2"
        )
    if precision not in ("float32", "tf32", "float16"):
        raise ValueError(f"expected the precision float32, tf32 or float16, got {precision!r}")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run a network in one arithmetic, whatever is set outside, and restore that afterwards.

    Args:
        precision: ``"float32"`` also switches off TF32, which PyTorch uses in convolutions unless
            told otherwise; ``"tf32"`` switches it on everywhere; ``"float16"`` is autocast.
        device: where the network runs.
    """
    with torch.autocast(device.type, dtype=torch.float16, enabled=precision == "float16"):
        if device.type != "cuda":
            yield
            return
        cudnn: Any = torch.backends.cudnn
        backends = (torch.backends.cuda.matmul, cudnn.conv)
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
            yield
        finally:
            for backend, was in zip(backends, before, strict=True):
                backend.fp32_precision = was


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


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives; the CPU for a model without parameters."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device
