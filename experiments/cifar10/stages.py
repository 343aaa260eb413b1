"""What is done, in its order: all arms of one training seed, then of the next; then the ablations.

Every stage is a few commands of ``a2mim``, whose run folders are in ``OUT/runs``: they go on where
they were interrupted. A stage that is done is a file in ``OUT/done``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from a2mim import load_backbone
from a2mim.commands import pretrain
from a2mim.commands.probe import probe
from a2mim.data.arrays import subset
from a2mim.data.folders import image_names
from a2mim.data.sampler import keyed_seed
from a2mim.measure.interactions import interaction_curves
from a2mim.measure.invariance import invariance
from a2mim.measure.occlusion import occlusion
from a2mim.measure.spectrum import spectrum
from a2mim.messages import UsageError
from a2mim.recipes.finetuning import Pretrained, finetune, samples_of
from a2mim.recipes.pretrain import CIFAR, IMAGENET
from a2mim.recipes.pretraining import backbone_of, description
from a2mim.runs.folder import is_run
from a2mim.settings.interactions import InteractionsConfig
from a2mim.settings.invariance import InvarianceConfig
from a2mim.settings.occlusion import OcclusionConfig
from a2mim.settings.probe import ProbeConfig
from a2mim.settings.spectrum import SpectrumConfig
from a2mim.settings.weights import WeightsConfig
from experiments.cifar10.arms import (
    ABLATIONS,
    ARMS,
    EXTRAS,
    UNTRAINED,
    Arm,
    finetuning,
    pretraining,
)
from experiments.cifar10.plan import Plan, seconds_of
from experiments.cifar10.sizes import ORDERS, Size
from interactions.keys import torch_seeded

GRID = 8
REFERENCE = Arm("vit", "scratch", 1000)
"""Whose gradients say what is salient, for all networks alike: it is itself in no comparison."""


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        kind: data, pretrain, finetune, strength, features, accuracy (alone), along, or untrained:
            what is asked of an encoder, of the network that an arm's pre-training began with.
        arm: which network; None for the images.
        needs: names of the stages before it.
    """

    kind: str
    arm: Arm | None = None
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        return self.kind if self.arm is None else f"{self.kind}-{self.arm.label}"


def stages_of(size: Size) -> list[Stage]:
    """All stages of a study, each after those that it needs."""
    found = [Stage("data")]

    def trained(arm: Arm, *kinds: str) -> Iterator[Stage]:
        before = ("data",)
        if arm.pretrained:
            yield Stage("pretrain", arm, before)
            before = (f"pretrain-{arm.label}",)
        yield Stage("finetune", arm, before)
        reference = (f"finetune-{REFERENCE.label}",)
        for kind in kinds:
            needs = (f"finetune-{arm.label}", *(reference if kind == "features" else ()))
            yield Stage(kind, arm, needs)

    found += trained(REFERENCE)
    for seed in range(size.seeds):
        arms = [Arm(arch, name, seed) for arch, names in ARMS.items() for name in names]
        for arm in sorted(arms, key=lambda arm: ARMS[arm.arch].index(arm.name)):
            found += trained(arm, "strength", "features")
        for arm in arms:
            if arm.pretrained:
                found.append(Stage("along", arm, (f"pretrain-{arm.label}",)))
            if arm.name == "a2mim":  # all arms of a seed begin with the same weights
                found.append(Stage("untrained", arm, (f"pretrain-{arm.label}",)))
    for seed in range(size.extra_seeds):
        for name in EXTRAS:
            found += trained(Arm("vit", name, seed), "features")
    for seed in range(size.ablation_seeds):
        for name in ABLATIONS:
            found += trained(Arm("vit", name, seed), "strength", "accuracy")
    return found


def total(size: Size, rates: dict[str, float]) -> float:
    """Seconds of all stages on one process."""
    return sum(seconds_of(stage.kind, stage.arm, size, rates) for stage in stages_of(size))


