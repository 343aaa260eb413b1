"""Pre-training runs, one function each: `a2mim configs` lists them, `a2mim pretrain NAME` runs one.

Sources: the configurations of the official code (repositories Westlake-AI/A2MIM and
Westlake-AI/openmixup), read for our notes; MAE: He et al., CVPR 2022. Facts of the code are certain
unless a label says otherwise; the paper gives some of them differently (loss, token position).
Learning rates are peak rates at the batch size given.

Arithmetic: bfloat16 with TF32 on a GPU and float32 on a CPU, but float16 where the source says so,
which the label of the run then tells.

What the official code leaves open: published ViT runs were probably done in mixed precision, though
their configurations say float32. Its ViT has absolute positions and a relative-position bias, which
is timm's `Beit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from a2mim.data.limits import BUFFER, TOLERANCE
from a2mim.settings.numbers import ABOVE_0, Within
from a2mim.settings.weights import ModelKwargs
from a2mim.training.trackers import by_default

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
DIGITS = {"mean": (0.305,) * 3, "std": (0.376,) * 3}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


@dataclass(frozen=True)
class A2mim:
    """Settings of A2MIM; SimMIM is one of them.

    Attributes:
        fill: what hidden pixels become: zero is the data's mean colour, because images are
            normalised; noise is one pattern for all images, named by the seed; none leaves them to
            a token that replaces or damps what comes from them.
        position: where the mask token enters, as the official code counts; None: the family's.
        token: how the mask token enters.
        token_init: what it starts as, whether it learns, or of which features it is the mean.
        detach: whether no gradient passes back into hidden features, but through an instance_mean.
        depthwise: depth-wise convolutions before the decoder.
        target: what is predicted.
        residual: whether as the difference from the mean of the image's target.
        loss: preset of losses.
        fourier_weight: lambda of the Fourier loss; None: the preset's.
    """

    name: ClassVar = "a2mim"

    fill: Literal["image_mean", "zero", "black", "white", "noise", "none"] = "image_mean"
    position: int | None = None
    token: Literal["add", "replace", "damped"] = "add"
    token_init: Literal[
        "normal", "zeros", "frozen_zeros", "frozen_normal", "mean", "instance_mean"
    ] = "normal"
    detach: bool = False
    depthwise: Annotated[int, Within(0)] = 0
    target: Literal["rgb", "hog"] = "rgb"
    residual: bool = False
    loss: Literal[
        "paper", "official-vit", "official-r50", "official-r101", "official-cnn-nofreq", "simmim"
    ] = "official-vit"
    fourier_weight: float | None = None


@dataclass(frozen=True)
class Mae:
    """Settings of MAE.

    Attributes:
        decoder: width, depth and heads of the decoder.
    """

    name: ClassVar = "mae"

    decoder: tuple[int, int, int] = (512, 8, 16)


View2 = Annotated[
    Literal["complement", "full"],
    tyro.conf.arg(help="What the second view shows: what the first hides, or all."),
]
StopGradient = Annotated[
    Literal["none", "view1", "view2"],
    tyro.conf.arg(help="The view through which the loss between views sends no gradient."),
]
Momentum = Annotated[
    float | None,
    tyro.conf.arg(help="Of the slow copy that encodes the second view; None: no copy."),
]


@dataclass(frozen=True)
class Rmae:
    """Settings of R-MAE.

    Attributes:
        decoder: width, depth and heads of both decoders.
        penalty_weight: lambda.
    """

    name: ClassVar = "rmae"

    decoder: tuple[int, int, int] = (512, 8, 16)
    penalty_weight: float = 1.0
    view2: View2 = "complement"
    stop_gradient: StopGradient = "none"
    momentum: Momentum = None


@dataclass(frozen=True)
class Cmae:
    """Settings of C-MAE that compares images.

    Attributes:
        head: channels after each layer of the head.
        temperature: tau.
    """

    name: ClassVar = "cmae"
    level: ClassVar = "image"

    head: Annotated[tuple[int, ...], Within(1)] = (2048, 2048, 256)
    temperature: float = 0.1
    view2: View2 = "complement"
    stop_gradient: StopGradient = "none"
    momentum: Momentum = None


@dataclass(frozen=True)
class CmaeTokens:
    """Settings of C-MAE that compares tokens.

    Attributes:
        decoder: width, depth and heads of the blocks of the head.
        channels: of the vectors that are compared.
        negatives: what a token is told from; images from other images.
        temperature: tau.
    """

    name: ClassVar = "cmae"
    level: ClassVar = "token"

    decoder: tuple[int, int, int] = (512, 8, 16)
    channels: Annotated[int, Within(1)] = 256
    negatives: Literal["images", "positions", "all"] = "images"
    temperature: float = 0.1
    view2: View2 = "complement"
    stop_gradient: StopGradient = "none"
    momentum: Momentum = None


Method = A2mim | Mae | Rmae | Cmae | CmaeTokens
METHODS: dict[str, type[Method]] = {
    "a2mim": A2mim,
    "mae": Mae,
    "rmae": Rmae,
    "cmae": Cmae,
    "cmae-tokens": CmaeTokens,
}
"""Methods by the names that ``--method`` takes."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pre-training run.

    Attributes:
        backbone: name of a timm model.
        model_kwargs: what it is made with, beyond the image size and that it has no classifier.
        positions: of a ViT that learns them: as timm draws them, or sines to begin with, as of
            MAE, from which a small network learns faster.
        method: what is learned from, and its settings.
        image_size: edge of the images in pixels.
        block: edge of a mask block in pixels; for MAE, R-MAE and C-MAE that of a patch.
        mask_ratio: hidden share of the blocks.
        data: a set by name (digits, cifar10, ...), folder:PATH (searched in depth: links are
            followed, hidden files and folders left out), tar:PATTERN (local shards) or
            stream:PATTERN (shards from anywhere, with --stream-images); to be given where empty.
        stream_images: images in all shards of a stream, which cannot count them; for streams alone.
        shuffle_buffer: images that wait in every worker to be shuffled; for streams alone.
        unreadable: the largest share of images that may be unreadable: of those read so far, or of
            all in a stream; unless it is 0, ten always may.
        resident: MiB that a set of images may need, as uint8 of the size of its largest one, to be
            held in memory on the device and cropped there, without workers; crops are drawn anew,
            so they are not those of a set that is read from files. 0: none is.
        few: how many of the images are used, again and again; None: all.
        few_seed: random seed of the choice of these.
        epoch_images: images per epoch, whose number of steps they decide; None: as many as there
            are in all, so that a few images make as many steps.
        mean: mean colour of the normalisation.
        std: standard deviation of the normalisation.
        crop: smallest and largest share of the area of a crop.
        flip: probability of a horizontal flip.
        exact_decoding: whether large JPEG files are decoded in full. Else they are decoded, faster,
            at 1/2, 1/4 or 1/8 of their size while the crop keeps 1.25 times as many pixels a side
            as are needed; that differs about as much as bilinear resizing from bicubic. Images that
            are held in memory are decoded in full in any case.
        crop_pct: share of the shorter edge that images keep in k-NN probes, and wherever else the
            backbone is used as it says of itself.
        epochs: passes over the data.
        batch_size: images per optimiser step, over all processes.
        accumulate: micro-batches per step and process.
        lr: peak learning rate.
        final_lr: where a cosine ends; a step ends at a tenth of the peak.
        warmup: epochs of linear warm-up.
        schedule: cosine from where warm-up ends; plain_cosine over all epochs, times the warm-up;
            or step: a tenth from 7/8 of the epochs on.
        betas: of AdamW.
        weight_decay: of AdamW.
        rules: table of parameter groups.
        clip: largest norm of the gradient; None does not clip.
        ema: decay per step of averaged weights, which are saved beside the last ones; None: none.
        precision: arithmetic: float32 (IEEE), tf32, or mixed precision; None: bfloat16 with TF32 on
            a GPU, float32 on a CPU.
        compile: whether to use torch.compile, which takes a minute at first; None: on a GPU, where
            Triton and a C compiler are.
        channels_last: layout of images and kernels in memory; None: on CUDA devices without fsdp.
        sync_batchnorm: whether batch norms see the images of all processes.
        unused_parameters: with several processes, look for parameters without a gradient; some
            backbones have such.
        fsdp: whether to shard parameters over processes (FSDP2).
        knn_every: epochs between k-NN probes of images with classes; None: no probes.
        knn_data: these images, a set by name or folder:PATH, if not those of the training.
        trackers: where reports go too, by accelerate's names: tensorboard is a folder of the run,
            the default if TensorBoard is installed; wandb, mlflow, comet_ml and others need their
            packages.
        seed: random seed.
        workers: processes that read images.
        keep: how many checkpoints stay.
        save_every: epochs between checkpoints.
        export_every: epochs between backbones that stay in the run folder, from the untrained one
            on (``exports/epoch-0020``), so that what they have learned can be measured over
            training; None: only the last one.
    """

    backbone: str
    model_kwargs: ModelKwargs = field(default_factory=dict)
    positions: Literal["drawn", "sines"] = "drawn"
    method: tyro.conf.OmitArgPrefixes[tyro.conf.AvoidSubcommands[Method]] = field(
        default_factory=A2mim
    )
    image_size: int = 224
    block: int = 32
    mask_ratio: float = 0.6
    data: str = ""
    stream_images: Annotated[int | None, Within(1)] = None
    shuffle_buffer: Annotated[int, Within(1)] = BUFFER
    unreadable: Annotated[float, Within(0, 1)] = TOLERANCE.share
    resident: Annotated[int, Within(0)] = 2048
    few: Annotated[int | None, Within(1)] = None
    few_seed: int = 0
    epoch_images: Annotated[int | None, Within(1)] = None
    mean: tuple[float, ...] = IMAGENET["mean"]
    std: tuple[float, ...] = IMAGENET["std"]
    crop: tuple[float, float] = (0.67, 1.0)
    flip: Annotated[float, Within(0, 1)] = 0.5
    exact_decoding: bool = False
    crop_pct: Annotated[float, Within(0, 1, above=True)] = 0.875
    epochs: Annotated[int, Within(1)] = 800
    batch_size: Annotated[int, Within(1)] = 2048
    accumulate: Annotated[int, Within(1)] = 1
    lr: Annotated[float, ABOVE_0] = 4e-4
    final_lr: Annotated[float, Within(0)] = 0.0
    warmup: float = 10
    schedule: Literal["cosine", "plain_cosine", "step"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Within(0)] = 0.05
    rules: Literal["vit", "cnn", "cnn-gamma", "moganet"] = "vit"
    clip: Annotated[float | None, ABOVE_0] = None
    ema: float | None = None
    precision: Literal["float32", "tf32", "float16", "bfloat16"] | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    sync_batchnorm: bool = False
    unused_parameters: bool = False
    fsdp: bool = False
    knn_every: Annotated[int | None, Within(1)] = None
    knn_data: str = ""
    trackers: tuple[str, ...] = field(default_factory=by_default)
    seed: int = 0
    workers: Annotated[int, Within(0)] = 8
    keep: Annotated[int, Within(1)] = 2
    save_every: Annotated[int, Within(1)] = 10
    export_every: Annotated[int | None, Within(1)] = None


def changed(config: PretrainConfig, **changes: Any) -> PretrainConfig:
    """A configuration with other settings, those of its method among them.

    Raises:
        TypeError: for a setting that neither it nor its method has.
    """
    own = {one.name for one in fields(config)}
    method = changes.pop("method", config.method)
    of_method = {key: changes.pop(key) for key in changes.keys() - own}
    return replace(config, method=replace(method, **of_method), **changes)


def with_method(config: PretrainConfig, name: str) -> PretrainConfig:
    """A configuration with another of the :data:`METHODS`; settings that both have stay."""
    method = METHODS[name]
    if isinstance(config.method, method):
        return config
    shared = {one.name for one in fields(method)} & {one.name for one in fields(config.method)}
    kept = {key: getattr(config.method, key) for key in shared}
    return replace(config, method=method(**kept))


def flat(config: PretrainConfig) -> dict[str, Any]:
    """All settings by name, those of the method too, as they are recorded of a run."""
    method = config.method
    settings = asdict(config) | {"method": method.name} | asdict(method)
    return settings | ({"level": method.level} if isinstance(method, Cmae | CmaeTokens) else {})


def recorded_config(settings: Mapping[str, Any]) -> PretrainConfig:
    """The configuration of which :func:`flat` recorded these settings, also from JSON.

    Raises:
        ValueError: for settings of another version of this code.
    """
    method = settings.get("method")
    known = METHODS.get(f"{method}-tokens" if settings.get("level") == "token" else str(method))
    if known is None or not {one.name for one in fields(known)} <= settings.keys():
        raise ValueError(f"expected the settings of a pre-training of this version, got {method!r}")
    own, of_method = (
        {one.name: _tuples(settings[one.name]) for one in fields(kind) if one.name in settings}
        for kind in (PretrainConfig, known)
    )
    return PretrainConfig(**own | {"method": known(**of_method)})


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


Recipe = Callable[[], PretrainConfig]
RECIPES: dict[str, Recipe] = {}
"""Every run by its name."""


def recipe(function: Recipe) -> Recipe:
    """Enter a function into :data:`RECIPES`, under its name with dashes."""
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


# The ViTs of the official code.

_VIT: dict[str, object] = {
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": True,
    "init_values": 0.1,
    "qkv_bias": True,
    "drop_path_rate": 0.1,
    "global_pool": "token",  # keeps the last norm, as the official code does
}


def _vit(**changes: Any) -> PretrainConfig:
    """What all ViT runs on ImageNet-1k share: table 4.2 of our notes, rows ViT."""
    base = PretrainConfig(
        backbone="beit_base_patch16_224",
        model_kwargs=_VIT,
        method=A2mim(position=0, loss="official-vit"),
        schedule="step",
        clip=5.0,
        rules="vit",
    )
    return changed(base, **changes)


@recipe
def a2mim_vit_s_in1k() -> PretrainConfig:
    """A2MIM, ViT-S of the official code (768 wide, 8 deep), ImageNet-1k, 800 epochs.

    Source: official configuration `vit_small`, 8 x 256 images.
    Arithmetic: float32 there, but fp16 by the names of published files; here bfloat16 on a GPU.
    Expected: 82.1 % top-1 after fine-tuning for 200 epochs (README of the official code).
    """
    small = _VIT | {"embed_dim": 768, "depth": 8, "num_heads": 8, "mlp_ratio": 3}
    return _vit(model_kwargs=small)


@recipe
def a2mim_vit_b_in1k() -> PretrainConfig:
    """A2MIM, ViT-B, ImageNet-1k, 800 epochs.

    Source: official configuration `vit_base`, 8 x 128 images, 2 accumulated.
    Arithmetic: float32 there, but fp16 by the names of published files; here bfloat16 on a GPU.
    Expected: 84.2 % top-1 after fine-tuning for 100 epochs (README of the official code).
    """
    return _vit(accumulate=2)


@recipe
def a2mim_vit_l_in1k() -> PretrainConfig:
    """A2MIM, ViT-L, ImageNet-1k, 800 epochs.

    Source: official configuration `vit_large`, 8 x 128 images, 2 accumulated.
    Arithmetic: float32 there, but fp16 by the names of published files; here bfloat16 on a GPU.
    Expected: 86.1 % top-1 after fine-tuning for 150 epochs (README of the official code).
    """
    return _vit(backbone="beit_large_patch16_224", accumulate=2)


@recipe
def simmim_vit_s_in1k() -> PretrainConfig:
    """SimMIM, ViT-S of the official code, ImageNet-1k, 800 epochs: the baseline of A2MIM's.

    Source: section 4.6 of our notes: masks and optimiser of A2MIM, nothing filled, token replaced,
    plain L1.
    Expected: 81.7 % top-1 after fine-tuning (README of the official code).
    """
    return changed(a2mim_vit_s_in1k(), fill="none", token="replace", loss="simmim")


@recipe
def simmim_vit_b_in1k() -> PretrainConfig:
    """SimMIM, ViT-B, ImageNet-1k, 800 epochs: the baseline of A2MIM's.

    Source: section 4.6 of our notes.
    Expected: 83.8 % top-1 after fine-tuning (README of the official code).
    """
    return changed(a2mim_vit_b_in1k(), fill="none", token="replace", loss="simmim")


@recipe
def mae_vit_b_in1k() -> PretrainConfig:
    """MAE, ViT-B, ImageNet-1k, 800 epochs.

    Source: He et al., CVPR 2022, appendix A.1 (from memory of the paper: base rate 1.5e-4 x
    4096 / 256, betas 0.9 and 0.95, warm-up 40, mask ratio 0.75, per-patch normalised target).
    Expected: no number of this paper was at hand.
    """
    return PretrainConfig(
        backbone="vit_base_patch16_224",
        method=Mae(),
        block=16,
        mask_ratio=0.75,
        batch_size=4096,
        lr=2.4e-3,
        warmup=40,
        betas=(0.9, 0.95),
        crop=(0.2, 1.0),
    )


# CNNs.


def _cnn(**changes: Any) -> PretrainConfig:
    """What all CNN runs on ImageNet-1k share: table 4.2 of our notes, rows R-* and ConvNeXt."""
    base = PretrainConfig(
        backbone="resnet50",
        method=A2mim(position=3, token="damped", loss="official-r50"),
        epochs=300,
        lr=1.2e-3,
        final_lr=1e-5,
        crop=(0.8, 1.0),
        rules="cnn",
    )
    return changed(base, **changes)


@recipe
def a2mim_r50_in1k() -> PretrainConfig:
    """A2MIM, ResNet-50, ImageNet-1k, 300 epochs.

    Source: official configuration `r50_l3_sz224_init_8xb256_cos_ep300`.
    Arithmetic: none is set there, which is float32; here bfloat16 on a GPU.
    Expected: 80.4 % top-1 after fine-tuning by RSB A2, 78.9 % by A3 (README of the official code).
    """
    return _cnn()


@recipe
def a2mim_r50_in1k_ep100() -> PretrainConfig:
    """A2MIM, ResNet-50, ImageNet-1k, 100 epochs.

    Source: official configuration `r50_l3_sz224_init_8xb256_cos_ep100`; gamma learns at a tenth.
    Arithmetic: none is set there, which is float32; here bfloat16 on a GPU.
    Expected: 78.8 % top-1 after fine-tuning by RSB A3 (README of the official code).
    """
    return _cnn(epochs=100, rules="cnn-gamma")


@recipe
def a2mim_r50_in1k_plain() -> PretrainConfig:
    """A2MIM, ResNet-50, ImageNet-1k, 100 epochs, token added without damping.

    Source: official configuration `r50_l3` without `init`.
    Expected: no published number is known.
    """
    return _cnn(epochs=100, token="add")


@recipe
def a2mim_r50_in1k_stem() -> PretrainConfig:
    """A2MIM, ResNet-50, ImageNet-1k, 100 epochs, token added after the stem.

    Source: official configuration `r50_l0`.
    Expected: no published number is known.
    """
    return _cnn(epochs=100, token="add", position=0)


@recipe
def simmim_r50_in1k() -> PretrainConfig:
    """SimMIM, ResNet-50, ImageNet-1k, 300 epochs: the baseline of A2MIM's.

    Source: section 4.6 of our notes: token replaced after the stem, nothing filled, plain L1.
    Arithmetic: float16, as there.
    Expected: 79.9 % top-1 after fine-tuning by RSB A2 (README of the official code).
    """
    return _cnn(
        fill="none",
        token="replace",
        position=0,
        loss="simmim",
        lr=8e-4,
        crop=(0.67, 1.0),
        precision="float16",
    )


@recipe
def a2mim_r101_in1k() -> PretrainConfig:
    """A2MIM, ResNet-101, ImageNet-1k, 300 epochs: another Fourier loss than ResNet-50's.

    Source: official configuration `r101_l3_sz224_init_8xb256_cos_ep300`.
    Arithmetic: none is set there, which is float32; here bfloat16 on a GPU.
    Expected: 81.9 % top-1 after fine-tuning (README of the official code).
    """
    return _cnn(backbone="resnet101", loss="official-r101")


@recipe
def a2mim_r152_in1k() -> PretrainConfig:
    """A2MIM, ResNet-152, ImageNet-1k, 300 epochs.

    Source: the configuration in the A2MIM repository; the one in openmixup has no Fourier loss
    (`--loss official-cnn-nofreq`). Which of the two was published is open.
    Expected: 82.5 % top-1 after fine-tuning (README of the official code).
    """
    return _cnn(backbone="resnet152", loss="official-r101")


@recipe
def a2mim_r200_in1k() -> PretrainConfig:
    """A2MIM, ResNet-200, ImageNet-1k, 300 epochs, no Fourier loss.

    Source: official configuration `r200_l3_sz224_init_8xb256_cos_ep300`.
    Arithmetic: none is set there, which is float32; here bfloat16 on a GPU.
    Expected: 83.0 % top-1 after fine-tuning (README of the official code).
    """
    return _cnn(backbone="resnet200", loss="official-cnn-nofreq")


def _convnext(**changes: Any) -> PretrainConfig:
    base = _cnn(
        backbone="convnext_tiny",
        model_kwargs={"ls_init_value": 1e-6},
        loss="official-cnn-nofreq",
        token_init="zeros",  # the official initialiser does nothing there
        rules="cnn-gamma",
        precision="float16",
    )
    return changed(base, **changes)


@recipe
def a2mim_convnext_t_in1k() -> PretrainConfig:
    """A2MIM, ConvNeXt-T, ImageNet-1k, 300 epochs, no Fourier loss.

    Source: official configuration `convnext_tiny`.
    Arithmetic: float16, as there.
    Expected: no published number is known.
    """
    return _convnext()


@recipe
def a2mim_convnext_s_in1k() -> PretrainConfig:
    """A2MIM, ConvNeXt-S, ImageNet-1k, 300 epochs, no Fourier loss.

    Source: official configuration `convnext_small_l3_sz224_init_8xb256_cos_ep300`.
    Arithmetic: float16, as there.
    Expected: 83.7 % top-1 after fine-tuning (README of the official code).
    """
    return _convnext(backbone="convnext_small")


@recipe
def a2mim_convnext_b_in1k() -> PretrainConfig:
    """A2MIM, ConvNeXt-B, ImageNet-1k, 300 epochs, no Fourier loss.

    Source: official configuration `convnext_base_l3_sz224_init_8xb256_cos_fp16_ep300`.
    Arithmetic: float16, as there.
    Expected: 84.1 % top-1 after fine-tuning (README of the official code).
    """
    return _convnext(backbone="convnext_base")


@recipe
def a2mim_moganet_s_in1k() -> PretrainConfig:
    """A2MIM, MogaNet-S, ImageNet-1k, 300 epochs, no Fourier loss.

    Source: official configuration `moganet_s_l3_sz224_init_8xb256_cos_ep300`: its base has the
    Fourier loss, the run leaves it out. One stored version of it has lr 4e-4 and float32. The
    network is ours (`a2mim/backbones/moganet.py`), for timm has none.
    Arithmetic: float16, as there.
    Expected: no published number is known.
    """
    return _convnext(
        backbone="moganet_small", model_kwargs={"attn_force_fp32": True}, rules="moganet"
    )


def _swin(**changes: Any) -> PretrainConfig:
    """Table 4.2, rows Swin: the official code has a model base and no run; the rest is ViT's."""
    base = _vit(
        backbone="swin_tiny_patch4_window7_224",
        model_kwargs={"window_size": 6},
        image_size=192,
        fourier_weight=0.5,
    )
    return changed(base, **changes)


