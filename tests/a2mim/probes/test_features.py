import json
import random
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from timm.data import create_transform
from timm.models import MlpMixer
from torch import nn
from torch.nn import functional

from a2mim.data.arrays import ImageSet
from a2mim.data.augment import CentreCrop, CropAndFlip, PilTransform
from a2mim.data.folders import DataError
from a2mim.data.limits import Tolerance
from a2mim.data.samples import ArraySamples, FolderSamples, find_training_files
from a2mim.probes import features
from a2mim.probes.features import Features, Readout, evaluate, extract

SIZE, COUNT, CLASSES = 32, 21, 7


def images(count=COUNT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    names = tuple(f"image-{k}" for k in range(count))
    return ImageSet(pixels, torch.arange(count) % CLASSES, names, tuple("abcdefg"))


def array_samples(augment=None, **kwargs):
    return ArraySamples(images(**kwargs), augment or CentreCrop(SIZE, share=1.0), seed=3)


def vit(**kwargs):
    options = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return timm.create_model(
        "vit_tiny_patch16_224", **{**options, "num_classes": CLASSES, **kwargs}
    )


def beit():
    return timm.create_model(
        "beit_base_patch16_224",
        **{"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2},
    )


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        **{"img_size": SIZE, "patch_size": 2, "window_size": 2, "embed_dim": 12},
        **{"depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    )


def shaken(model):
    """Norms and positions that are not those of a new network, so that leaving one out shows."""
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer += torch.rand(buffer.shape)
    return model


def batch():
    samples = array_samples()
    return torch.stack([samples.load(k, 0) for k in range(COUNT)])


def by_hand(model, compute):
    model.eval()
    with torch.no_grad():
        return compute(model, batch())


def assert_near(found, expected):
    """Up to 1e-5 of the largest: sums of float32 that cancel have no more digits than that."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def blocks(model, x, stop):
    """A ViT's tokens after some blocks, without the help of forward_intermediates."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks[:stop]:
        x = block(x)
    return x


READOUTS = [
    ("vit", Readout(), lambda m, x: m.norm(blocks(m, x, 3))[:, 0]),
    ("vit", Readout("class_token"), lambda m, x: m.norm(blocks(m, x, 3))[:, 0]),
    ("vit", Readout("mean"), lambda m, x: m.norm(blocks(m, x, 3))[:, 1:].mean(1)),
    ("vit", Readout("mean", norm=False), lambda m, x: blocks(m, x, 3)[:, 1:].mean(1)),
    ("vit", Readout("mean", 2, norm=False), lambda m, x: blocks(m, x, 2)[:, 1:].mean(1)),
    ("vit", Readout("mean", 2), lambda m, x: m.norm(blocks(m, x, 2))[:, 1:].mean(1)),
    ("vit", Readout("class_token", 1, norm=False), lambda m, x: blocks(m, x, 1)[:, 0]),
    ("vit", Readout("class_token", 3), lambda m, x: m.norm(blocks(m, x, 3))[:, 0]),
    ("gap", Readout(), lambda m, x: m.fc_norm(blocks(m, x, 3)[:, 1:].mean(1))),
    ("gap", Readout("mean"), lambda m, x: m.fc_norm(blocks(m, x, 3)[:, 1:].mean(1))),
    ("gap", Readout("mean", norm=False), lambda m, x: blocks(m, x, 3)[:, 1:].mean(1)),
    ("gap", Readout("class_token"), lambda m, x: m.fc_norm(blocks(m, x, 3)[:, 0])),
    ("registers", Readout("mean"), lambda m, x: m.norm(blocks(m, x, 3))[:, 4:].mean(1)),
    ("beit", Readout("mean", 3), lambda m, x: m.forward_head(m.forward_features(x), True)),
    ("resnet", Readout(), lambda m, x: m.forward_features(x).mean((2, 3))),
    ("resnet", Readout("mean"), lambda m, x: m.forward_features(x).mean((2, 3))),
    ("resnet", Readout("mean", 5), lambda m, x: m.forward_features(x).mean((2, 3))),
    (
        "resnet",
        Readout("mean", 2),
        lambda m, x: m.layer1(m.maxpool(m.act1(m.bn1(m.conv1(x))))).mean((2, 3)),
    ),
    ("convnext", Readout("mean"), lambda m, x: m.forward_head(m.forward_features(x), True)),
    ("convnext", Readout("mean", norm=False), lambda m, x: m.forward_features(x).mean((2, 3))),
    ("swin", Readout("mean"), lambda m, x: m.forward_head(m.forward_features(x), True)),
    ("swin", Readout("mean", norm=False), lambda m, x: m.layers(m.patch_embed(x)).mean((1, 2))),
    ("mixer", Readout("mean"), lambda m, x: m.forward_head(m.forward_features(x), True)),
]
MODELS = {
    "vit": vit,
    "gap": lambda: vit(global_pool="avg"),
    "registers": lambda: vit(reg_tokens=3),
    "beit": beit,
    "resnet": lambda: timm.create_model("test_resnet"),
    "convnext": lambda: timm.create_model("test_convnext"),
    "swin": swin,
    "mixer": lambda: MlpMixer(img_size=SIZE, patch_size=8, embed_dim=16, num_blocks=2),
}


@pytest.mark.parametrize(("model", "readout", "compute"), READOUTS)
def test_readouts_by_hand(model, readout, compute):
    model = shaken(MODELS[model]())
    found = extract(model, array_samples(), readout=readout, batch_size=8)
    expected = by_hand(model, compute)
    assert found.features_ID.dtype == torch.float32
    assert_near(found.features_ID, expected)
    assert torch.equal(found.labels_I, torch.arange(COUNT) % CLASSES)
    # without an axis of the graph: they can be trained on
    assert not found.features_ID.is_inference()
    assert not found.features_ID.requires_grad


def test_registers_without_a_class_token():
    """Prefix tokens alone are no class token."""
    model = shaken(vit(class_token=False, reg_tokens=3, global_pool="avg"))
    found = extract(model, array_samples(), readout=Readout("mean", 3, norm=False))
    expected = by_hand(model, lambda m, x: blocks(m, x, 3)[:, 3:].mean(1))
    assert_near(found.features_ID, expected)
    with pytest.raises(ValueError, match="VisionTransformer has none; use 'mean'"):
        extract(model, array_samples(), readout=Readout("class_token"))


@pytest.mark.parametrize(
    ("model", "readout", "setting"),
    [
        ("vit", Readout(), {"pool": "pooled", "global_pool": "token"}),
        ("resnet", Readout(), {"pool": "pooled", "global_pool": "avg"}),
        ("convnext", Readout(), {"pool": "pooled", "global_pool": "avg"}),
        (
            "vit",
            Readout("mean", 2, norm=False),
            {"pool": "mean", "after": "blocks.1 (2 of 3)", "final_norm": []},
        ),
        (
            "gap",
            Readout("mean"),
            {"pool": "mean", "after": "forward_features", "final_norm": ["fc_norm"]},
        ),
        (
            "resnet",
            Readout("mean", 2),
            {"pool": "mean", "after": "layer1 (2 of 5)", "final_norm": []},
        ),
        (
            "convnext",
            Readout("mean"),
            {"pool": "mean", "after": "forward_features", "final_norm": ["head.norm"]},
        ),
        (
            "swin",
            Readout("mean", norm=False),
            {"pool": "mean", "after": "layers.3 (4 of 4)", "final_norm": []},
        ),
    ],
)
def test_a_readout_says_what_it_is(model, readout, setting):
    assert readout.setting(MODELS[model]()) == setting


def test_any_module_gives_its_output():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
    found = extract(model, array_samples(), batch_size=4)
    torch.testing.assert_close(found.features_ID, by_hand(model, lambda m, x: m(x)))
    assert found.setting["model"] == "Sequential"
    assert found.setting["readout"] == {"pool": "pooled", "global_pool": None}
    assert json.loads(json.dumps(found.setting)) == found.setting


@pytest.mark.parametrize(
    ("model", "readout", "message"),
    [
        ("resnet", Readout("class_token"), "ResNet has none; use 'mean'"),
        ("vit", Readout("mean", 4), "a block from 1 to 3 of VisionTransformer, got 4"),
        ("vit", Readout("mean", 0), "a block from 1 to 3 of VisionTransformer, got 0"),
        ("swin", Readout("mean", 2), "96 channels for the final norm 'norm', got 24"),
        ("convnext", Readout("mean", 2), "64 channels for the final norm 'head.norm', got"),
        ("linear", Readout("mean"), "expected a timm model for the readout 'mean', got Flatten"),
        ("linear", Readout("mean", 1), "timm model with forward_intermediates, got Flatten"),
        ("map", Readout(), r"a vector per image from Identity, got \(21, 3, 32, 32\)"),
        ("pit", Readout("mean"), "which tokens of PoolingVisionTransformer are patches"),
        ("cait", Readout("class_token", 1), "after every block, Cait has one at its end only"),
    ],
)
def test_what_a_model_lacks(model, readout, message):
    more = {
        "linear": nn.Flatten,
        "map": nn.Identity,
        "pit": lambda: timm.create_model(
            "pit_ti_224", img_size=SIZE, patch_size=4, stride=4, base_dims=(8, 8, 8)
        ),
        "cait": lambda: timm.create_model("cait_xxs24_224", img_size=SIZE, depth=1, embed_dim=16),
    }
    with pytest.raises(ValueError, match=message):
        extract({**MODELS, **more}[model](), array_samples(), readout=readout)


def test_pooled_is_the_models_own():
    for wrong in ({"block": 2}, {"norm": False}):
        with pytest.raises(ValueError, match="use 'mean' or 'class_token'"):
            Readout("pooled", **wrong)
    with pytest.raises(ValueError, match="'pooled', 'class_token' or 'mean', got 'max'"):
        Readout("max")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 8)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("model", ["vit", "resnet"])
@pytest.mark.usefixtures("small_chunks")
def test_features_depend_on_neither_batch_size_nor_workers_nor_resuming(model, tmp_path):
    model = shaken(MODELS[model]())
    samples = array_samples(CropAndFlip(SIZE))
    whole = extract(model, samples, batch_size=COUNT)
    for kwargs in ({"batch_size": 1}, {"batch_size": 5}, {"batch_size": 5, "workers": 2}):
        other = extract(model, samples, **kwargs)
        assert_near(other.features_ID, whole.features_ID)
        assert torch.equal(other.labels_I, whole.labels_I)
        assert other.setting == whole.setting

    seen = []
    forward_features = model.forward_features

    def counted(x):
        seen.append(len(x))
        return forward_features(x)

    model.forward_features = counted

    def stop(done, total):
        assert total == COUNT
        if done > 12:
            raise Stopped

    with pytest.raises(Stopped):
        extract(model, samples, batch_size=5, cache=tmp_path / "a", on_batch=stop)
    assert seen == [5, 3, 5]  # a batch ends where a chunk does
    assert [file.name for file in sorted((tmp_path / "a").iterdir())] == [
        "features-000000000.safetensors",
        "features.json",
    ]
    seen.clear()
    told = []
    resumed = extract(
        model, samples, batch_size=5, cache=tmp_path / "a", on_batch=lambda *n: told.append(n)
    )
    assert seen == [5, 3, 5]  # images 8 to 20: the first chunk is not made again
    assert told == [(13, COUNT), (16, COUNT), (21, COUNT)]
    assert torch.equal(resumed.features_ID, extract(model, samples, batch_size=5).features_ID)
    assert torch.equal(resumed.labels_I, whole.labels_I)
    seen.clear()
    again = extract(model, samples, batch_size=7, workers=2, cache=tmp_path / "a")
    assert seen == []
    assert torch.equal(again.features_ID, resumed.features_ID)


@pytest.mark.usefixtures("small_chunks")
def test_a_cache_of_something_else_is_refused(tmp_path):
    model = shaken(vit())
    samples = array_samples()
    extract(model, samples, cache=tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def refused(what, model=model, samples=samples, **kwargs):
        with pytest.raises(DataError, match=f"its {what} differ .*use another folder"):
            extract(model, samples, cache=tmp_path, **kwargs)

    refused("readout", readout=Readout("mean"))
    refused("precision", precision="bfloat16")
    refused("images", samples=array_samples(seed=1))
    refused("images", samples=array_samples(count=20))
    refused("images", samples=array_samples(CentreCrop(SIZE, share=0.9)))
    refused("images", samples=ArraySamples(images(), CropAndFlip(SIZE), seed=3))
    renamed = replace(images(), names=tuple(f"other-{k}" for k in range(COUNT)))
    refused("images", samples=ArraySamples(renamed, CentreCrop(SIZE, share=1.0), seed=3))
    refused("weights", model=shaken(vit()))
    heads = vit(num_heads=3)
    heads.load_state_dict(model.state_dict())
    refused("weights", model=heads)
    pools = vit(global_pool="avg", fc_norm=False)
    pools.load_state_dict(model.state_dict())
    refused("weights and readout", model=pools)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    extract(model, samples, cache=tmp_path)


@pytest.mark.usefixtures("small_chunks")
def test_a_damaged_cache(tmp_path):
    model, samples = nn.Flatten(), array_samples()
    extract(model, samples, cache=tmp_path)
    file = tmp_path / "features-000000008.safetensors"
    data = file.read_bytes()
    rows = load_file(file)
    file.write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"cannot read .*000008\.safetensors: .*; remove it to go"):
        extract(model, samples, cache=tmp_path)
    save_file(rows, file)  # a chunk of some other cache
    with pytest.raises(DataError, match="holds others; remove it"):
        extract(model, samples, cache=tmp_path)
    file.write_bytes(data)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(DataError, match="cannot use"):
        extract(model, samples, cache=tmp_path)
    (tmp_path / "features.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list"):
        extract(model, samples, cache=tmp_path)
    with pytest.raises(DataError, match=r"cannot use .*; choose another"):
        extract(model, samples, cache=file)


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_loses_one_chunk(tmp_path, monkeypatch):
    model, samples = nn.Flatten(), array_samples()
    write = features.write_whole

    def full(file, data, **options):
        if file.name == "features-000000008.safetensors":
            raise OSError("no space left")
        write(file, data, **options)

    monkeypatch.setattr(features, "write_whole", full)
    with pytest.raises(DataError, match="cannot: no space left; make room and start again"):
        extract(model, samples, cache=tmp_path)
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "features-000000000.safetensors",
        "features.json",
    ]


def test_batch_norms_and_modes_stay_as_they_were():
    model = shaken(timm.create_model("test_resnet"))
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    rng = torch.get_rng_state()
    found = extract(model, array_samples(), batch_size=4)
    evaluate(model, array_samples(), batch_size=4)

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        extract(model, array_samples(), on_batch=stop)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(rng, torch.get_rng_state())
    again = extract(model.eval(), array_samples(), batch_size=4)
    assert torch.equal(found.features_ID, again.features_ID)


def test_bf16():
    model = shaken(vit())
    exact = extract(model, array_samples()).features_ID
    found = extract(model, array_samples(), precision="bfloat16")
    assert found.features_ID.dtype == torch.float32
    difference = (found.features_ID - exact).norm() / exact.norm()
    assert 0 < difference < 0.03
    assert found.setting["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="an accelerator for float16"):
        extract(model, array_samples(), precision="float16")
    with pytest.raises(ValueError, match="got 'half'"):
        extract(model, array_samples(), precision="half")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(12):
        place = tmp_path / "set" / ("cat" if k % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k:02d}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_named(folder, workers, tmp_path):
    files = find_training_files(folder)
    whole = extract(nn.Flatten(), FolderSamples(files, CentreCrop(16), seed=0))
    before = evaluate(nn.Flatten(), FolderSamples(files, CentreCrop(16), seed=0))
    (folder / files.names[4]).write_bytes(b"")
    rest = [k for k in range(12) if k != 4]
    for _ in range(2):  # also from the cache
        samples = FolderSamples(files, CentreCrop(16), seed=0)
        found = extract(nn.Flatten(), samples, workers=workers, cache=tmp_path / "cache")
        assert torch.equal(found.features_ID, whole.features_ID[rest])
        assert torch.equal(found.labels_I, whole.labels_I[rest])
        assert found.setting["left_out"] == [4]
    judged = evaluate(nn.Flatten(), samples, workers=workers)
    assert torch.equal(judged.rank_I, before.rank_I[rest])
    assert torch.equal(judged.labels_I, before.labels_I[rest])
    assert judged.setting["left_out"] == [4]
    assert "left_out" not in before.setting
    strict = FolderSamples(files, CentreCrop(16), 0, Tolerance(0, 0))
    with pytest.raises(DataError, match=f"at most 0 unreadable .* got 1: .*{files.names[4]}"):
        evaluate(nn.Flatten(), strict, workers=workers)


def test_folders_and_pillow_transforms(folder):
    """timm's evaluation transform, by hand and through workers; a random one does not matter."""
    files = find_training_files(folder)
    transform = create_transform((3, 16, 16), crop_pct=1.0)
    samples = FolderSamples(files, PilTransform(transform), seed=0)
    found = extract(nn.Flatten(), samples, batch_size=5, workers=2)
    for k, name in enumerate(files.names):
        expected = transform(Image.open(folder / name)).flatten()
        assert torch.equal(found.features_ID[k], expected)
    assert torch.equal(found.labels_I, files.labels_I)
    training = PilTransform(create_transform((3, 16, 16), True, auto_augment="rand-m9-mstd0.5"))
    samples = FolderSamples(files, training, seed=0)
    alone = extract(nn.Flatten(), samples)
    random.random()
    assert torch.equal(
        extract(nn.Flatten(), samples, batch_size=5, workers=2).features_ID, alone.features_ID
    )


def test_a_number_that_is_none():
    model = vit()
    model.norm.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="for 21 images, first image-0; see"):
        extract(model, array_samples())
    with pytest.raises(FloatingPointError, match="for 21 images"):
        evaluate(model, array_samples())


def test_evaluation_by_hand():
    model = shaken(vit())
    samples = array_samples()
    logits = by_hand(model, lambda m, x: m(x))
    found = evaluate(model, samples, batch_size=4)
    log_p = functional.log_softmax(logits, 1)
    labels = samples.labels_I
    order = logits.argsort(1, descending=True)
    torch.testing.assert_close(found.log_p_I, log_p[torch.arange(COUNT), labels])
    assert torch.equal(found.predicted_I, order[:, 0])
    assert torch.equal(found.top1_I, order[:, 0] == labels)
    assert torch.equal(found.top5_I, (order[:, :5] == labels[:, None]).any(1))
    assert found.accuracy == (order[:, 0] == labels).double().mean()
    wilson = binomtest(int(found.top1_I.sum()), COUNT).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((wilson.low, wilson.high))
    assert 0 < found.top1_I.sum() < found.top5_I.sum() < COUNT
    other = evaluate(model, samples, labels.flip(0), batch_size=COUNT, workers=2)
    assert torch.equal(other.predicted_I, found.predicted_I)
    assert torch.equal(other.top1_I, order[:, 0] == labels.flip(0))
    assert set(found.setting) == {"model", "weights", "precision", "images"}


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images_BCHW):
        return self.logits.expand(len(images_BCHW), -1)


