"""Run as a script, this file is one process of a training run that is killed or shared."""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from PIL import Image
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from a2mim.data.augment import CropAndFlip
from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.resident import TensorSamples
from a2mim.data.sampler import Batches, keyed_generator, keyed_seed
from a2mim.data.samples import DatasetSamples
from a2mim.data.stream import ShardStream, StreamSettings
from a2mim.data.tar import write_shards
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.methods.siamese import RelaxedMAE
from a2mim.training import loop, state
from a2mim.training.loop import (
    Interrupted,
    Saving,
    StepReport,
    Trained,
    _check_fsdp,
    _fastest_convolutions,
    _synchronised,
    pretrain,
)
from a2mim.training.state import CheckpointError, latest, load_checkpoint
from interactions.keys import hashed_words, torch_seeded


class Noise:
    """Keyed images with something to learn: a brightness of their own."""

    def __init__(self, count=20):
        self.count = count

    def __len__(self):
        return self.count

    def load(self, index, epoch):
        generator = keyed_generator("noise", epoch, index)
        return 0.1 * torch.randn(3, 8, 8, generator=generator) + (index % 5) / 5


class Tiny(nn.Module):
    """A transformer over four patches that restores hidden ones; no batch norm."""

    def __init__(self, dropout=0.0, bad_call=None):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.head = nn.Linear(8, 48)
        self.calls, self.bad_call = 0, bad_call
        self.dtypes, self.drawn, self.strides = [], [], []

    def draw(self, images, seed):
        visible = hashed_words(4, seed, images) > 0
        self.drawn.append(visible)
        return visible

    def forward(self, images, visible):
        seen = self.patches(images).flatten(2).transpose(1, 2) * visible[:, :, None]
        self.dtypes.append(seen.dtype)
        self.strides.append(images.stride())
        output = self.head(self.block(seen))
        target = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
        spatial = (output.float() - target.flatten(1, 2)).abs().mean()
        size = output.square().mean()
        loss = spatial + 0.01 * size
        self.calls += 1
        if self.calls - 1 == self.bad_call:
            loss = loss * torch.nan
        return {"loss": loss, "output": output, "spatial": spatial, "size": size}


def make(dropout=0.0, sgd=False, seed=0, method=Tiny, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = method(dropout, **options)
    head = [p for n, p in method.named_parameters() if n.startswith("head")]
    rest = [p for n, p in method.named_parameters() if not n.startswith("head")]
    groups = [{"params": rest}, {"params": head, "lr_scale": 0.5, "weight_decay": 0.1}]
    kind = torch.optim.SGD if sgd else torch.optim.AdamW
    return method, kind(groups, lr=1.0)


class Classifier(nn.Module):
    """Tells brightnesses apart; labels are the indices' remainders, as Noise has it."""

    def __init__(self, classes=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, classes))
        self.labels = []

    def draw(self, count, generator):
        return 0.9 + 0.1 * torch.rand(count, dtype=torch.float64, generator=generator)

    def forward(self, images, weights_M, labels_M):
        self.labels.append(labels_M)
        output = self.layers(4 * images.mean(dim=(2, 3)) - 2)
        each_M = nn.functional.cross_entropy(output, labels_M, reduction="none")
        hits = (output.argmax(dim=1) == labels_M).float().mean()
        return {"loss": (weights_M * each_M).mean().float(), "output": output, "accuracy": hits}


def make_classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = Classifier()
    return method, torch.optim.SGD(method.parameters(), lr=1.0)


def heavy(**options):
    """A method and an optimiser with a state, but not Adam: see test_sharding."""
    method, optimiser = make(sgd=True, **options)
    for group in optimiser.param_groups:
        group["momentum"] = 0.9
    return method, optimiser


def make_relaxed(seed=0):
    """A method with a slow copy, which follows in after_step."""
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "num_heads": 2, "depth": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = timm.create_model("test_vit", num_classes=0, **options)
        sizes = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
        method = RelaxedMAE(backbone, 0.5, momentum=0.8, norm_pix=False, **sizes)
    return method, torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)


LABELS = torch.arange(20) % 5


def ramp(step, scale=1.0):
    return 0.01 * (step + 1) * scale


def fit(
    made=None,
    *,
    steps=10,
    batch_size=6,
    log_every=1,
    lr=ramp,
    on_step=None,
    samples=None,
    cpu=True,
    **options,
):
    """Train; the method, the reports, and what pretrain returned."""
    method, optimiser = made or make()
    reports: list[StepReport] = []
    done = pretrain(
        method,
        samples or Noise(),
        optimiser,
        lr,
        steps=steps,
        batch_size=batch_size,
        log_every=log_every,
        on_step=lambda report: (reports.append(report), on_step and on_step(report)),
        cpu=cpu,
        **options,
    )
    return method, reports, done


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one) and one.keys() == two.keys()


def deviation(one, two):
    return max((one[name] - two[name]).abs().max().item() for name in one)