@recipe
def a2mim_swin_t_in1k() -> PretrainConfig:
    """A2MIM, Swin-T at 192 px, ImageNet-1k.

    Source: the official model base; there is no runnable official configuration, so schedule and
    optimiser are those of our ViTs.
    Expected: no published number is known.
    """
    return _swin()


@recipe
def a2mim_swin_b_in1k() -> PretrainConfig:
    """A2MIM, Swin-B at 192 px, ImageNet-1k.

    Source: as Swin-T's.
    Expected: no published number is known.
    """
    return _swin(backbone="swin_base_patch4_window7_224")


# ImageNet-100 and CIFAR-100: table 4.3 of our notes.


@recipe
def a2mim_deit_s_in100_l8() -> PretrainConfig:
    """A2MIM, DeiT-S at 192 px, ImageNet-100, 800 epochs, token before the eighth block.

    Source: official configuration, 4 x 256 images, 2 accumulated.
    Expected: 87.24 % top-1 after fine-tuning for 100 epochs (README of the official code; which of
    the two DeiT-S configurations it belongs to is open).
    """
    return _vit(
        backbone="beit_base_patch16_224",
        model_kwargs=_VIT | {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4},
        image_size=192,
        position=8,
        accumulate=2,
        lr=8e-4,
        final_lr=1e-5,
        schedule="cosine",
    )


