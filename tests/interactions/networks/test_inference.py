from types import SimpleNamespace

import pytest
import torch
from torch import nn

from interactions.networks import inference as forwards
from interactions.networks.inference import (
    LARGEST_ON_CPU,
    arithmetic,
    automatic_batch_size,
    check_precision,
    device_of,
    in_batches,
)

CPU = torch.device("cpu")


def test_batches_go_through_in_order():
    coalitions = torch.arange(7)[:, None]
    sizes = []

    def values_of(batch):
        sizes.append(len(batch))
        return batch[:, 0].double()

    assert in_batches(values_of, coalitions, 3).tolist() == list(range(7))
    assert sizes == [3, 3, 1]
    vectors = in_batches(lambda batch: batch.double().expand(-1, 2), coalitions, 4)
    assert vectors.shape == (7, 2)
    assert in_batches(values_of, coalitions[:0], 3).shape == (0,)


def test_batches_are_halved_until_they_fit():
    sizes = []

    def values_of(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return batch[:, 0].double()

    assert in_batches(values_of, torch.arange(7)[:, None], 7).tolist() == list(range(7))
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]

    def full(batch):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(full, torch.arange(7)[:, None], 4)


def test_automatic_sizes_on_a_cpu_follow_from_the_image():
    def size(*shape):
        return automatic_batch_size(nn.Identity(), torch.zeros(shape), "float32", CPU, print)

    assert size(3, 224, 224) == 4
    assert size(3, 32, 32) == 256
    assert size(1, 2, 2) == LARGEST_ON_CPU
    assert size(3, 4096, 4096) == 1


def test_automatic_sizes_on_an_accelerator_fill_half_of_its_memory(monkeypatch):
    """A device of 1 GB on which an image takes 1 MB beside 100 MB of weights."""
    held = SimpleNamespace(now=100 << 20, peak=0)
    device = torch.device("cuda", 0)
    for name, value in {
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: held.now,
        "max_memory_allocated": lambda device: held.peak,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=1 << 30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    probed = []

    def evaluate(count):
        probed.append(count)
        held.peak = held.now + (count << 20)

    model, image = nn.Identity(), torch.zeros(3, 8, 8)
    assert automatic_batch_size(model, image, "float32", device, evaluate) == 512
    assert automatic_batch_size(model, image, "float32", device, evaluate) == 512
    assert probed == [8]  # once
    held.now = 0
    assert automatic_batch_size(nn.Identity(), image, "tf32", device, evaluate) == 512


def test_the_arithmetic_is_set_and_restored():
    weights = torch.eye(4)
    with arithmetic("float16", CPU):
        assert (weights @ weights).dtype == torch.float16
    with torch.autocast("cpu", dtype=torch.bfloat16), arithmetic("float32", CPU):
        assert (weights @ weights).dtype == torch.float32
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    # No CUDA kernel runs here: only the switches are looked at.
    for precision, expected in (("tf32", "tf32"), ("float32", "ieee")):
        with arithmetic(precision, torch.device("cuda")):
            assert (matmul.fp32_precision, conv.fp32_precision) == (expected, expected)
        assert (matmul.fp32_precision, conv.fp32_precision) == before


def test_precisions():
    for good in ("float32", "tf32", "float16"):
        check_precision(good)
    with pytest.raises(ValueError, match="got bfloat16: with its 8 bits"):
        check_precision("bfloat16")
    with pytest.raises(ValueError, match="float32, tf32 or float16, got 'float8'"):
        check_precision("float8")


def test_devices():
    assert device_of(nn.Linear(1, 1)) == CPU
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.Identity()) == CPU
    assert forwards.PIXELS_ON_CPU >= 224 * 224
