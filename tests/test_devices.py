"""What runs on an accelerator gives the numbers of the CPU, and no tensor is on the wrong side.

Each case runs on a real accelerator where there is one (mark ``gpu``), and elsewhere on a pretended
one: its tensors say that they are on cuda:0, hold their numbers on the CPU, and refuse what CUDA
would refuse, such as the sum of a tensor here and one there. It has no gradients, because autograd
asks the driver.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from timm import create_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import interactions as ix
from a2mim.data.arrays import ImageSet
from a2mim.data.augment import CentreCrop, CropAndFlip
from a2mim.data.resident import resident
from a2mim.data.sampler import keyed_generator
from a2mim.data.samples import ArraySamples
from a2mim.methods.mae import MaskedAutoencoder
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.methods.siamese import ContrastiveMAE, RelaxedMAE
from a2mim.probes.features import Features, evaluate, extract
from a2mim.probes.knn import knn_probe
from a2mim.probes.linear import SgdRecipe, linear_probe, sgd_probe
from a2mim.training.mixing import Mixing
from a2mim.training.supervised import FineTuning
from interactions import fills
from interactions.features.invariance import invariance
from interactions.features.spectrum import spectrum
from interactions.keys import torch_seeded
from interactions.networks.lesion import lesion
from interactions.occlusion.masks import OCCLUDERS
from interactions.occlusion.predictions import occlude
from interactions.occlusion.saliency import class_attention
from interactions.orders.estimator import measure_each, measure_one

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ATEN = torch.ops.aten


class Pretended(torch.Tensor):
    """A tensor that says it is on cuda:0; its numbers are in ``here``."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=CUDA,
        )

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return on_pretended_devices(operation, args, kwargs or {})

    # What torch computes without passing an operation:

    def tolist(self):
        return self.here.tolist()

    def new_tensor(self, data):
        return Pretended(self.here.new_tensor(data))

    def numpy(self, *_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


class PretendedDevice(TorchDispatchMode):
    """Also sees operations on plain tensors: those that make one on, or copy one to, the device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return on_pretended_devices(operation, args, kwargs or {})


def on_pretended_devices(operation, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [isinstance(tensor, Pretended) for tensor in tensors]
    copies = operation in (ATEN._to_copy.default, ATEN.copy_.default)
    if any(there) and not copies:
        # CUDA takes numbers and indices from the CPU, but no index from CUDA into the CPU.
        indexing = operation.overloadpacket in (ATEN.index, ATEN.index_put, ATEN.index_put_)
        checked = tensors[:1] if indexing else [t for t in tensors if t.ndim]
        if not all(isinstance(tensor, Pretended) for tensor in checked):
            raise RuntimeError(f"expected one device, got cuda:0 and cpu in {operation}")
    device = kwargs.get("device")
    to = None if device is None else torch.device(device).type
    if to == "cuda":
        kwargs = kwargs | {"device": CPU}
    plain_args, plain_kwargs = tree_map_only(Pretended, lambda t: t.here, (args, kwargs))
    result = operation(*plain_args, **plain_kwargs)
    for tensor in tensors:
        if result is getattr(tensor, "here", tensor):  # changed in place
            return tensor
    if to == "cuda" or (any(there) and to != "cpu"):
        return tree_map_only(torch.Tensor, Pretended, result)
    return result


@contextmanager
def pretended():
    torch._C._ensureCUDADeviceGuardSet()
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "synchronize": lambda *_: None,
        "reset_peak_memory_stats": lambda *_: None,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 2**20,
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=2**24),
    }
    with ExitStack() as stack:
        for name, replacement in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        # Parameters become new ones, since nothing could be put into the old.
        replaced = "get_overwrite_module_params_on_conversion"
        stack.enter_context(mock.patch.object(torch.__future__, replaced, return_value=True))
        # Inference tensors cannot be wrapped.
        stack.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))
        stack.enter_context(
            mock.patch.object(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
        )
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(PretendedDevice())
        stack.enter_context(torch.no_grad())
        yield


BUILT_FOR_CUDA = pytest.mark.skipif(
    torch.cuda.is_available() or not torch.backends.cuda.is_built(),
    reason="a real device is there, or this torch is built without CUDA",
)


@pytest.fixture(
    params=[
        pytest.param((pretended, 1e-5), id="pretended", marks=BUILT_FOR_CUDA),
        pytest.param((nullcontext, 1e-4), id="real", marks=pytest.mark.gpu),
    ]
)
def agrees(request):
    """A check that a function of the device gives the numbers of the CPU on the other one."""
    context, tolerance = request.param

    def check(run):
        expected = numbers(run(CPU))
        with context():
            found = numbers(run(CUDA))
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)

    return check


def numbers(result):
    """All there is in a tensor, a table or a dictionary of tensors, as arrays."""
    if isinstance(result, dict):
        return [array for value in result.values() for array in numbers(value)]
    if isinstance(result, pd.DataFrame):
        return [result.select_dtypes("number").to_numpy(float)]
    return [torch.as_tensor(result).detach().cpu().double().numpy()]


GRID = ix.PatchGrid(4, 4)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5
NAMES = list("abcdef")
COALITIONS = torch.rand(9, 16, generator=torch.Generator().manual_seed(1)) < 0.5
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def network(kind, device, classes=5):
    with torch_seeded(0):
        name, options = ("vit_tiny_patch16_224", SMALL) if kind == "vit" else ("test_resnet", {})
        return create_model(name, num_classes=classes, **options).eval().to(device)


BOTH = pytest.mark.parametrize("kind", ["vit", "cnn"])


@BUILT_FOR_CUDA
def test_the_pretended_device_refuses_what_cuda_does():
    with pretended():
        here, there = torch.ones(2), torch.ones(2, device="cuda")
        assert there.device == CUDA
        assert (there + there).device == CUDA
        assert (there + torch.tensor(1.0)).cpu().tolist() == [2, 2]
        assert there[torch.tensor([0])].tolist() == [1]
        for wrong in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: here[torch.zeros(1, dtype=torch.int64, device="cuda")],
            lambda: there.lerp_(here, 0.5),
        ):
            with pytest.raises(RuntimeError, match="expected one device"):
                wrong()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()


@BOTH
@pytest.mark.parametrize("batch_size", [4, None])
def test_games(kind, batch_size, agrees):
    def run(device):
        model = network(kind, device)
        return ix.PatchGame(model, IMAGES[0], 1, GRID, batch_size=batch_size)(COALITIONS)

    agrees(run)


FILLS = {
    "zero": fills.zero,
    "image mean": fills.image_mean,
    "black": fills.black(MEAN, STD),
    "blur": fills.blur(2.0),
    "noise": fills.noise(0),
}


@pytest.mark.parametrize("name", FILLS)
def test_fills_of_a_game(name, agrees):
    def run(device):
        model = network("cnn", device)
        return ix.PatchGame(model, IMAGES[0], 1, GRID, fill=FILLS[name], batch_size=4)(COALITIONS)

    agrees(run)


def test_the_estimator(agrees):
    def run(device):
        game = ix.PatchGame(network("vit", device), IMAGES[0], 1, GRID)
        return measure_one(game, ix.Design(ix.NeighbourPairs(GRID, count=2))).mean_PO

    agrees(run)


class Waits(TorchDispatchMode):
    """Operations for which the host waits for the device, as they come."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        there = any(isinstance(leaf, Pretended) for leaf in tree_leaves((args, kwargs)))
        to = (kwargs or {}).get("device")
        fetched = operation is ATEN._to_copy.default and to is not None
        fetched = fetched and torch.device(to).type == "cpu"
        copied = operation is ATEN.copy_.default and not isinstance(args[0], Pretended)
        asked = operation.overloadpacket in (
            ATEN._local_scalar_dense,
            ATEN.equal,
            ATEN.masked_select,
            ATEN.nonzero,
            ATEN._unique2,
        )
        masks = operation.overloadpacket in (ATEN.index, ATEN.index_put, ATEN.index_put_)
        masks = masks and any(
            isinstance(leaf, Pretended) and leaf.dtype == torch.bool
            for leaf in tree_leaves(args[1])
        )
        if there and (fetched or copied or asked or masks):
            self.found.append(str(operation))
        return operation(*args, **(kwargs or {}))


@BUILT_FOR_CUDA
def test_what_waits_for_the_device_is_seen():
    with pretended(), Waits() as spy:
        there = torch.ones(2, device="cuda")
        there[there > 0] = there.sum()
        assert spy.found == ["aten.index_put_.default"]
        there.sum().item()
        there.nonzero()
        there.cpu()
        assert len(spy.found) == 4


@BUILT_FOR_CUDA
@pytest.mark.parametrize("kind", ["vit", "cnn", "token_drop"])
def test_nothing_waits_for_the_device_within_an_image(kind):
    """However many batches an image takes: its values are fetched once, all together."""
    design = ix.Design(ix.NeighbourPairs(GRID, count=1), ix.Windows(2, 2), ratios=(0, 0.5, 1))

    def waits(batch_size):
        with pretended():
            model, batches = network("cnn" if kind == "cnn" else "vit", CUDA), []
            make = ix.TokenDropGame if kind == "token_drop" else ix.PatchGame
            games = [
                make(model, image, 1, GRID, str(k), batch_size=batch_size)
                for k, image in enumerate(IMAGES[:2])
            ]
            games[0](COALITIONS[:1])  # once for each network, two ways to compose are compared
            inner = model.global_pool if kind == "cnn" else model.norm
            inner.register_forward_hook(lambda *_: batches.append(1))
            with Waits() as spy:
                list(measure_each(games, design))
        return spy.found, len(batches)

    (few, in_few), (many, in_many) = waits(64), waits(2)
    assert in_many > 2 * in_few
    assert many == few == ["aten._to_copy.default"] * 2


class Uploads(TorchDispatchMode):
    """How often something is copied to the device."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        to = (kwargs or {}).get("device")
        sent = operation is ATEN._to_copy.default and not isinstance(args[0], Pretended)
        put = operation is ATEN.copy_.default and not isinstance(args[1], Pretended)
        put = put and isinstance(args[0], Pretended)
        self.found += put or (sent and to is not None and torch.device(to).type == "cuda")
        return operation(*args, **(kwargs or {}))


@BUILT_FOR_CUDA
@pytest.mark.parametrize("fill", ["image_mean", "noise", None])
def test_batches_of_masked_images_neither_wait_for_the_device_nor_send_it_anything(fill):
    """Images, masks and fills go there once for all batches; measures come back once."""

    def counted(batch_size):
        filler = fills.uniform_noise(MEAN, STD) if fill == "noise" else fill
        with pretended():
            model, batches = network("vit", CUDA), []
            model.norm.register_forward_hook(lambda *_: batches.append(1))
            with Waits() as waits, Uploads() as uploads:
                occlude(
                    model,
                    IMAGES,
                    LABELS,
                    GRID,
                    "random",
                    fractions=(0, 0.5, 0.75),
                    fill=filler,
                    batch_size=batch_size,
                )
        return len(waits.found), uploads.found, len(batches)

    (*few, in_few), (*many, in_many) = counted(64), counted(2)
    assert in_many > 2 * in_few
    assert few == many
    kinds = 1 if fill else 2  # of masks: tokens of one number share a batch
    assert many[0] <= 2 + kinds
    assert many[1] <= 7 + kinds


def test_dropped_tokens(agrees):
    def run(device):
        return ix.TokenDropGame(network("vit", device), IMAGES[0], 1, GRID)(COALITIONS)

    agrees(run)


def test_encoders(agrees):
    def run(device):
        games = ix.encoder_games(network("cnn", device, classes=0), IMAGES[:2], GRID)
        return torch.cat([game(COALITIONS) for game in games])

    agrees(run)


@pytest.mark.parametrize("name", ["random", "complement", "block", "salient", "mae"])
def test_effects(name, agrees):
    saliency = torch.rand(6, 16, generator=torch.Generator().manual_seed(2)).double()

    def run(device):
        model = network("cnn", device)
        return occlude(model, IMAGES, LABELS, GRID, OCCLUDERS[name], saliency_IN=saliency)

    agrees(run)


@pytest.mark.parametrize(
    "fill", [None, fills.random_colour(MEAN, STD), fills.uniform_noise(MEAN, STD)]
)
def test_effects_of_tokens_left_out_and_of_drawn_fills(fill, agrees):
    def run(device):
        return occlude(network("vit", device), IMAGES, LABELS, GRID, OCCLUDERS["random"], fill=fill)

    agrees(run)


def test_attention(agrees):
    agrees(lambda device: class_attention(network("vit", device), IMAGES, None))


@BOTH
def test_lesions(kind, agrees):
    def run(device):
        model = network(kind, device)
        with lesion(model, "blocks.1" if kind == "vit" else "layer2", fraction=0.5):
            return model(IMAGES.to(device))

    agrees(run)


@BOTH
def test_invariance(kind, agrees):
    def run(device):
        model = network(kind, device)
        fresh = network(kind, device)
        options = {"fractions": (0.25, 0.5), "repeats": 2, "cka_batch": 6}
        return invariance(model, [IMAGES], GRID, untrained=fresh, **options)

    agrees(run)


@BOTH
def test_spectra(kind, agrees):
    images = IMAGES if kind == "vit" else nn.functional.interpolate(IMAGES, size=128)
    agrees(lambda device: spectrum(network(kind, device), [images]))


@BOTH
@pytest.mark.parametrize("what", ["features", "top-1"])
def test_images_of_a_loader(kind, what, agrees):
    pixels = torch.randint(
        0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    images = ImageSet(pixels, LABELS, tuple(NAMES), tuple("vwxyz"))
    samples = ArraySamples(images, CentreCrop(32, share=1.0), seed=0)

    def run(device):
        model = network(kind, device)
        if what == "top-1":
            return evaluate(model, samples, batch_size=4).accuracy
        return extract(model, samples, batch_size=4).features_ID

    agrees(run)


@pytest.mark.parametrize("size", [16, 48])
def test_crops_of_images_on_the_device(size, agrees):
    generator = torch.Generator().manual_seed(5)
    shape = (20, 3, 32, 28)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    names = tuple(str(k) for k in range(20))
    images = ImageSet(pixels, torch.zeros(20, dtype=torch.int64), names, ("all",))
    augment = CropAndFlip(size)
    samples = resident(ArraySamples(images, augment, seed=0), augment, seed=0)
    agrees(lambda device: samples.batch(range(20), [1] * 20, device))


@pytest.mark.parametrize("kind", ["knn", "lbfgs", "sgd"])
def test_probes(kind, agrees):
    labels = torch.arange(300) % 3
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(4))
    features[:, 0] += 6 * labels
    probe = {
        "knn": partial(knn_probe, k=5),
        "lbfgs": partial(linear_probe, weight_decays=(1e-3,)),
        "sgd": partial(sgd_probe, recipe=SgdRecipe((0.1,), epochs=2, batch_size=30)),
    }[kind]

    def run(device):
        given = Features(features.to(device), labels.to(device))
        return probe(given, given).predictions_J

    agrees(run)


def a2mim(kind, **options):
    size = 32 if kind == "vit" else 64
    return MaskedImageModel(
        network(kind, CPU, classes=0), BlockMask(size, block=size // 2), **options
    )


DECODER = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
METHODS = {
    "A2MIM, ViT": lambda: a2mim("vit", loss="official-vit"),
    "A2MIM, CNN": lambda: a2mim("cnn", loss="official-r50", token="damped", decoder_depth=1),
    "SimMIM": lambda: a2mim("vit", loss="simmim", token="replace", fill=None),
    "HOG": lambda: a2mim("vit", loss="simmim", target="hog", residual=True),
    "mean token": lambda: a2mim("vit", token_init="mean", fill=fills.noise(0)),
    "mean token of an image": lambda: a2mim("vit", token_init="instance_mean", fill=fills.zero),
    "fine-tuning": lambda: FineTuning(network("cnn", CPU), Mixing(group=4), 0.1, "binary"),
}
WITH_PLACES = {
    "MAE": lambda vit: MaskedAutoencoder(vit, **DECODER),
    "R-MAE": lambda vit: RelaxedMAE(vit, 0.5, momentum=0.9, **DECODER),
    "C-MAE": lambda vit: ContrastiveMAE(vit),
}


@pytest.mark.parametrize("name", [*METHODS, *WITH_PLACES])
def test_methods(name, agrees):
    """Masks are drawn on the device."""

    def run(device):
        with torch_seeded(0):
            method = (
                METHODS[name]() if name in METHODS else WITH_PLACES[name](network("vit", CPU, 0))
            )
        method.to(device)
        images = IMAGES if name != "A2MIM, CNN" else nn.functional.interpolate(IMAGES, size=64)
        # As many as in one group of mixed images.
        images = images[:4].to(device)
        if name == "fine-tuning":
            drawn = method.draw(4, keyed_generator(0)).to(device)
        else:
            drawn = method.draw(torch.arange(4).to(device), 0)
        labels = (LABELS[:4].to(device),) if name == "fine-tuning" else ()
        with torch.no_grad():
            return method(images, drawn, *labels)

    agrees(run)