@recipe
def a2mim_deit_s_in100_mlp() -> PretrainConfig:
    """A2MIM, DeiT-S at 192 px, ImageNet-100, 800 epochs, a depth-wise convolution in the decoder.

    Source: official configuration `l0_mlp`.
    Expected: see a2mim-deit-s-in100-l8.
    """
    return changed(a2mim_deit_s_in100_l8(), position=0, depthwise=1)


@recipe
def a2mim_r50_in100() -> PretrainConfig:
    """A2MIM, ResNet-50, ImageNet-100, 800 epochs.

    Source: official configuration; its data file is missing, crops are those of ImageNet-1k.
    Arithmetic: float16, as there.
    Expected: 89.32 % top-1 after fine-tuning for 100 epochs (README of the official code).
    """
    return _cnn(image_size=192, epochs=800, rules="cnn-gamma", precision="float16")


@recipe
def a2mim_r50_cifar100() -> PretrainConfig:
    """A2MIM, ResNet-50, CIFAR-100 at 224 px, 1000 epochs.

    Source: official configuration, 4 x 64 images, 2 accumulated; its file name says 4 x 256.
    Arithmetic: float16, as there.
    Expected: no published number is known.
    """
    return _cnn(
        data="cifar100",
        epochs=1000,
        batch_size=512,
        accumulate=2,
        crop=(0.67, 1.0),
        crop_pct=1.0,
        precision="float16",
        **CIFAR,
    )


