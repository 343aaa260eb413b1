"""Every recipe builds and makes a step, on small models of its family and small images."""

from dataclasses import replace

import pytest
import timm.data
import torch
from torchvision.transforms.functional import to_pil_image

from a2mim.data.sampler import keyed_generator
from a2mim.recipes.finetune import RECIPES
from a2mim.recipes.finetuning import judging_transform, method_of, optimiser_of, samples_of
from a2mim.recipes.training import schedule
from a2mim.training.optim import explain_groups

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
RESNET = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "zero_init_last": False}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
MODELS = {
    "simmim-vit": ("beit_base_patch16_224", VIT | {"use_abs_pos_emb": True}),
    "mae-vit": ("vit_base_patch16_224", VIT),
    "beit-vit": ("beit_base_patch16_224", VIT),
    "deit": ("vit_small_patch16_224", VIT),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "window_size": 2,
            "embed_dim": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
        },
    ),
    "rsb-a3-convnext": ("convnext_tiny", CONVNEXT),
    "spark-convnext": ("convnext_tiny", CONVNEXT),
    "rsb": ("resnet50", RESNET),
    "r50": ("resnet50", RESNET),
    "digits": ("vit_tiny_patch16_224", VIT),
    "cifar10": ("vit_tiny_patch16_224", VIT),
}


def small(name):
    """The recipe with groups of two images, and a model of its family."""
    model, options = next(MODELS[key] for key in MODELS if name.startswith(key))
    config = replace(RECIPES[name](), mix_group=2)
    return config, timm.create_model(model, num_classes=0, **options)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step(name):
    config, model = small(name)
    method = method_of(model, config, 7)
    optimiser = optimiser_of(method, config)
    before = {key: value.clone() for key, value in model.named_parameters()}
    images = torch.randn(4, 3, 32, 32, generator=keyed_generator(name))
    drawn = method.draw(4, keyed_generator(0))
    found = method(images, drawn, torch.tensor([0, 1, 2, 6]))
    assert found["output"].shape == (4, 7)
    assert found["loss"].isfinite()
    found["loss"].backward()
    optimiser.step()
    after = dict(model.named_parameters())
    assert not [key for key, value in after.items() if value.grad is None]
    learning = [key for key, value in after.items() if value.grad.any()]
    assert len(learning) > len(after) / 2
    assert all(not torch.equal(after[key], before[key]) for key in learning)


@pytest.mark.parametrize("name", RECIPES)
def test_its_images(name):
    """The recipe's transforms, on digits: sizes, and draws by key."""
    train, test = samples_of(replace(RECIPES[name](), data="digits"))
    config = RECIPES[name]()
    assert train.load(3, 0).shape == (3, config.train_size, config.train_size)
    assert test.load(3, 0).shape == (3, config.test_size, config.test_size)
    assert torch.equal(train.load(3, 1), train.load(3, 1))
    assert not torch.equal(train.load(3, 1), train.load(3, 2))
    assert torch.equal(test.load(3, 0), test.load(3, 1))


@pytest.mark.parametrize("name", RECIPES)
def test_a_label_says_what_it_is(name):
    text = RECIPES[name].__doc__
    assert text.splitlines()[0].endswith(".")
    if not name.startswith(("digits", "cifar10")):
        assert "Source:" in text
        assert "Expected:" in text


def test_vits_of_section_5_1():
    for name, epochs, accumulate, ema, repeats in (
        ("simmim-vit-s-ep100", 100, 1, None, 1),
        ("simmim-vit-s", 200, 1, None, 1),
        ("simmim-vit-b", 100, 1, 0.99996, 1),
        ("simmim-vit-l-ep100", 100, 2, 0.99996, 3),
        ("simmim-vit-l", 150, 2, 0.99996, 3),
    ):
        config = RECIPES[name]()
        assert (config.epochs, config.accumulate, config.ema) == (epochs, accumulate, ema)
        assert (config.batch_size, config.repeats) == (1024, repeats)
        assert config.lr == pytest.approx(2.5e-3 * 1024 / 256)
        config_betas = optimiser_of(method_of(small(name)[1], config, 2), config).defaults["betas"]
        assert config_betas == (0.9, 0.999)
        assert (config.optimiser, config.weight_decay, config.layer_decay) == ("adamw", 0.05, 0.65)
        assert (config.warmup, config.schedule, config.final_lr) == (20, "cosine", 1e-6)
        assert (config.clip, config.precision) == (5.0, "float16")
        assert (config.mixup, config.cutmix, config.smoothing) == (0.8, 1.0, 0.1)
        assert config.rand_augment == "rand-m9-mstd0.5-inc1"
        assert (config.colour_jitter, config.erasing, config.interpolation) == (
            *(0.4, 0.25),
            "bicubic",
        )
        assert (config.test_resize, config.test_size, config.pooling) == (256, 224, "mean")
        assert config.drop_path == 0.1
    assert (RECIPES["mae-vit-b"]().lr, RECIPES["mae-vit-l"]().lr) == (4e-3, 2e-3)
    for name in ("mae-vit-b", "mae-vit-l", "beit-vit-b", "deit-s"):
        assert (RECIPES[name]().warmup, RECIPES[name]().epochs) == (5, 100)
    deit = RECIPES["deit-s"]()
    assert (deit.lr, deit.layer_decay, deit.pooling, deit.clip) == (8e-3, 0.65, "token", 5.0)
    for name, size in (("swin", 224), ("swin-192", 192)):
        swin = RECIPES[name]()
        assert (swin.lr, swin.layer_decay, swin.weight_decay) == (5e-3, 0.9, 0.05)
        assert (swin.warmup, swin.epochs, swin.clip, swin.drop_path) == (20, 100, 5.0, 0.1)
        assert (swin.train_size, swin.test_size) == (size, size)