def test_a_network_that_says_nothing_is_not_always_right():
    found = evaluate(Constant([0.5] * CLASSES), array_samples())
    assert torch.equal(found.rank_I, torch.arange(COUNT) % CLASSES)
    assert found.accuracy == pytest.approx(1 / CLASSES)
    torch.testing.assert_close(found.log_p_I, torch.full((COUNT,), -np.log(CLASSES)).float())
    assert evaluate(Constant([0.0] * 5), array_samples(), torch.arange(COUNT) % 5).top5_I.all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"int64 labels \(21,\), got torch.int64 \(3,\)"),
        (torch.zeros(COUNT), "got torch.float32"),
        (torch.full((COUNT,), -1), "classes from 0 on, got -1"),
        (torch.full((COUNT,), CLASSES), r"more than 7 classes, got torch.Size\(\[21, 7\]\)"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Constant([0.0] * CLASSES), array_samples(), labels)


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="a batch of at least 1, got 21 and 0"):
        extract(nn.Flatten(), array_samples(), batch_size=0)
    with pytest.raises(ValueError, match="got 0 and 256"):
        extract(nn.Flatten(), array_samples(count=0))
    with pytest.raises(ValueError, match="expected features"):
        Features(torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        Features(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))

    class Bare:
        load = staticmethod(array_samples().load)

        def __len__(self):
            return COUNT

    assert extract(nn.Flatten(), Bare()).labels_I is None
    with pytest.raises(ValueError, match="Bare has none; pass labels_I"):
        evaluate(Constant([0.0] * CLASSES), Bare())