@recipe
def a2mim_vit_s_cifar100() -> PretrainConfig:
    """A2MIM, ViT-S of the official code, CIFAR-100 at 224 px, 1000 epochs, no Fourier loss.

    Source: official configuration, 4 x 256 images, 2 accumulated.
    Arithmetic: float16, as there.
    Expected: no published number is known.
    """
    return changed(
        a2mim_vit_s_in1k(),
        fourier_weight=0.0,
        data="cifar100",
        epochs=1000,
        accumulate=2,
        lr=8e-4,
        final_lr=4e-5,
        schedule="cosine",
        crop_pct=1.0,
        precision="float16",
        **CIFAR,
    )


# Small runs of our own, for two cores and for one GPU.


def _small(**changes: Any) -> PretrainConfig:
    base = PretrainConfig(
        backbone="vit_tiny_patch16_224",
        model_kwargs={
            "patch_size": 4,
            "embed_dim": 128,
            "depth": 6,
            "num_heads": 4,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
        image_size=32,
        block=8,
        method=A2mim(loss="official-vit"),
        data="cifar10",
        mean=CIFAR["mean"],
        std=CIFAR["std"],
        crop_pct=1.0,
        epochs=5,
        batch_size=128,
        lr=1e-3,
        final_lr=1e-5,
        warmup=0.5,
        clip=5.0,
        workers=1,
        save_every=1,
        compile=False,  # would take longer than it saves
    )
    return changed(base, **changes)


_SMALL_RESNET = {
    "backbone": "resnet18",
    "model_kwargs": {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_type": "deep"},
    "token": "damped",
    "loss": "official-r50",
    "rules": "cnn",
    "clip": None,
}


@recipe
def digits_vit() -> PretrainConfig:
    """A2MIM, a ViT of 1 M parameters, digits at 32 px, 60 epochs: minutes on two cores.

    Expected: a way to see a run, not a feature: a loss of 1.557 at first and 0.863 at the end, and
    the mean digit at hidden places; a linear probe of 43.5 % [40.3, 46.8], untrained 63.4 %
    [60.2, 66.5] (LOG.md, one run).
    """
    return _small(data="digits", epochs=60, batch_size=64, workers=0, save_every=20, **GREY)


@recipe
def digits_resnet() -> PretrainConfig:
    """A2MIM, a ResNet of 1 M parameters, digits at 64 px, 60 epochs: minutes on two cores.

    Expected: a loss of 0.639 at first and 0.076 at the end; a linear probe of 88.7 % [86.4, 90.6],
    untrained 64.7 % [61.6, 67.8] (LOG.md, one run).
    """
    return _small(
        data="digits",
        image_size=64,
        block=16,
        epochs=60,
        batch_size=64,
        workers=0,
        save_every=20,
        **GREY,
        **_SMALL_RESNET,
    )


def _demo(**changes: Any) -> PretrainConfig:
    base = _small(
        data="digits", image_size=32, block=8, batch_size=64, workers=0, trackers=(), save_every=999
    )
    return changed(base, crop=(0.8, 1.0), flip=0.0, **DIGITS, **changes)


@recipe
def digits_demo_vit() -> PretrainConfig:
    """A2MIM, a ViT of 0.1 M parameters, digits, 10 epochs: of ``a2mim demo``, seconds.

    Expected: on the demo's half of the digits a loss of 0.887 at first and 0.542 at the end (seed
    0, one run).
    """
    return _demo(
        model_kwargs={
            "patch_size": 8,
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 4,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
            "weight_init": "jax",
        },
        positions="sines",
        epochs=10,
        warmup=1,
    )


@recipe
def digits_demo_resnet() -> PretrainConfig:
    """A2MIM, a ResNet of 0.3 M parameters, digits, 8 epochs: of ``a2mim demo``, seconds.

    Its last maps keep the 4 x 4 cells of the mask: strides behind the second stage are dilations.

    Expected: on the demo's half of the digits a loss of 0.207 at first and 0.082 at the end (seed
    0, one run).
    """
    return _demo(
        **_SMALL_RESNET
        | {
            "model_kwargs": {
                "layers": (1, 1, 1, 1),
                "channels": (24, 40, 64, 96),
                "output_stride": 8,
            }
        },
        epochs=8,
        warmup=1,
        channels_last=True,
    )


@recipe
def cifar10_vit() -> PretrainConfig:
    """A2MIM, a ViT of 1 M parameters, CIFAR-10, 5 epochs: for two cores.

    Expected: a loss of 0.852 at step 39 and 0.526 at the end; a linear probe of 48.2 %
    [46.0, 50.4], untrained 38.5 % [36.4, 40.7] (LOG.md; images as JPEG, one run).
    """
    return _small()


@recipe
def cifar10_resnet() -> PretrainConfig:
    """A2MIM, a ResNet of 1 M parameters, CIFAR-10 at 64 px, 5 epochs: for two cores.

    Expected: a loss of 0.146 at step 39 and 0.052 in the last epoch; a linear probe of 39.9 %
    [37.8, 42.1], untrained 27.3 % [25.4, 29.3] (LOG.md; images as JPEG, one run).
    """
    return _small(image_size=64, block=16, **_SMALL_RESNET)


_SMALL_DECODER = (64, 2, 4)


def _small_mae(method: Method) -> PretrainConfig:
    """MAE and its siamese relatives at one budget: the images, masks and steps are the same.

    Not so the time: a step of C-MAE takes 2.2 times, one of R-MAE 3.2 times that of MAE (measured
    on one core), because they encode what is hidden too. Ratio and betas are MAE's; decoder, rate
    and length are ours, and were not tuned.
    """
    return _small(
        method=method,
        block=4,
        mask_ratio=0.75,
        crop=(0.2, 1.0),
        betas=(0.9, 0.95),
    )


@recipe
def cifar10_mae() -> PretrainConfig:
    """MAE, a ViT of 1 M parameters, CIFAR-10, 5 epochs: for two cores.

    Expected: not measured at 5 epochs; at 2, a linear probe of 49.1 % [46.9, 51.3], untrained
    37.9 % [35.7, 40.0] (LOG.md; images as JPEG, one run).
    """
    return _small_mae(Mae(decoder=_SMALL_DECODER))


@recipe
def cifar10_rmae() -> PretrainConfig:
    """R-MAE, a ViT of 1 M parameters, CIFAR-10, 5 epochs: for two cores.

    Expected: not measured at 5 epochs; at 2, a linear probe of 47.3 % [45.1, 49.5], untrained
    37.9 % [35.7, 40.0] (LOG.md; images as JPEG, one run).
    """
    return _small_mae(Rmae(decoder=_SMALL_DECODER))


@recipe
def cifar10_cmae() -> PretrainConfig:
    """C-MAE of images, a ViT of 1 M parameters, CIFAR-10, 5 epochs: for two cores.

    Expected: not measured at 5 epochs; at 2, a linear probe of 41.6 % [39.5, 43.8], untrained
    37.9 % [35.7, 40.0] (LOG.md; images as JPEG, one run).
    """
    return _small_mae(Cmae(head=(512, 512, 128)))


@recipe
def cifar10_vit_gpu() -> PretrainConfig:
    """A2MIM, ViT-Tiny with 4-px patches, CIFAR-10, 100 epochs: for one GPU.

    Expected: not measured.
    """
    tiny = {"patch_size": 4, "class_token": False, "global_pool": "avg", "fc_norm": False}
    return _small(
        model_kwargs=tiny,
        epochs=100,
        batch_size=512,
        workers=8,
        save_every=20,
        warmup=5,
        compile=None,
    )


@recipe
def cifar10_resnet_gpu() -> PretrainConfig:
    """A2MIM, ResNet-18, CIFAR-10 at 64 px, 60 epochs: for one GPU.

    Expected: not measured.
    """
    return _small(
        image_size=64,
        block=16,
        epochs=60,
        batch_size=512,
        workers=8,
        save_every=20,
        warmup=5,
        compile=None,
        **(_SMALL_RESNET | {"model_kwargs": {}}),
    )


@recipe
def tiny_imagenet100_vit() -> PretrainConfig:
    """A2MIM, ViT-Tiny with 8-px patches at 64 px, Tiny-ImageNet-100, 100 epochs: for one GPU.

    Expected: not measured.
    """
    tiny = {"patch_size": 8, "class_token": False, "global_pool": "avg", "fc_norm": False}
    return _small(
        model_kwargs=tiny,
        image_size=64,
        block=16,
        data="",
        epochs=100,
        batch_size=512,
        workers=8,
        save_every=20,
        warmup=5,
        compile=None,
        mean=IMAGENET["mean"],
        std=IMAGENET["std"],
    )


@recipe
def tiny_imagenet100_resnet() -> PretrainConfig:
    """A2MIM, ResNet-18 at 64 px, Tiny-ImageNet-100, 100 epochs: for one GPU.

    Expected: not measured.
    """
    return changed(
        tiny_imagenet100_vit(),
        **(_SMALL_RESNET | {"model_kwargs": {}}),
    )