def test_rsb_of_section_5_1():
    for name, drop_path, ema in (
        ("rsb-a2-r50", 0.05, 0.9999),
        ("rsb-a2-r101", 0.1, None),
        ("rsb-a2-r152", 0.15, None),
        ("rsb-a2-r200", 0.2, None),
    ):
        a2 = RECIPES[name]()
        assert (a2.drop_path, a2.ema, a2.repeats) == (drop_path, ema, 3)
        assert (a2.epochs, a2.lr, a2.train_size) == (300, 5e-3, 224)
        assert a2.rand_augment == "rand-m7-mstd0.5-inc1"
    a3 = RECIPES["rsb-a3"]()
    assert (a3.drop_path, a3.ema, a3.repeats) == (0.0, None, 1)
    assert (a3.epochs, a3.lr, a3.train_size) == (100, 8e-3, 160)
    assert a3.rand_augment == "rand-m6-mstd0.5-inc1"
    assert RECIPES["rsb-a3-convnext-t"]().drop_path == 0.1
    for name in (name for name in RECIPES if name.startswith("rsb")):
        rsb = RECIPES[name]()
        assert (rsb.optimiser, rsb.weight_decay, rsb.batch_size) == ("lamb", 0.02, 2048)
        assert (rsb.loss, rsb.mixup, rsb.cutmix) == ("binary", 0.1, 1.0)
        assert (rsb.schedule, rsb.warmup, rsb.warmup_ratio) == ("plain-cosine", 5, 1e-5)
        assert (rsb.final_lr, rsb.precision, rsb.clip) == (1e-6, "float16", None)
        assert (rsb.test_resize, rsb.test_size) == (236, 224)


def test_other_cnns_of_section_5_1():
    for name, drop_path in (("spark-convnext-s", 0.4), ("spark-convnext-b", 0.5)):
        config = RECIPES[name]()
        assert (config.drop_path, config.lr, config.batch_size) == (drop_path, 4e-3, 4096)
        assert (config.accumulate, config.weight_decay, config.epochs) == (2, 0.05, 300)
        assert (config.warmup, config.final_lr, config.ema) == (5, 1e-6, 0.9999)
        assert (config.mixup, config.cutmix, config.smoothing) == (0.8, 1.0, 0.1)
        assert (config.erasing, config.clip, config.precision) == (0.25, None, "float16")
    tiny = RECIPES["spark-convnext-t"]()
    assert (tiny.lr, tiny.weight_decay, tiny.layer_decay) == (4e-4, 0.01, 0.7)
    assert (tiny.epochs, tiny.drop_path) == (400, 0.1)
    for name in ("r50-swin-ft", "r50-ft"):
        config = RECIPES[name]()
        assert (config.lr, config.batch_size, config.weight_decay) == (5e-3, 2048, 0.05)
        assert (config.warmup, config.epochs, config.final_lr) == (20, 100, 1e-6)
    assert RECIPES["r50-swin-ft"]().mixup == 0.8
    plain = RECIPES["r50-ft"]()
    assert (plain.mixup, plain.cutmix, plain.smoothing, plain.rand_augment) == (0, 0, 0, None)


def test_schedule_of_rsb_a2():
    """Section 4.5 of our notes: 300 epochs of 626 steps."""
    lr = schedule(RECIPES["rsb-a2-r50"](), 187_800, 626)
    for step, rate in {
        0: 5.0e-8,
        626: 1.000013e-3,
        3130: 4.996575e-3,
        100_000: 2.245885e-3,
    }.items():
        assert lr(step, 1.0) == pytest.approx(rate, rel=1e-6)


def test_schedule_of_vits_starts_at_zero_and_is_scaled_by_layer():
    lr = schedule(RECIPES["simmim-vit-b"](), 125_100, 1251)
    assert lr(0, 1.0) == 0
    assert lr(25_020, 1.0) == pytest.approx(1e-2)
    assert lr(25_020, 0.65) == pytest.approx(6.5e-3)
    assert lr(125_100, 0.65) == pytest.approx(1e-6)


def test_test_images_are_resized_as_published():
    """224 of 256 px as timm does it; 224 of 236 exactly, which 224 / 0.95 rounded down is not."""
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    expected = timm.data.create_transform(224, interpolation="bicubic", crop_pct=224 / 256)
    ours = judging_transform(RECIPES["simmim-vit-b"]())(image, keyed_generator(0))
    torch.testing.assert_close(ours, expected(to_pil_image(image)))
    steps = judging_transform(RECIPES["rsb-a3"]()).transform.transforms
    assert (steps[0].size, steps[0].interpolation.value) == (236, "bicubic")
    assert steps[1].size == (224, 224)


def test_what_does_not_decay():
    config, model = small("rsb-a2-r50")
    method = method_of(model, config, 7)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimiser_of(method, config).param_groups
        for parameter in group["params"]
    }
    for row in explain_groups(model, ()):
        decay = decays[id(model.get_parameter(row.name))]
        free = row.name.endswith("bias") or "bn" in row.name
        assert decay == (0 if free else pytest.approx(0.02)), row.name