def run(stage: Stage, plan: Plan, source: Path, out: Path) -> None:
    """Do a stage, or go on with it.

    Args:
        stage: which.
        plan: of the study.
        source: folder of all images, for the first stage alone.
        out: output folder.

    Raises:
        UsageError: if a command cannot be run.
    """
    if stage.arm is None:
        choose_images(source, out / "data", plan.size)
        return
    work: dict[str, Callable[[Arm, Plan, Path], None]] = {
        "pretrain": _pretrain,
        "finetune": _finetune,
        "strength": _strength,
        "features": _features,
        "accuracy": _accuracy,
        "along": _along,
        "untrained": _untrained,
    }
    work[stage.kind](stage.arm, plan, out)


def look_of(source: Path) -> tuple[dict[str, object], tuple[int, int]]:
    """How images are seen, and how many there are for training and testing.

    Raises:
        UsageError: if there are none.
    """
    counts = []
    for split in ("train", _test(source)):
        counts.append(sum(len(image_names(folder)) for folder in _classes(source / split)))
    first = _classes(source / "train")[0]
    with Image.open(first / image_names(first)[0]) as image:
        size = 64 if min(image.size) >= 64 else 32
    colours = IMAGENET if size == 64 else CIFAR
    return {"image_size": size, **colours}, (counts[0], counts[1])


def choose_images(source: Path, folder: Path, size: Size) -> None:
    """Copy the images of a study: as many of each class, drawn once."""
    for split, there, count in (
        ("train", "train", size.train),
        ("val", _test(source), size.test),
    ):
        classes = _classes(source / there)
        for number, own in enumerate(classes):
            files = [own / name for name in image_names(own)]
            share = count // len(classes) + (number < count % len(classes))
            to = folder / split / own.name
            to.mkdir(parents=True, exist_ok=True)
            for k in subset(len(files), share, keyed_seed(number, split)):
                shutil.copyfile(files[int(k)], to / files[int(k)].name)


def _test(source: Path) -> str:
    """The folder of the test images."""
    found = [name for name in ("val", "test") if (source / name).is_dir()]
    if not found or not (source / "train").is_dir():
        raise UsageError(f"expected train/<class>/ and val/<class>/ in --data {source}")
    return found[0]