def test_it_is_the_plain_loop():
    method, reports, done = fit(clip=0.5)
    assert done == Trained(10, 0, None, torch.device("cpu"))
    assert not method.training
    other, optimiser = make()
    losses = []
    batches = Batches(20, 6, 0)
    for step in range(10):
        images = torch.stack([Noise().load(k, step // 3) for k in batches.at(step).tolist()])
        visible = other.draw(batches.at(step), keyed_seed(0, "masks", step))
        optimiser.param_groups[0]["lr"] = ramp(step)
        optimiser.param_groups[1]["lr"] = ramp(step) * 0.5
        loss = other(images, visible)["loss"]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        assert reports[step].grad_norm == pytest.approx(norm.item(), rel=1e-6)
    assert [r.losses["loss"] for r in reports] == losses
    assert equal(weights(method), weights(other))
    assert [(r.step, r.epoch, r.lr) for r in reports] == [
        (s + 1, s // 3, ramp(s)) for s in range(10)
    ]
    assert reports[0].losses.keys() == {"loss", "spatial", "size"}
    assert all(r.images_per_second > 0 for r in reports)


def test_it_learns_for_epochs_and_reports_now_and_then():
    flat = {"lr": lambda step, scale: 0.01 * scale}
    _, reports, done = fit(steps=None, epochs=30, **flat, log_every=45, batch_size=10)
    assert done.steps == 60
    assert [r.step for r in reports] == sorted([*range(2, 61, 2), 45])  # 2 steps are an epoch
    assert reports[-1].losses["loss"] < 0.2 < fit(steps=1)[1][0].losses["loss"]
    assert reports[0].grad_norm is None


@pytest.mark.parametrize("accumulate", [2, 6])
def test_micro_batches_do_the_step_of_the_whole_batch(accumulate):
    one, reports, _ = fit(make(sgd=True), clip=1.0)
    two, others, _ = fit(make(sgd=True), clip=1.0, accumulate=accumulate)
    assert deviation(weights(one), weights(two)) < 1e-6
    for a, b in zip(reports, others, strict=True):
        assert a.losses == pytest.approx(b.losses, abs=1e-6)
    assert torch.equal(torch.cat(one.drawn), torch.cat(two.drawn))


def test_a_mask_depends_on_the_seed_the_step_and_the_image_alone():
    whole = fit(steps=2)[0].drawn
    assert torch.equal(fit(steps=2, batch_size=3)[0].drawn[0], whole[0][:3])
    shared = fit(steps=2, accumulate=3, workers=1)[0].drawn
    assert torch.equal(torch.cat(shared), torch.cat(whole))
    assert not torch.equal(fit(steps=2, seed=1)[0].drawn[0], whole[0])


def test_copies_of_an_image_have_masks_of_their_own():
    drawn = fit(steps=1, repeats=2)[0].drawn[0]
    images = Batches(20, 6, 0, 2).at(0)
    assert torch.equal(images[:3], images[3:])
    numbers = 2 * images + torch.tensor([0, 0, 0, 1, 1, 1])
    assert torch.equal(drawn, hashed_words(4, keyed_seed(0, "masks", 0), numbers) > 0)
    assert not torch.equal(drawn[:3], drawn[3:])


def test_the_seed_decides_everything_and_nobody_elses_randomness_is_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, reports, _ = fit(make(dropout=0.3), workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, _, _ = fit(make(dropout=0.3), on_step=lambda report: torch.rand(3))
    assert equal(weights(one), weights(two))
    assert fit(make(dropout=0.3), seed=1)[1][0].losses != reports[0].losses


def test_averaged_weights():
    """The closed form: d^n theta_0 + (1 - d) sum over s of d^(n - s) theta_s."""
    made = make()
    after = [weights(made[0])]
    _, _, done = fit(made, ema=0.8, steps=6, on_step=lambda report: after.append(weights(made[0])))
    shares = [0.8**6] + [0.2 * 0.8 ** (6 - s) for s in range(1, 7)]
    assert sum(shares) == pytest.approx(1)
    expected = {
        name: sum(share * own[name] for share, own in zip(shares, after, strict=True))
        for name in after[0]
    }
    assert deviation(weights(done.ema), expected) < 1e-6
    assert deviation(weights(done.ema), weights(made[0])) > 1e-3
    assert not done.ema.training
    assert not any(p.requires_grad for p in done.ema.parameters())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_after_every_step_a_method_is_told(accumulate):
    class Told(Tiny):
        def after_step(self):
            after.append(weights(self))

    after, reported = [], []
    made = make(method=Told)
    method, _ = made
    fit(made, accumulate=accumulate, steps=4, on_step=lambda _: reported.append(weights(method)))
    assert len(after) == len(reported) == 4
    assert all(equal(one, two) for one, two in zip(after, reported, strict=True))


def test_after_a_step_that_is_skipped_it_is_not(monkeypatch):
    """As float16 skips one whose gradient is not finite; it needs a GPU."""
    skipped = iter((True, False, False))
    monkeypatch.setattr(
        AcceleratedOptimizer, "step_was_skipped", property(lambda self: next(skipped))
    )
    calls = []
    made = make()
    made[0].after_step = lambda: calls.append(made[0].calls)
    fit(made, steps=3)
    assert calls == [2, 3]


@pytest.mark.integration
def test_labels_come_with_their_images():
    method, reports, _ = fit(
        make_classifier(), labels_I=LABELS, steps=300, batch_size=10, lr=lambda s, k: 0.2 * k
    )
    order = Batches(20, 10, 0)
    for step in (0, 1, 299):
        assert torch.equal(method.labels[step], order.at(step) % 5)
    assert reports[0].losses["accuracy"] < 0.6
    assert min(r.losses["accuracy"] for r in reports[-10:]) == 1
    two, _, _ = fit(make_classifier(), labels_I=LABELS, steps=3, batch_size=10, accumulate=5)
    assert torch.equal(torch.cat(two.labels[:5]), order.at(0) % 5)
    one, reports, _ = fit(make_classifier(), labels_I=LABELS, steps=3, batch_size=10)
    assert deviation(weights(one), weights(two)) < 1e-6


class Levels(Noise):
    """The same images as whole numbers, one by one or in batches."""

    def load(self, index, epoch):
        return super().load(index, epoch).clamp(0, 1).mul(255).byte()


class Batched(Levels):
    def batch(self, indices, epochs, device):
        pairs = zip(indices, epochs, strict=True)
        return torch.stack([self.load(*pair) for pair in pairs]).to(device)


def test_whole_numbers_are_normalised_where_they_are_needed():
    class Halved(Noise):
        def load(self, index, epoch):
            return Levels().load(index, epoch).float() / 2

    expected, reports, _ = fit(samples=Halved(), channels_last=True)
    for samples in (Levels(), Batched()):
        seen = []

        def halve(images, seen=seen):
            seen.append(images)
            return images.float() / 2

        found, others, _ = fit(samples=samples, normalise=halve, channels_last=True)
        assert equal(weights(found), weights(expected))
        assert [r.losses for r in others] == [r.losses for r in reports]
        assert {(tuple(x.shape), x.dtype) for x in seen} == {((6, 3, 8, 8), torch.uint8)}
        with pytest.raises(ValueError, match="normalise for uint8 ones"):
            fit(samples=samples)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    for labels, got in ((LABELS[:19], r"int64 \(19,\)"), (LABELS.float(), r"float32 \(20,\)")):
        with pytest.raises(ValueError, match=rf"int64 labels \(20,\).*got torch\.{got}"):
            fit(make_classifier(), labels_I=labels)
    fit(make_classifier(), labels_I=LABELS, steps=1, saving=Saving(tmp_path))
    with pytest.raises(CheckpointError, match=r"labels: \d+ there, \d+ here"):
        fit(make_classifier(), labels_I=4 - LABELS, steps=1, saving=Saving(tmp_path))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """12 images in 4 shards of 3."""
    root = tmp_path_factory.mktemp("stream")
    (root / "images").mkdir()
    for k in range(12):
        pixels = Noise().load(k, 0).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(root / "images" / f"{k}.png")
    return write_shards(root / "images", root / "tars", per_shard=3)


def stream_of(shards, **options):
    return ShardStream(shards, CropAndFlip(8), 0, StreamSettings(12, buffer=4), **options)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.integration)])
def test_a_stream_goes_on_in_mid_epoch_to_the_same_bits(workers, tars, tmp_path):
    """Epochs have 3 steps; 8 are 2 epochs and two thirds."""

    def on_step(report):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    options = {"batch_size": 4, "accumulate": 2, "steps": 8, "workers": workers}
    whole, reports, _ = fit(make(0.1), samples=stream_of(tars), **options)
    assert [r.epoch for r in reports] == [0, 0, 0, 1, 1, 1, 2, 2]
    saving = Saving(tmp_path)
    with pytest.raises(Interrupted, match="after step 4 of 8"):
        fit(make(0.1), samples=stream_of(tars), saving=saving, on_step=on_step, **options)
    for change, message in (
        ({"workers": 3}, rf"stream\.workers: {max(workers, 1)} there, 3 here; use the same"),
        ({"accumulate": 1}, r"stream\.accumulate: 2 there, 1 here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit(make(0.1), samples=stream_of(tars), saving=saving, **options | change)
    method, rest, done = fit(make(0.1, seed=1), samples=stream_of(tars), saving=saving, **options)
    assert done.resumed_from == 4
    assert equal(weights(method), weights(whole))
    assert [r.losses for r in rest] == [r.losses for r in reports[4:]]


@pytest.mark.integration
def test_streams_of_compressed_shards_and_pipes(tars, tmp_path):
    packed = tmp_path / "one.tar.gz"
    packed.write_bytes(gzip.compress(tars[0].read_bytes()))
    addresses = [str(packed), *(f"pipe:cat {shard}" for shard in tars[1:])]
    stream = stream_of(addresses, allow_pipe=True)
    flat = {"lr": lambda step, scale: 0.01 * scale}
    _, reports, _ = fit(samples=stream, steps=None, epochs=20, batch_size=6, **flat)
    assert len(reports) == 40
    assert reports[-1].losses["loss"] < 0.6 * reports[0].losses["loss"]


def test_streams_that_cannot_be_dealt_are_refused(tars):
    with pytest.raises(ValueError, match="images by index for labels, got a ShardStream"):
        fit(make_classifier(), samples=stream_of(tars), labels_I=LABELS, batch_size=4)
    with pytest.raises(ValueError, match="at least 13 images for a batch, got 12"):
        fit(samples=stream_of(tars), batch_size=13)


def test_bfloat16_computes_low_and_keeps_high():
    method, reports, _ = fit(precision="bfloat16", steps=3)
    assert set(method.dtypes) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in method.parameters())
    plain, others, _ = fit(steps=3)  # another precision in the same process
    assert set(plain.dtypes) == {torch.float32}
    for a, b in zip(reports, others, strict=True):
        # bfloat16 rounds to 3 digits
        assert a.losses["loss"] == pytest.approx(b.losses["loss"], rel=0.05)
        assert a.losses != b.losses
    with pytest.raises(
        ValueError, match="expected an accelerator for float16, got the CPU; use bfloat16"
    ):
        fit(precision="float16")


def test_channels_last_is_the_same_training():
    method, reports, _ = fit(channels_last=True)
    kernel = method.patches.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert method.strides[0] == (192, 1, 24, 3)
    for a, b in zip(reports, fit()[1], strict=True):
        assert a.losses == pytest.approx(b.losses, abs=1e-5)


@pytest.mark.parametrize(("device", "tried"), [("cuda", True), ("cpu", False)])
def test_convolutions_are_the_fastest_on_a_gpu_while_it_trains(device, tried):
    with _fastest_convolutions(torch.device(device)):
        assert torch.backends.cudnn.benchmark == tried
    assert not torch.backends.cudnn.benchmark


class Waited(TorchDispatchMode):
    """Notes copies between devices that the host waits for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
        between = len({tensor.device for tensor in tensors}) > 1
        copies = operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        quiet = kwargs.get("non_blocking") or (len(args) == 3 and args[2])
        if between and copies and not quiet:
            self.seen.append(str(operation))
        return result


@pytest.fixture
def on_meta(monkeypatch):
    """Training on a device without numbers: whoever asks for one gets an error.

    That is what .item(), .tolist(), .cpu(), float() and bool() do, and all whose shape depends on
    numbers. What the engine reads at reports is given to it, and counted.
    """
    met = []

    def meet(accelerator, bad_step, stop, due, losses):
        met.append(bad_step)
        return loop._Meeting(dict.fromkeys(losses, 1.0), stop=stop, due=due)

    monkeypatch.setattr(Accelerator, "device", property(lambda self: torch.device("meta")))
    monkeypatch.setattr(loop, "_meet", meet)
    monkeypatch.setattr(loop, "whole", lambda norm: 1.0)
    return met


@pytest.mark.integration
@pytest.mark.parametrize("options", [{"clip": 1.0}, {"accumulate": 3, "labels_I": LABELS}])
def test_between_reports_nobody_waits_for_the_device(options, on_meta):
    method, _ = make_classifier() if "labels_I" in options else make(dropout=0.1)
    method.to("meta")
    optimiser = torch.optim.AdamW(method.parameters(), lr=1.0)
    with Waited() as waited:
        fit((method, optimiser), steps=9, log_every=4, batch_size=6, **options)
    assert {x["exp_avg"].device.type for x in optimiser.state.values()} == {"meta"}
    assert len(on_meta) == 5  # steps 3, 6 and 9 end epochs, 4 and 8 are logged
    assert waited.seen == []


@pytest.mark.integration
def test_nor_does_a2mim_have_it_waited_for(on_meta):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = timm.create_model("test_vit", num_classes=0, depth=2, img_size=16, patch_size=4)
    method = MaskedImageModel(backbone, BlockMask(16, block=8), loss="official-vit").to("meta")
    optimiser = torch.optim.AdamW(method.parameters(), lr=1.0)
    with Waited() as waited:
        fit((method, optimiser), steps=9, samples=TensorSamples(torch.zeros(20, 3, 16, 16)))
    assert len(on_meta) == 9
    assert len(waited.seen) < 9  # images and constants go to the device, once and not in every step


def test_the_spy_sees_who_waits():
    here, there = torch.ones(3), torch.ones((), device="meta")
    with Waited() as waited:
        here.to("meta", non_blocking=True)
        here.to("meta")
        there.expand(3).clone().copy_(here)
    assert waited.seen == ["aten._to_copy.default", "aten.copy_.default"]
    for waits in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.nonzero, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits(there)


def test_compiling_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(type(self).__name__))
    fit(steps=1, compile=True)
    fit(steps=1)
    assert asked == ["_Scalars"]


@pytest.mark.integration  # some seconds in the compiler
def test_what_is_compiled_is_one_graph(monkeypatch):
    """With all that accelerate puts around a method; a break is an error."""
    counter, compiled = CompileCounter(), nn.Module.compile
    one = partial(compiled, backend=counter, fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", lambda self: one(self))
    torch._dynamo.reset()
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    with torch_seeded(0):
        backbone = timm.create_model("test_vit", num_classes=0, **small)
        method = MaskedImageModel(backbone, BlockMask(16, block=8), loss="official-vit")
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    samples = TensorSamples(torch.rand(20, 3, 16, 16))
    options = {"steps": 3, "samples": samples, "clip": 1.0, "precision": "bfloat16"}
    fit((method, optimiser), compile=True, **options)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.slow  # half a minute in the compiler
@pytest.mark.filterwarnings("ignore")  # torch's own, about its compiler
def test_compiled_it_is_the_same_training():
    from torch._dynamo.utils import counters

    counters.clear()
    method, reports, _ = fit(make(sgd=True), compile=True, clip=1.0)
    assert counters["stats"]["unique_graphs"] > 0
    plain, others, _ = fit(make(sgd=True), clip=1.0)
    for a, b in zip(reports, others, strict=True):
        assert a.losses == pytest.approx(b.losses, abs=1e-5)
    assert deviation(weights(method), weights(plain)) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "digits"), [("float32", 1e-4), ("bfloat16", 0.05), ("float16", 0.05)]
)
def test_a_gpu_trains_as_the_cpu_does_and_goes_on(precision, digits, tmp_path):
    """The same images and masks; what was averaged and what the optimiser knows is saved too."""
    _, expected, _ = fit(heavy(), ema=0.5)
    options = {"cpu": False, "precision": precision, "ema": 0.5}
    method, reports, done = fit(heavy(), **options)
    assert done.device.type == "cuda"
    assert [r.losses for r in reports] == [pytest.approx(r.losses, rel=digits) for r in expected]

    def stop(report):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    saving = Saving(tmp_path)
    with pytest.raises(Interrupted):
        fit(heavy(), saving=saving, on_step=stop, **options)
    other, rest, resumed = fit(heavy(), saving=saving, **options)
    assert resumed.resumed_from == 4
    ended = [r.losses for r in reports[4:]]
    assert [r.losses for r in rest] == [pytest.approx(losses, rel=1e-4) for losses in ended]
    assert deviation(weights(method), weights(other)) < 1e-4
    assert deviation(weights(done.ema), weights(resumed.ema)) < 1e-4


def test_batch_norms_that_see_all_processes_keep_their_activation_and_parameters():
    """One process has seen all; that they do act takes several accelerators."""
    from timm.layers import BatchNormAct2d

    method = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4))
    before = dict(method.named_parameters())
    found = _synchronised(method, torch.device("cuda"))
    assert isinstance(found[1], nn.SyncBatchNorm)
    assert isinstance(found[2], nn.SyncBatchNorm)
    assert isinstance(found[1].act, nn.ReLU)
    after = dict(found.named_parameters())
    assert all(before[name] is after[name] for name in before)
    with pytest.raises(ValueError, match="accelerators for sync_batchnorm, got CPUs; leave it off"):
        _synchronised(method, torch.device("cpu"))
    assert equal(*(weights(fit(steps=1, sync_batchnorm=on)[0]) for on in (True, False)))


def test_a_loss_that_is_not_finite_is_named_and_never_saved(tmp_path):
    made = make(bad_call=6)
    saving = Saving(tmp_path, every_steps=5)
    message = "not finite at step 6; lower the learning rate, clip"
    with pytest.raises(FloatingPointError, match=message):
        fit(made, log_every=10, saving=saving)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000005.safetensors"]


@pytest.fixture
def interruptible():
    """SIGINT as at a terminal: background jobs are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_step_and_the_same_call_goes_on(number, tmp_path):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def on_step(report):
        if report.step == 5:
            os.kill(os.getpid(), number)

    saving = Saving(tmp_path)
    with pytest.raises(Interrupted, match=rf"by {number.name} after step 5 of 10, .*goes on") as e:
        fit(make(dropout=0.1), saving=saving, ema=0.9, on_step=on_step)
    assert e.value.step == 5
    assert e.value.checkpoint == latest(tmp_path)
    assert load_checkpoint(e.value.checkpoint).step == 5
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    method, _, done = fit(make(0.1, seed=1), saving=saving, ema=0.9)
    whole, _, all_at_once = fit(make(0.1), ema=0.9)
    assert done.resumed_from == 5
    assert equal(weights(method), weights(whole))
    assert equal(weights(done.ema), weights(all_at_once.ema))
    # and once more: there is nothing left to do
    again, reports, done = fit(make(0.1, seed=2), saving=saving, ema=0.9)
    assert (done.resumed_from, reports) == (10, [])
    assert equal(weights(again), weights(whole))


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_is_not_held_back_and_without_a_folder_nothing_is_saved():
    def insist(report):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second interrupt was lost")

    with pytest.raises(KeyboardInterrupt):
        fit(on_step=insist)

    def ask(report):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(
        Interrupted, match="after step 1 of 10, nothing was saved: it had no folder"
    ):
        fit(on_step=ask)


def test_a_signal_during_the_last_checkpoint_is_not_lost(tmp_path, monkeypatch):
    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return state.save_checkpoint(*args, **kwargs)

    monkeypatch.setattr("a2mim.training.loop.save_checkpoint", signalled)
    with pytest.raises(Interrupted, match="after step 3 of 3, saved in"):
        fit(steps=3, saving=Saving(tmp_path))
    assert fit(steps=3, saving=Saving(tmp_path))[2].resumed_from == 3


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts background jobs
    try:
        _, reports, _ = fit(steps=2, on_step=lambda r: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(reports) == 2


def test_other_threads_may_train_but_do_not_take_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(steps=2)[1]))
    thread.start()
    thread.join()
    assert [r.step for r in found[0]] == [1, 2]


def test_checkpoints_by_steps_and_minutes(tmp_path, monkeypatch):
    names = []

    def listed(report):
        names.append(sorted(int(p.stem[5:]) for p in tmp_path.glob("*.safetensors")))

    fit(steps=7, saving=Saving(tmp_path, every_steps=3, keep=2), on_step=listed)
    # reports come before the checkpoint of their step
    assert names == [[], [], [], [3], [3], [3], [3, 6]]
    assert latest(tmp_path).name == "step-000000007.safetensors"
    names.clear()
    monkeypatch.setattr("a2mim.training.loop._Watch.due", lambda self: len(names) == 2)
    (tmp_path / "m").mkdir()
    fit(steps=4, saving=Saving(tmp_path / "m", every_minutes=1), on_step=listed)
    assert [p.name[5:14] for p in sorted((tmp_path / "m").iterdir())] == ["000000002", "000000004"]


@pytest.mark.parametrize("killed_at", [5, 8])
def test_exports_are_the_weights_of_their_steps_though_it_was_killed(killed_at, tmp_path):
    """Checkpoints are of other steps: killed at 5, it has exported what it does again."""

    def kill(report):
        if report.step == killed_at + 1:
            raise RuntimeError("killed")

    whole, parts = {}, {}
    options = {"ema": 0.9, "log_every": 1}
    saving = Saving(tmp_path / "whole", export=whole.__setitem__, export_steps=5)
    method, _, done = fit(saving=saving, **options)
    assert list(whole) == [0, 5, 10]
    start = weights(make()[0])
    for step, model, average in ((0, start, start), (10, weights(method), weights(done.ema))):
        expected = {f"model/{k}": v for k, v in model.items()}
        expected |= {f"ema/{k}": v for k, v in average.items()}
        assert equal(whole[step], expected)
    saving = Saving(tmp_path / "parts", every_steps=4, export=parts.__setitem__, export_steps=5)
    with pytest.raises(RuntimeError, match="killed"):
        fit(saving=saving, on_step=kill, **options)
    before = dict(parts)
    assert fit(saving=saving, **options)[2].resumed_from == (4 if killed_at == 5 else 8)
    assert list(parts) == [0, 5, 10]
    assert all(equal(parts[step], whole[step]) for step in whole)
    assert all(equal(before[step], whole[step]) for step in before)


def test_a_run_goes_on_only_as_itself(tmp_path):
    saving = Saving(tmp_path, settings={"crop": 0.2})
    fit(steps=2, saving=saving)
    with pytest.raises(CheckpointError, match=r"run\.crop: 0\.2 there, 0\.4 here; use the same"):
        fit(steps=2, saving=Saving(tmp_path, settings={"crop": 0.4}))
    with pytest.raises(CheckpointError, match=r"batch_size: 6 there, 4 here; use"):
        fit(steps=2, saving=saving, batch_size=4)
    with pytest.raises(CheckpointError, match=r"lr\.0: 0\.01 there, 0\.5 here; lr\.1: .*; use"):
        fit(steps=2, saving=saving, lr=lambda step, scale: 0.5 * scale)
    with pytest.raises(CheckpointError, match=r"kind: AdamW there, SGD here"):
        fit(make(sgd=True), steps=2, saving=saving)
    with pytest.raises(CheckpointError, match=r"an empty folder for a new run, found .*step-00"):
        fit(steps=2, saving=saving, resume=False)
    fit(steps=2, saving=saving, accumulate=3, workers=1, channels_last=True)  # the same run


def test_a_checkpoint_that_cannot_be_written_ends_it(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    def then_full(report):
        if report.step == 3:
            monkeypatch.setattr(state, "save_file", full)

    saving = Saving(tmp_path, every_steps=2)
    with pytest.raises(CheckpointError, match=r"step 4 .*No space left on device; the last good"):
        fit(saving=saving, on_step=then_full)
    monkeypatch.undo()
    method, _, done = fit(make(seed=1), saving=saving)
    assert done.resumed_from == 2
    assert equal(weights(method), weights(fit()[0]))


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="either steps or epochs, got 10 and 2"):
        fit(epochs=2)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        fit(steps=0)
    with pytest.raises(ValueError, match="every 1 or more steps, got 0"):
        fit(log_every=0)
    with pytest.raises(ValueError, match="micro-batches divide, got 6; use a multiple of 4"):
        fit(accumulate=4)
    with pytest.raises(ValueError, match="optimiser over parameters of the method"):
        fit((make()[0], make()[1]))
    with pytest.raises(ValueError, match="several processes for fsdp, got 1; start more"):
        fit(fsdp=True)
    with pytest.raises(ValueError, match="bfloat16 or float32 with fsdp, got float16"):
        _check_fsdp(2, "float16", False)
    with pytest.raises(ValueError, match="fsdp or channels_last, got both"):
        _check_fsdp(2, "no", True)
    with pytest.raises(ValueError, match="checkpoints every positive steps, got 0"):
        Saving(tmp_path, every_steps=0)
    with pytest.raises(ValueError, match="keep at least 1 checkpoint, got 0"):
        Saving(tmp_path, keep=0)
    with pytest.raises(ValueError, match="1 or more steps, got 0"):
        Saving(tmp_path, export_steps=0)


@pytest.fixture(scope="module")
def processes(tmp_path_factory, tars):
    """What four processes left that were started, two of them killed, and two sharing a run."""
    folder = tmp_path_factory.mktemp("processes")
    shutil.copytree(tars[0].parent, folder / "tars")
    statuses, log = run_processes(folder)
    assert statuses == [-signal.SIGKILL, -signal.SIGKILL, 0, 0], log
    return folder


def run_processes(folder, *what):
    done = subprocess.run(
        [sys.executable, __file__, folder, *what],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bits(workers, processes):
    folder = processes / f"{workers}"
    assert latest(folder).name == "step-000000005.safetensors"  # epochs have 3 steps
    whole, reports, _ = fit(make(0.1), log_every=2, ema=0.9)
    saving = Saving(folder, every_steps=5)
    method, rest, done = fit(
        make(0.1, seed=1), log_every=2, ema=0.9, saving=saving, workers=2 - workers
    )
    assert done.resumed_from == 5
    assert equal(weights(method), weights(whole))
    assert [r.losses for r in rest] == [r.losses for r in reports if r.step > 5]


def be_killed(folder, workers):
    def on_step(report):
        if report.step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    saving = Saving(folder, every_steps=5)
    fit(make(0.1), log_every=2, ema=0.9, saving=saving, workers=workers, on_step=on_step)


@pytest.mark.integration
def test_two_processes_are_one(processes):
    one, reports, _ = fit(make(sgd=True), clip=1.0)
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    # One loss is a mean of three numbers there and of six here: the last bits differ.
    losses = torch.tensor([r.losses["loss"] for r in reports], dtype=torch.float64)
    assert (found[0]["losses"] - losses).abs().max() < 1e-5
    assert deviation(found[0]["weights"], weights(one)) < 1e-5
    assert equal(found[0]["weights"], found[1]["weights"])
    assert len(found[1]["losses"]) == 0  # reports go to the first process
    # A signal to one of them has stopped both, at the next step that is logged; one goes on.
    assert [f["interrupted"] for f in found] == [6, 6]
    assert [f["name"] for f in found] == ["a signal to another process", "SIGTERM"]
    assert [f["checkpoint"] for f in found] == ["step-000000006.safetensors"] * 2
    saving = Saving(processes / "saved")
    method, _, done = fit(make(sgd=True, seed=1), clip=1.0, saving=saving)
    assert done.resumed_from == 6
    assert deviation(weights(method), weights(one)) < 1e-5


@pytest.mark.integration
def test_two_processes_with_labels_are_one(processes):
    one, reports, _ = fit(make_classifier(), labels_I=LABELS)
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    losses = torch.tensor([r.losses["loss"] for r in reports], dtype=torch.float64)
    assert (found[0]["labelled losses"] - losses).abs().max() < 1e-5
    assert deviation(found[0]["labelled"], weights(one)) < 1e-5


@pytest.mark.integration
def test_two_processes_count_an_unreadable_image_once(processes):
    """Four epochs: each of them meets both."""
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [f["known"] for f in found] == [[3, 11]] * 2
    assert found[0]["skipped"] == sorted(found[0]["skipped"])
    assert found[0]["skipped"][-1] == 2
    assert fit()[1][-1].skipped is None  # these cannot be unreadable


@pytest.mark.integration
def test_two_processes_end_together_when_too_much_is_unreadable(processes):
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    one, two = (f["too many"] for f in found)
    assert one == two
    assert one.startswith("expected at most 1 unreadable images among ")
    assert ", got 2, which warnings name; repair or remove them" in one
    # Alone, a process ends at the image that is one too many.
    few = DatasetSamples(Damaged(), lambda image, generator: image / 255, 0, Tolerance(1, 0.0))
    few.damage.together = True  # as a run before may have left it
    with pytest.raises(DataError, match=r"got 2: image 3 of Damaged, image 11 of Damaged; "):
        fit(samples=few)


@pytest.mark.integration
def test_two_processes_say_which_parameters_have_no_gradient(processes):
    for rank, reports in enumerate((10, 0)):
        found = torch.load(processes / f"{rank}.pt", weights_only=True)
        assert "\n" not in found["missed"]
        assert "or use unused_parameters=True" in found["missed"]
        assert found["not missed"] == reports


@pytest.mark.integration
def test_two_processes_share_a_stream_or_refuse_it(processes):
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [f["one shard"] for f in found] == [
        "expected a shard for each of 2 ranks, got 1; write smaller shards, or use TarSamples"
    ] * 2
    assert equal(found[0]["streamed"], found[1]["streamed"])
    assert equal(found[0]["streamed"], found[0]["streamed in two parts"])
    assert "stream.processes: 2 there, 1 here" in refused(processes / "streamed", found)


def refused(folder, found):
    stream = stream_of(sorted((folder.parent / "tars").iterdir()))
    with pytest.raises(CheckpointError) as caught:
        fit(make(0.1), samples=stream, batch_size=4, saving=Saving(folder))
    return str(caught.value)


@pytest.mark.integration
def test_two_processes_with_half_the_weights_are_one(processes):
    """Everything that is kept: weights, averages, the optimiser's state, norms, checkpoints."""
    one, reports, done = fit(heavy(), clip=1.0, ema=0.9)
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key in ("fsdp", "fsdp accumulated", "fsdp resumed"):
        assert deviation(found[0][key], weights(one)) < 1e-5, key
        assert equal(found[0][key], found[1][key]), key
    assert equal(found[0]["fsdp"], found[0]["fsdp resumed"])
    for key in ("loss", "norm"):
        expected = [r.losses["loss"] if key == "loss" else r.grad_norm for r in reports]
        difference = found[0][f"fsdp {key}"] - torch.tensor(expected, dtype=torch.float64)
        assert difference.abs().max() < 1e-5, key
    assert deviation(found[0]["fsdp ema"], weights(done.ema)) < 1e-5
    sizes = [f["fsdp numbers"] for f in found]
    assert sum(sizes) == sum(p.numel() for p in one.parameters())
    assert max(sizes) < 0.6 * sum(sizes)


@pytest.mark.integration
def test_what_two_processes_saved_in_parts_one_goes_on_with(processes):
    one, reports, done = fit(heavy(), clip=1.0, ema=0.9)
    saving = Saving(processes / "for one")
    method, rest, again = fit(heavy(), clip=1.0, ema=0.9, saving=saving)
    assert again.resumed_from == 6
    for a, b in zip(rest, reports[6:], strict=True):
        assert a.losses == pytest.approx(b.losses, abs=1e-5)
    assert deviation(weights(method), weights(one)) < 1e-5
    assert deviation(weights(again.ema), weights(done.ema)) < 1e-5


@pytest.mark.integration
def test_a_slow_copy_in_halves_is_one(processes):
    method = fit(make_relaxed())[0]
    found = [torch.load(processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key in ("slow", "fsdp slow", "fsdp slow accumulated"):
        assert deviation(found[0][key], weights(method)) < 1e-5, key
        assert equal(found[0][key], found[1][key]), key
    start = make_relaxed()[0].target.state_dict()
    assert deviation(method.target.state_dict(), start) > 1e-3
    assert deviation(method.target.backbone.state_dict(), method.backbone.state_dict()) > 1e-3


@pytest.mark.slow  # a minute in the compiler
def test_two_processes_compile_half_the_weights(tmp_path):
    statuses, log = run_processes(tmp_path, "compiled")
    assert statuses == [0, 0], log
    one, _, _ = fit(make(sgd=True), clip=1.0)
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    assert deviation(found, weights(one)) < 1e-5


def share_compiled(folder, rank, port):
    join(rank, port)
    method, _, _ = fit(make(sgd=True), clip=1.0, fsdp=True, compile=True)
    torch.save(weights(method), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def join(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "WORLD_SIZE": "2"}
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "LOCAL_WORLD_SIZE": "2"}


def share(folder, rank, port):
    join(rank, port)
    method, reports, _ = fit(make(sgd=True), clip=1.0)
    found = {"weights": weights(method)}
    found["losses"] = torch.tensor([r.losses["loss"] for r in reports], dtype=torch.float64)

    class Signalled(Noise):
        loaded = 0

        def load(self, index, epoch):
            self.loaded += 1
            if rank == 1 and self.loaded == 3 * 5:  # in step 4, the fifth
                os.kill(os.getpid(), signal.SIGTERM)
            return super().load(index, epoch)

    saving = Saving(folder / "saved")
    with pytest.raises(Interrupted) as caught:
        fit(make(sgd=True), samples=Signalled(), clip=1.0, log_every=3, saving=saving)
    found |= {"interrupted": caught.value.step, "name": caught.value.signal}
    found["checkpoint"] = caught.value.checkpoint.name
    method, reports, _ = fit(make_classifier(), labels_I=LABELS)
    found["labelled"] = weights(method)
    found["labelled losses"] = torch.tensor([r.losses["loss"] for r in reports]).double()
    found |= share_a_stream(folder, rank) | share_weights(folder, rank, Signalled)
    found |= share_damage() | miss_gradients()
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def share_a_stream(folder, rank):
    shards = sorted((folder / "tars").iterdir())
    with pytest.raises(ValueError, match="a shard for each of 2 ranks") as caught:
        fit(samples=stream_of(shards[:1]), batch_size=4)
    found = {"one shard": str(caught.value)}
    options = {"samples": stream_of(shards), "batch_size": 4, "log_every": 4}
    found["streamed"] = weights(fit(make(0.1), **options)[0])

    def signal_itself(report):  # the first process, after step 4: an epoch has 3
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    saving = Saving(folder / "streamed")
    with pytest.raises(Interrupted):
        fit(make(0.1), **options, saving=saving, on_step=signal_itself)
    found["streamed in two parts"] = weights(fit(make(0.1), **options, saving=saving)[0])
    return found


class Damaged:
    """Pictures, of which two cannot be read."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index in (3, 11):
            raise OSError("damaged")
        return torch.full((3, 8, 8), index, dtype=torch.uint8)


def share_damage():
    samples = DatasetSamples(Damaged(), lambda image, generator: image / 255, 0, Tolerance(2))
    _, reports, _ = fit(samples=samples)
    few = DatasetSamples(Damaged(), lambda image, generator: image / 255, 0, Tolerance(1, 0.0))
    with pytest.raises(DataError) as caught:
        fit(samples=few, workers=1)
    return {
        "skipped": [r.skipped for r in reports],
        "known": samples.damage.indices(),
        "too many": str(caught.value),
    }


def miss_gradients():
    class Superfluous(Tiny):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.head_of_nothing = nn.Linear(2, 2)

    with pytest.raises(ValueError, match="a gradient for every parameter") as caught:
        fit(make(method=Superfluous))
    _, reports, _ = fit(make(method=Superfluous), unused_parameters=True)
    return {"missed": str(caught.value), "not missed": len(reports)}


def share_weights(folder, rank, signalled):
    made = heavy()
    kept = list(made[0].parameters())
    method, reports, done = fit(made, clip=1.0, ema=0.9, fsdp=True)
    assert all(a is b for a, b in zip(kept, method.parameters(), strict=True))
    assert not any(isinstance(t, DTensor) for t in method.state_dict().values())
    assert not any(isinstance(t, DTensor) for t in done.ema.state_dict().values())
    assert all(made[1].state[p]["momentum_buffer"].shape == p.shape for p in kept)
    with torch.no_grad():  # a plain module again, on this process alone
        method(torch.zeros(1, 3, 8, 8), torch.ones(1, 4, dtype=torch.bool))
    found = {"fsdp": weights(method), "fsdp ema": weights(done.ema)}
    found["fsdp loss"] = torch.tensor([r.losses["loss"] for r in reports], dtype=torch.float64)
    found["fsdp norm"] = torch.tensor([r.grad_norm for r in reports], dtype=torch.float64)
    own, _, _ = fit(heavy(), clip=1.0, ema=0.9, fsdp=True, accumulate=3)
    found["fsdp accumulated"] = weights(own)

    class Counted(Tiny):
        def draw(self, images, seed):
            found["fsdp numbers"] = sum(p.to_local().numel() for p in self.parameters())
            return super().draw(images, seed)

    fit(heavy(method=Counted), steps=2, fsdp=True)
    exports: dict = {}
    saving = Saving(folder / "shared", export=exports.__setitem__, export_steps=6)
    made = heavy()
    with pytest.raises(Interrupted) as caught:
        fit(
            made,
            samples=signalled(),
            clip=1.0,
            ema=0.9,
            fsdp=True,
            log_every=3,
            saving=saving,
        )
    saved = load_checkpoint(caught.value.checkpoint).tensors
    assert equal(
        {f"model/{k}": v for k, v in weights(made[0]).items()},
        {k: v for k, v in saved.items() if k.startswith("model/")},
    )
    assert list(exports) == ([] if rank else [0, 6])
    if exports:
        assert equal(exports[6], {k: saved[k] for k in saved if k.startswith(("model/", "ema/"))})
    if rank == 0:
        shutil.copytree(saving.folder, folder / "for one")
    torch.distributed.barrier()
    again, _, _ = fit(heavy(), clip=1.0, ema=0.9, fsdp=True, saving=saving)
    found["fsdp resumed"] = weights(again)
    found["slow"] = weights(fit(make_relaxed())[0])
    found["fsdp slow"] = weights(fit(make_relaxed(), fsdp=True)[0])
    found["fsdp slow accumulated"] = weights(fit(make_relaxed(), fsdp=True, accumulate=3)[0])
    return found


def forked(work, *arguments):
    """A process like this one: four imports of torch would take most of the time."""
    process = os.fork()
    if process:
        return process
    try:
        torch.set_num_threads(1)  # not before: threads of a fork may not find the pool of before
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder, what="everything"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if what == "compiled":
        children = [forked(share_compiled, folder, rank, port) for rank in (0, 1)]
    else:
        children = [forked(be_killed, folder / f"{workers}", workers) for workers in (0, 2)]
        children += [forked(share, folder, rank, port) for rank in (0, 1)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    json.dump([os.waitstatus_to_exitcode(status) for status in statuses], sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
