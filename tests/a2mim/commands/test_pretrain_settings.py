import pytest

from a2mim.commands.pretrain_settings import configured
from a2mim.messages import UsageError
from a2mim.recipes.pretrain import RECIPES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["epoch=3"], "did you mean epochs?"),
        (["epochs=ten"], "expected epochs as a whole number, got 'ten'"),
        (["token=swap"], "expected token as add or replace or damped, got 'swap'"),
        (["loss=l2"], "expected a loss of paper"),
        (["warmup=60"], "warm-up of less than the 60 epochs"),
        (["batch_size=0"], "batch_size above 0"),
        (["knn_every=0"], "knn_every above 0"),
        (["ema=1.5"], "expected ema between 0 and 1"),
        (["fsdp=True", "knn_every=1"], "expected no k-NN probes with fsdp"),
        (["knn_data=digits"], "expected knn_every with knn_data=digits, got no probes"),
        (["few=0"], "few above 0"),
        (["few_seed=3"], "expected few with few_seed=3, got all images"),
        (["epoch_images=0"], "epoch_images above 0"),
        (["method=simclr"], "expected method as a2mim or mae or rmae or cmae, got 'simclr'"),
        (
            ["momentum=0.99"],
            "momentum for rmae or cmae alone, got it for a2mim; leave it at None",
        ),
        (["method=mae", "view2=full"], "view2 for rmae or cmae alone, got it for mae"),
        (["method=cmae", "penalty_weight=0.5"], "penalty_weight for rmae alone, got it for cmae"),
        (["method=rmae", "temperature=0.2"], "temperature for cmae alone, got it for rmae"),
        (["method=rmae", "stop_gradient=both"], "stop_gradient as none or view1 or view2"),
        (["method=cmae", "negatives=all"], "expected level=token for negatives=all"),
        (["method=cmae", "level=token"], "head as one number of channels with level=token"),
        (["method=cmae", "batch_size=4", "accumulate=4"], "at least 2 images at once"),
        *(
            (["method=mae", change], f"{change.split('=')[0]} for a2mim alone, got it for mae")
            for change in (
                *("target=hog", "loss=paper", "fourier_weight=0.5", "token=replace"),
                *("token_init=zeros", "fill=none", "position=1", "depthwise=1"),
            )
        ),
        (["decoder=(16, 1, 2)"], "decoder for mae or rmae or cmae alone, got it for a2mim"),
        (["head=(16,)"], "head for cmae alone, got it for a2mim; leave it at (2048, 2048, 256)"),
        (["method=cmae", "decoder=(16, 1, 2)"], "expected level=token for decoder=(16, 1, 2)"),
        (["images=9"], "images for stream:PATTERN alone, got it for digits; leave it at None"),
        (["shuffle_buffer=9"], "shuffle_buffer for stream:PATTERN alone, got it for digits"),
        (["shuffle_buffer=0"], "shuffle_buffer above 0"),
        (["crop_pct=1.5"], "crop_pct above 0 and up to 1, got 1.5"),
        (["unreadable=2"], "unreadable as a share, as 0.01, got 2"),
        (["token=replace", "detach=True"], "token=add or token=damped with detach, got"),
        (["fill=none"], "token=replace or token=damped with fill=none, got token=add"),
        (["unreadable=0.5"], "unreadable for images in files, got it for digits"),
        (["options={'num_classes': 7}"], "without num_classes, got num_classes=7"),
        (["trackers=tensorboard,tensorboard"], "every tracker once, got tensorboard,tensorboard"),
        (["trackers=5"], "trackers as names, as one,two, got 5"),
        (["method=mae", "residual=True"], "residual for a2mim alone, got it for mae"),
        (["method=mae", "detach=True"], "detach for a2mim alone, got it for mae"),
        (["schedule=step", "final_lr=1e-6"], "schedule=cosine for final_lr=1e-06, got schedule"),
        (["fsdp=True", "channels_last=True"], "expected fsdp or channels_last, got both"),
        (["fsdp=True", "unused_parameters=True"], "expected fsdp or unused_parameters, got both"),
        (["weight_decay=-1"], "expected weight_decay of at least 0, got -1"),
        (["method=mae", "decoder=(16,)"], "decoder as 3 whole numbers, got (16,)"),
        (["method=mae", "decoder=(16, 1.5, 2)"], "decoder as 3 whole numbers"),
        (["method=mae", "decoder=(16, 1, 0)"], "width and heads of decoder, and channels of head"),
        (["trackers=wand"], "got 'wand'; did you mean wandb?"),
        (["trackers=tensorboard,clearml"], "expected the package of the tracker clearml, it is"),
        (["trackers=(1,)"], "trackers as names, got (1,)"),
        (["betas=(0.9,)"], "betas as 2 numbers, got (0.9,)"),
        (["mean=('a', 'b', 'c')"], "mean as numbers, got ('a', 'b', 'c')"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UsageError) as caught:
        configured("digits-vit", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recipes_of_mae_become_others():
    """What a recipe says itself is no change, and so no error where it means nothing."""
    for name in ("cifar10-mae", "cifar10-rmae", "cifar10-cmae", "mae-vit-b-in1k"):
        for method in ("a2mim", "mae", "rmae", "cmae"):
            assert configured(name, [f"method={method}"]).method == method
    for name, recipe in RECIPES.items():
        assert configured(name, []) == recipe()
