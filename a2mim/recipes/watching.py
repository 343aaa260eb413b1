"""What is seen of pre-training while it runs: a bar, JSON lines, trackers, pictures, a probe.

Nothing here changes the run: pictures and the probe see the network in eval mode, between steps.

Shapes: I images, C channels, H x W pixels.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from a2mim.data.resident import ResidentSamples
from a2mim.data.sampler import keyed_seed
from a2mim.data.samples import RepeatedSamples, SomeSamples
from a2mim.data.sources import Training, without_folders
from a2mim.files import write_whole
from a2mim.messages import UsageError
from a2mim.methods.mae import MaskedAutoencoder
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.siamese import ContrastiveMAE, RelaxedMAE
from a2mim.probes.features import extract
from a2mim.probes.knn import knn_probe
from a2mim.recipes.pretrain import PretrainConfig
from a2mim.runs.folder import commit
from a2mim.runs.progress import progress
from a2mim.runs.table import COLUMNS
from a2mim.training.arithmetic import with_float64
from a2mim.training.loop import StepReport
from a2mim.training.trackers import Followers, Trackers
from interactions.fills import image_mean
from interactions.patches import PatchGrid, hide

LOOKS = 20
"""Pictures in TensorBoard, over a whole run."""

PICTURES = 8
"""Images in the picture of reconstructions."""

NEIGHBOURS = 20
"""That vote in the online probe, as in DINO."""

MEASURES = (
    *("loss", "spatial", "fourier", "similarity", "penalty", "mae", "bound"),
    *("knn_top1", "skipped"),
)
"""What goes from the log into the results table."""

Masked = MaskedImageModel | MaskedAutoencoder | RelaxedMAE | ContrastiveMAE
"""A method of pre-training."""

Images = Training | ResidentSamples | RepeatedSamples
"""The images of pre-training."""


class Watching(Protocol):
    """What a report can be given besides the engine's numbers."""

    def measure(self, report: StepReport) -> Mapping[str, float]:
        """Further numbers, by name."""
        ...

    def look(self, report: StepReport) -> np.ndarray | None:
        """A picture, uint8 ``(H, W, 3)``, or None if it is not its turn."""
        ...


