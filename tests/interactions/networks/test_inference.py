import copy
import math
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import nn

from interactions.keys import torch_seeded
from interactions.networks import inference as forwards
from interactions.networks.inference import (
    LARGEST_ON_CPU,
    Fitting,
    Precision,
    arithmetic,
    automatic_batch_size,
    check_precision,
    device_of,
    fastest_of,
    in_batches,
    running,
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
    for precision, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        with arithmetic(precision, CPU):
            assert (weights @ weights).dtype == dtype
    for precision in ("float32", "tf32", "model"):
        with torch.autocast("cpu", dtype=torch.bfloat16), arithmetic(precision, CPU):
            assert (weights @ weights).dtype == torch.float32
    # No CUDA kernel runs here: only the switches are looked at.
    cuda = torch.device("cuda"), torch.backends.cuda.matmul, torch.backends.cudnn.conv
    cpu = CPU, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    for device, *backends in (cuda, cpu):
        before = [backend.fp32_precision for backend in backends]
        for precision in ("float32", "tf32", "model"):
            tf32 = precision == "tf32" and device.type == "cuda"
            with arithmetic(precision, device):
                found = {backend.fp32_precision for backend in backends}
                assert found == {"tf32" if tf32 else "ieee"}
            assert [backend.fp32_precision for backend in backends] == before


class Tied(nn.Module):
    """Convolutions, a tied weight and a buffer that is a count."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
        self.one = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.seen = []

    def forward(self, images):
        self.seen.append((images.dtype, self.one.weight.dtype, self.convs[1].running_var.dtype))
        assert self.one.weight is self.other.weight
        return self.other(self.one(self.convs(images).mean((2, 3))))


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float64])
def test_a_network_runs_in_one_number_format_and_comes_back(precision, own):
    with torch_seeded(0):
        model = Tied().eval().to(own)
    before = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    values = {name: tensor.detach().clone() for name, tensor in before.items()}
    hooked = []
    model.one.register_forward_hook(lambda *_: hooked.append(1))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    within = {"float16": torch.float16, "bfloat16": torch.bfloat16, "model": own}
    expected = within.get(precision, torch.float32 if own == torch.bfloat16 else own)
    with torch.inference_mode(), running(model, precision) as ready:
        outputs = model(ready(images))
    assert outputs.dtype == expected
    assert model.seen == [(expected,) * 3]
    assert hooked == [1]
    exact = copy.deepcopy(model).double()(images.double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3}
    torch.testing.assert_close(outputs.double(), exact, rtol=0, atol=tolerance.get(expected, 3e-2))
    with pytest.raises(ZeroDivisionError), running(model, precision):
        raise ZeroDivisionError
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name in before:
        assert after[name] is before[name]
        assert torch.equal(after[name], values[name])


def test_convolutions_get_channels_last_on_a_device(monkeypatch):
    monkeypatch.setattr(forwards, "device_of", lambda model: torch.device("cuda"))
    seen = []

    def looked_at(model, precision):
        with running(model, precision):
            weight = model.get_submodule(name).weight
            seen.append(weight.is_contiguous(memory_format=torch.channels_last))

    model, name = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), "1"
    for precision in ("float16", "bfloat16", "tf32", "float32", "model"):
        looked_at(model, precision)
    assert seen == [True, True, True, False, False]
    model, name = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "0"  # as a patch embedding
    looked_at(model, "float16")
    assert seen[-1] is False
    assert model[0].weight.dtype == torch.float32


def test_the_fastest_arithmetic_with_a_small_error_is_chosen():
    device = torch.device("cuda")
    errors = {"float16": 0.05, "bfloat16": 0.4, "tf32": 0.01, "float32": 1e-6}
    found = fastest_of(errors.__getitem__, 0.1, device)
    assert found == Fitting("float16", 0.1, {"float16": 0.05})
    found = fastest_of(errors.__getitem__, 0.02, device)
    assert found.precision == "tf32"
    assert list(found.floors) == ["float16", "bfloat16", "tf32"]
    assert fastest_of(errors.__getitem__, 1e-9, device).precision == "float32"
    found = fastest_of(errors.__getitem__, 1e-9, CPU)
    assert (found.precision, found.floors) == ("float32", {})

    def overflows(precision):
        if precision == "float16":
            raise ValueError("values that are not finite")
        return math.nan if precision == "bfloat16" else 0.0

    found = fastest_of(overflows, 1e-9, device)
    assert found.precision == "tf32"
    assert found.floors["float16"] == math.inf

    def full(precision):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fastest_of(full, 1.0, device)


def test_precisions():
    for good in get_args(Precision):
        check_precision(good)
    with pytest.raises(ValueError, match="float32, tf32, float16, bfloat16, model, got 'float8'"):
        check_precision("float8")


def test_devices():
    assert device_of(nn.Linear(1, 1)) == CPU
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.Identity()) == CPU
    assert forwards.PIXELS_ON_CPU >= 224 * 224