def _classes(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(found) < 2:
        raise UsageError(f"expected a folder a class in {folder}, got {len(found)}")
    return found


def network(arm: Arm, out: Path) -> Path:
    """The file of a fine-tuned network."""
    return out / f"runs/finetune-{arm.label}/model.safetensors"


def encoder(arm: Arm, out: Path) -> Path:
    """The file of what is judged frozen: pre-trained and not fine-tuned, if it was pre-trained."""
    pretrained = out / f"runs/pretrain-{arm.label}/backbone.safetensors"
    return pretrained if arm.pretrained else network(arm, out)


def exported(arm: Arm, epoch: int, out: Path) -> Path:
    """The file of a backbone that pre-training kept on its way; epoch 0 is the untrained one."""
    return out / f"runs/pretrain-{arm.label}/exports/epoch-{epoch:04d}/model.safetensors"


def _data(out: Path) -> str:
    return f"folder:{out / 'data'}"


def _pretrain(arm: Arm, plan: Plan, out: Path) -> None:
    name, config = pretraining(arm, plan.size, _data(out))
    run = out / f"runs/pretrain-{arm.label}"
    if not is_run(run):
        pretrain.run(name, config, run, device=plan.device)
    (run / "checkpoint.safetensors").unlink(missing_ok=True)  # thrice the size of the network


def _finetune(arm: Arm, plan: Plan, out: Path) -> None:
    work = network(arm, out).parent
    if (work / "rows.csv").exists():  # which is written last
        return
    config = finetuning(arm, plan.size, _data(out))
    _, of = pretraining(arm, plan.size, "")
    with torch_seeded(keyed_seed(arm.seed, "weights")):
        model = backbone_of(of)
    if arm.pretrained:
        load_backbone(model, encoder(arm, out))
    options = description(model, of)["model_args"]
    about = Pretrained(of.backbone, arm.label, options)  # type: ignore[arg-type]
    train, test = samples_of(config)
    finetune(model, about, config, train, test, work, plan.device, recipe="cifar10")


def _once(command: Callable[[Any], object], config: Any) -> None:
    """Run a command unless its run folder is there: also one that earlier code has made."""
    if not is_run(config.out):
        command(config)


def _named(files: dict[str, Path]) -> WeightsConfig:
    return WeightsConfig(per_network=tuple((str(f), f"name={n}") for n, f in files.items()))


def game(
    kind: str, arm: Arm, files: dict[str, Path], plan: Plan, out: Path, **changes: object
) -> InteractionsConfig:
    """Settings of the measurement of interactions of networks, by their names."""
    size = plan.size
    return replace(
        InteractionsConfig(
            checkpoints=tuple(map(str, files.values())),
            images=out / "data/val",
            weights=_named(files),
            count=size.strength,
            grid=GRID,
            orders=ORDERS,
            pairs=size.pairs,
            radius=2,
            replicates=size.replicates,
            windows=1,
            target=0,
            label="truth",
            reward="log_odds",
            precision="float32",
            out=out / f"runs/{kind}-{arm.label}",
            device=plan.device,
        ),
        **changes,  # type: ignore[arg-type]
    )


def _strength(arm: Arm, plan: Plan, out: Path) -> None:
    files = {arm.label: network(arm, out)}
    _once(interaction_curves, game("strength", arm, files, plan, out))


def points_of(size: Size) -> list[int]:
    """Epochs of the backbones that are measured along pre-training."""
    return [k * size.export_every for k in range(size.points)]


def _along(arm: Arm, plan: Plan, out: Path) -> None:
    files = {f"{arm.label}@{epoch}": exported(arm, epoch, out) for epoch in points_of(plan.size)}
    changes = {"count": plan.size.along, "reward": "projection", "label": "auto"}
    _once(interaction_curves, game("along", arm, files, plan, out, **changes))


def _features(arm: Arm, plan: Plan, out: Path) -> None:
    size, runs, images = plan.size, out / "runs", out / "data/val"
    final, own = {arm.label: network(arm, out)}, {f"{arm.label}@encoder": encoder(arm, out)}
    both = final | own if arm.pretrained else final
    for fill in size.fills:
        _once(
            occlusion,
            OcclusionConfig(
                checkpoints=(str(network(arm, out)),),
                images=images,
                weights=_named(final),
                label="truth",
                count=size.occlusion,
                occluder=("random", "salient", "non_salient"),
                fill=fill,  # type: ignore[arg-type]
                grid=GRID,
                fractions=size.fractions,
                saliency=str(network(REFERENCE, out)),
                saliency_method="Saliency",
                out=runs / f"occlusion-{fill}-{arm.label}",
                device=plan.device,
            ),
        )
    _invariance(arm, both, plan, out)
    _once(
        spectrum,
        SpectrumConfig(
            checkpoints=tuple(map(str, both.values())),
            images=images,
            weights=_named(both),
            count=size.features,
            out=runs / f"spectrum-{arm.label}",
            device=plan.device,
        ),
    )
    _probe("linear", arm, own, plan, out, max_train=size.probe)
    _accuracy(arm, plan, out)


def _accuracy(arm: Arm, plan: Plan, out: Path) -> None:
    _probe("clean", arm, {arm.label: network(arm, out)}, plan, out)


def _untrained(arm: Arm, plan: Plan, out: Path) -> None:
    twin = replace(arm, name=UNTRAINED)
    files = {f"{twin.label}@encoder": exported(arm, 0, out)}
    _invariance(twin, files, plan, out)
    _probe("linear", twin, files, plan, out, max_train=plan.size.probe)


def _invariance(arm: Arm, files: dict[str, Path], plan: Plan, out: Path) -> None:
    size = plan.size
    _once(
        invariance,
        InvarianceConfig(
            checkpoints=tuple(map(str, files.values())),
            images=out / "data/val",
            weights=_named(files),
            count=size.features,
            grid=GRID,
            fractions=size.fractions,
            repeats=1,
            readouts=("mean",),
            cka_batch=max(size.features // 4, 4),
            out=out / f"runs/invariance-{arm.label}",
            device=plan.device,
        ),
    )


def _probe(
    method: Literal["linear", "clean"],
    arm: Arm,
    files: dict[str, Path],
    plan: Plan,
    out: Path,
    **options: Any,
) -> None:
    _once(
        probe,
        ProbeConfig(
            checkpoints=tuple(map(str, files.values())),
            weights=_named(files),
            method=method,
            workers=plan.size.workers,
            data=_data(out),
            out=out / f"runs/{method}-{arm.label}",
            device=plan.device,
            **options,
        ),
    )