class Log:
    """A bar, JSON lines (``log.jsonl``, each written at once) and trackers, such as TensorBoard.

    Reports of steps that a resumed run does again replace those of the interrupted one.

    Args:
        work: folder of the run.
        steps: how many there will be.
        batch_size: images per step.
        watch: what else belongs to a report.
        trackers: where else reports go.
        link: made with the first report: a link to ``work``, unless something else is there.
    """

    def __init__(
        self,
        work: Path,
        steps: int,
        batch_size: int,
        watch: Watching | None = None,
        trackers: Trackers | None = None,
        link: Path | None = None,
    ) -> None:
        self.path = work / "log.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.reports: list[dict[str, float]] = [json.loads(x) for x in lines if x.endswith("}")]
        self._work = work
        self._link = link
        self._batch_size = batch_size
        self._watch = watch
        self._trackers = trackers or Trackers()
        self._followers: Followers | None = None
        self._hook = threading.excepthook
        self._bar = progress("training", steps * batch_size, "images", unit_scale=True, delay=1)

    def __call__(self, report: StepReport) -> None:
        """Note a report.

        Raises:
            UsageError: if it cannot be written.
        """
        if self._followers is None:  # the first report of this process
            self.reports = [r for r in self.reports if r["step"] < report.step]
            with writing(self._work):
                write_whole(self.path, "".join(json.dumps(r) + "\n" for r in self.reports))
                self._followers = self._trackers.start(self._work, report.step)
            self._make_link()
            threading.excepthook = self._of_thread
            self._bar.initial = self._bar.n = max(report.step - 1, 0) * self._batch_size
            self._bar.start_t = time.time()
        entry = {
            "step": report.step,
            "epoch": report.epoch,
            "lr": report.lr,
            **report.losses,
            "images_per_second": round(report.images_per_second, 1),
        }
        for key in ("grad_norm", "skipped"):
            if getattr(report, key) is not None:
                entry[key] = getattr(report, key)
        if self._watch is not None:
            entry |= self._watch.measure(report)
        self.reports.append(entry)
        picture = None if self._watch is None else self._watch.look(report)
        with writing(self._work):
            with self.path.open("a") as lines:
                lines.write(json.dumps(entry) + "\n")
            numbers = {k: v for k, v in entry.items() if k not in ("step", "epoch")}
            self._followers.log(numbers, picture, report.step)
        self._bar.set_postfix({k: f"{v:.4f}" for k, v in report.losses.items()}, refresh=False)
        self._bar.update(report.step * self._batch_size - self._bar.n)

    def rows(self, name: str, config: PretrainConfig) -> pd.DataFrame:
        """Losses, and what was measured beside them, as rows of the results table."""
        few = "" if config.few is None else f" few={config.few}"
        data = dict.fromkeys(MEASURES, config.data)
        data["knn_top1"] = config.knn_data or config.data
        rows = [
            {
                "run": "pretrain",
                "measure": f"pretrain_{key}",
                "model": config.backbone,
                "weights": name,
                "dataset": without_folders(data[key]),
                "image": "all",
                "setting": f"method={config.method.name} size={config.image_size}{few}",
                "at": report["step"],
                "value": report[key],
                "samples": config.batch_size,
                "seed": config.seed,
                "commit": commit(),
            }
            for report in self.reports
            for key in MEASURES
            if key in report
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def close(self) -> None:
        """End the bar and the trackers.

        Raises:
            UsageError: if what is left to write cannot be.
        """
        self._bar.close()
        if self._followers is None:
            return
        try:
            with writing(self._work):
                self._followers.finish()
        finally:
            threading.excepthook = self._hook

    def _make_link(self) -> None:
        if self._link is None:
            return
        with suppress(OSError):  # something else has the name, or the file system has no links
            if _is_ours(self._link):  # of a run that was killed, or that works there too
                self._link.unlink()
            self._link.symlink_to(self._work.name, target_is_directory=True)

    def _of_thread(self, error: threading.ExceptHookArgs) -> None:
        """Print no traceback of TensorBoard's thread: the writer raises the same error again."""
        of_writer = type(error.thread).__module__.startswith("tensorboard.")
        if not (of_writer and isinstance(error.exc_value, OSError)):
            self._hook(error)


def running_link(out: Path) -> Path:
    """``<out>.running``: where the work folder of a run is found while it works."""
    return out.resolve().with_name(f"{out.resolve().name}.running")


def remove_link(link: Path) -> None:
    """Remove the link to a run whose folder is not there any more; nothing else."""
    if _is_ours(link) and not link.exists():
        link.unlink()


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and link.readlink().suffix == ".partial"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While the context is open, the folder of a run is written.

    Raises:
        UsageError: if it cannot be, as on a full disk. Checkpoints stay.
    """
    try:
        yield
    except OSError as error:
        saved = any((folder / "checkpoints").glob("*.safetensors"))
        raise UsageError(
            f"cannot write to {folder}: {error.strerror or error}; make room, and the same "
            f"command {'goes on from the last checkpoint' if saved else 'begins again'}"
        ) from error


@dataclass(frozen=True)
class OnlineKnn:
    """The k-NN probe of a network in training: a sign of life, not a result.

    Attributes:
        train: images with labels, whose features are the memory.
        test: images with labels, that are classified.
        batch_size: of the extraction.
        device: where the network is.
    """

    train: SomeSamples
    test: SomeSamples
    batch_size: int
    device: torch.device

    def __call__(self, backbone: nn.Module) -> float:
        """Top-1 accuracy on the test images by the protocol of ``a2mim.probes.knn.knn``."""
        train, test = (
            extract(backbone, samples, batch_size=self.batch_size, device=self.device)
            for samples in (self.train, self.test)
        )
        k = min(NEIGHBOURS, len(self.train))
        return knn_probe(train, test, k, device=with_float64(self.device)).accuracy


@dataclass(frozen=True)
class Watch:
    """What pre-training is watched by at ends of epochs: a picture and a probe.

    Attributes:
        method: in training.
        config: of the run.
        steps: how many there will be.
        steps_per_epoch: of them.
        images_ICHW: what the picture shows.
        knn: the probe, if there is one.
    """

    method: Masked
    config: PretrainConfig
    steps: int
    steps_per_epoch: int
    images_ICHW: Tensor
    knn: OnlineKnn | None

    def measure(self, report: StepReport) -> dict[str, float]:
        """``knn_top1``, where it is its turn."""
        if self.knn is None or not self._ends(report, self.config.knn_every or 1):
            return {}
        return {"knn_top1": self.knn(self.method.backbone)}

    def look(self, report: StepReport) -> np.ndarray | None:
        """The contact sheet of :func:`pictures`."""
        if self.config.fsdp or not self._ends(report, -(-self.config.epochs // LOOKS)):
            return None
        return contact_sheet(pictures(self.method, self.images_ICHW, self.config))

    def _ends(self, report: StepReport, epochs: int) -> bool:
        """Whether a report ends an epoch that ``epochs`` divides, or the run."""
        return report.step % (epochs * self.steps_per_epoch) == 0 or report.step == self.steps


@torch.no_grad()
def pictures(method: Masked, images_ICHW: Tensor, config: PretrainConfig) -> dict[str, np.ndarray]:
    """:func:`seen_and_completed` with masks of the run's seed, as pictures.

    Returns:
        uint8 ``(I, C, H, W)`` each.
    """
    images = images_ICHW.to(next(method.parameters()).device)
    numbers = torch.arange(len(images), device=images.device)
    visible = method.draw(numbers, keyed_seed(config.seed, "pictures"))
    stacks = seen_and_completed(method, images, visible)
    return {key: as_levels(stack, config.mean, config.std) for key, stack in stacks.items()}


@torch.no_grad()
def seen_and_completed(
    method: Masked, images_ICHW: Tensor, visible_IN: Tensor
) -> dict[str, Tensor]:
    """Images as they are, as the network sees them, its prediction, and what is hidden completed.

    Of two views, the first is shown. Targets that are no pictures, and contrast, which predicts
    none, have neither prediction nor completion.

    Returns:
        ``original``, ``masked``, ``prediction`` and ``completed``, normalised ``(I, C, H, W)``.
    """
    grid: PatchGrid = method.mask.grid if isinstance(method, MaskedImageModel) else method.grid
    output = method.eval()(images_ICHW, visible_IN)["output"].float()
    # Where nothing is filled, the mean colour tells what is hidden.
    hidden = image_mean(images_ICHW)
    if isinstance(method, MaskedImageModel):
        filled = method.fill(images_ICHW)
        hidden = hidden if filled is images_ICHW else filled
    stacks = {"original": images_ICHW, "masked": hide(images_ICHW, visible_IN, grid, hidden)}
    if output.shape == images_ICHW.shape:
        stacks["prediction"] = output
        stacks["completed"] = hide(images_ICHW, visible_IN, grid, output)
    return stacks


def contact_sheet(stacks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Stacks of images ``(I, C, H, W)`` as rows of one picture, uint8 ``(R H, I W, C)``."""
    rows = [np.concatenate(list(stack.transpose(0, 2, 3, 1)), axis=1) for stack in stacks.values()]
    return np.concatenate(rows)


def as_levels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised images as uint8 levels."""
    mean_C11, std_C11 = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
    levels = ((images * std_C11 + mean_C11).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.cpu().numpy()
