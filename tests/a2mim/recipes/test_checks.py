from dataclasses import replace

import pytest

from a2mim.messages import UsageError
from a2mim.recipes.checks import check
from a2mim.recipes.pretrain import METHODS, RECIPES, changed, with_method


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("a2mim", {"warmup": 60}, "warmup (60) must be below epochs (60)"),
        ("a2mim", {"batch_size": 0}, "--batch-size of at least 1, got 0"),
        ("a2mim", {"knn_every": 0}, "--knn-every of at least 1"),
        ("a2mim", {"ema": 1.5}, "--ema between 0 and 1"),
        ("a2mim", {"fsdp": True, "knn_every": 1}, "no k-NN probes with --fsdp"),
        ("a2mim", {"knn_data": "digits"}, "--knn-every with --knn-data, got no probes"),
        ("a2mim", {"few": 0}, "--few of at least 1"),
        ("a2mim", {"few_seed": 3}, "--few with --few-seed, got all images"),
        ("a2mim", {"epoch_images": 0}, "--epoch-images of at least 1"),
        ("cmae", {"batch_size": 4, "accumulate": 4}, "at least 2 images at once"),
        ("cmae", {"head": ()}, "--head of at least 1 layer"),
        ("cmae-tokens", {"channels": 0}, "--channels of at least 1, got 0"),
        ("cmae-tokens", {"batch_size": 4, "accumulate": 4}, "at least 2 images at once"),
        ("a2mim", {"stream_images": 9}, "--stream-images for stream:PATTERN alone, got it for dig"),
        ("a2mim", {"shuffle_buffer": 9}, "--shuffle-buffer for stream:PATTERN alone"),
        ("a2mim", {"shuffle_buffer": 0}, "--shuffle-buffer of at least 1"),
        ("a2mim", {"crop_pct": 1.5}, "--crop-pct above 0 and at most 1, got 1.5"),
        ("a2mim", {"unreadable": 2}, "--unreadable of at least 0 and at most 1, got 2"),
        ("a2mim", {"unreadable": 0.5}, "--unreadable for images in files, got it for digits"),
        ("a2mim", {"exact_decoding": True}, "--exact-decoding for images in files, got it for dig"),
        ("a2mim", {"token": "replace", "detach": True}, "--token add or damped with --detach"),
        ("a2mim", {"fill": "none"}, "--token replace or damped with --fill none, got add"),
        ("a2mim", {"model_kwargs": {"num_classes": 7}}, "without num_classes, got num_classes=7"),
        ("a2mim", {"trackers": ("tensorboard",) * 2}, "tracker once, got tensorboard,tensorboard"),
        ("a2mim", {"schedule": "step", "final_lr": 1e-6}, "--schedule cosine with --final-lr"),
        ("a2mim", {"fsdp": True, "channels_last": True}, "--fsdp or --channels-last, got both"),
        ("a2mim", {"fsdp": True, "unused_parameters": True}, "--fsdp or --unused-parameters"),
        ("a2mim", {"weight_decay": -1}, "--weight-decay of at least 0, got -1"),
        ("a2mim", {"resident": -1}, "--resident of at least 0, got -1"),
        (
            "a2mim",
            {"data": "stream:a.tar", "stream_images": 9, "resident": 0},
            "--resident for images by index, got it for a stream",
        ),
        ("a2mim", {"depthwise": -1}, "--depthwise of at least 0, got -1"),
        ("mae", {"decoder": (16, 1, 0)}, "width and heads of --decoder above 0, got 16 1 0"),
        ("a2mim", {"trackers": ("wand",)}, "got 'wand'; did you mean wandb?"),
        ("a2mim", {"trackers": ("tensorboard", "clearml")}, "expected the package of the tracker"),
        ("a2mim", {"mean": (0.5,)}, "--mean and --std of 3 numbers"),
    ],
)
def test_bad_settings(method, changes, message):
    recipe = with_method(RECIPES["digits-vit"](), method)
    with pytest.raises(UsageError) as caught:
        check(changed(recipe, **changes), recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_recipe_says_itself_is_no_fault():
    """Where it means nothing, as the final rate of a step, it was not given by the user."""
    for recipe in (make() for make in RECIPES.values()):
        check(recipe, recipe)
    step = replace(RECIPES["digits-vit"](), schedule="step")
    check(step, step)
    for method in METHODS:
        mae = with_method(RECIPES["cifar10-mae"](), method)
        check(mae, mae)
