"""The arithmetic that networks are trained in, and that frozen ones are probed in.

    float32     IEEE: 24 bits of every product
    tf32        float32 whose products keep 11 bits, on NVIDIA GPUs; elsewhere it is float32
    float16     mixed precision: most products of 11 bits, up to 65504; weights stay float32
    bfloat16    mixed precision: most products of 8 bits

What mixed precision leaves in float32 is TF32.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "float16", "bfloat16"]

MIXED: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""What autocast computes in."""


def fastest(device: str) -> Precision:
    """What a run takes that was not told: bfloat16 on a GPU, float32 on a CPU."""
    return "bfloat16" if device == "cuda" else "float32"


def compiles(device: str) -> bool:
    """Whether a run that was not told compiles its network.

    On a GPU, if Triton is installed and the C compiler that it calls is there too.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return device == "cuda" and find_spec("triton") is not None and compiler is not None


def check_precision(precision: str, device: torch.device) -> None:
    """See whether a device has an arithmetic.

    Raises:
        ValueError: for an unknown one, float16 on a CPU, or anything but float32 on mps.
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise ValueError(f"expected a precision of {known}, got {precision!r}")
    if precision == "float16" and device.type == "cpu":
        raise ValueError(
            "expected an accelerator for float16, got the CPU; use bfloat16 or float32"
        )
    if precision != "float32" and device.type == "mps":
        raise ValueError(f"expected float32 on mps, got {precision}")


def with_float64(device: torch.device | str) -> torch.device:
    """The device, or the CPU in the place of one without float64."""
    return torch.device("cpu" if torch.device(device).type == "mps" else device)


@contextmanager
def float32_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Whether products of float32 numbers are IEEE or TF32 on a GPU; afterwards as before."""
    if device.type != "cuda":
        yield
        return
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, convolution.fp32_precision

    def put(products: str, convolutions: str) -> None:
        # By the old name and the new one: torch refuses to tell either once they differ, and
        # its compiler asks for both.
        matmul.allow_tf32 = products == "tf32"
        of_products: Any = matmul
        of_products.fp32_precision, convolution.fp32_precision = products, convolutions

    try:
        put(*(["ieee" if precision == "float32" else "tf32"] * 2))
        yield
    finally:
        put(*before)
