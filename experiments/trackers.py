"""Where a run can be followed: TensorBoard, and the services that accelerate's trackers write to.

TensorBoard's files are in the run folder. The others keep to their own settings (environment
variables, a login), as their packages say. All get the numbers of every report; TensorBoard,
Weights & Biases and SwanLab get the pictures too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from experiments.runs import UsageError

LISTS = ("wandb", "swanlab")
"""Trackers that take pictures as a list."""


@dataclass(frozen=True)
class Trackers:
    """By which trackers a run is followed.

    Attributes:
        names: as accelerate has them; also of classes registered with it.
        project: what the services file the run under.
        settings: of the run, which the services keep; numbers and texts.
    """

    names: Sequence[str] = ("tensorboard",)
    project: str = "a2mim"
    settings: Mapping[str, object] = field(default_factory=dict)

    def check(self) -> None:
        """See whether all can be had.

        Raises:
            UsageError: for an unknown one, with the nearest name, or one that is not installed.
        """
        services = {kind.value for kind in LoggerType} - {"all"}
        for name in self.names:
            if name not in LOGGER_TYPE_TO_CLASS:
                near = get_close_matches(name, LOGGER_TYPE_TO_CLASS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
                raise UsageError(f"expected trackers of {known}, got {name!r}{hint}")
            if name in services and LoggerType(name) not in get_available_trackers():
                raise UsageError(
                    f"expected the package of the tracker {name}, it is not there; install it, or "
                    "leave the tracker out"
                )

    def start(self, folder: Path, step: int) -> list[Any]:
        """Open all.

        Args:
            folder: of the run.
            step: of the first report; what TensorBoard has of later ones is of no use any more.

        Returns:
            accelerate's trackers.

        Raises:
            OSError: if the folder cannot be written.
            UsageError: if a service refuses.
        """
        return [self._started(name, folder, step) for name in self.names]

    def _started(self, name: str, folder: Path, step: int) -> Any:
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            tracker = kind(name, folder, purge_step=step)
            tracker.start()
            return tracker
        try:
            tracker = kind(self.project, *([folder] if kind.requires_logging_directory else []))
            tracker.start()
            tracker.store_init_configuration(
                {k: v if isinstance(v, int | float) else str(v) for k, v in self.settings.items()}
            )
        except Exception as error:  # each service has errors of its own
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"cannot start the tracker {name}: {what}") from error
        return tracker


def log_picture(tracker: Any, name: str, picture_HWC: np.ndarray, step: int) -> None:
    """Give a picture, uint8 ``(H, W, 3)``, to a tracker that takes some."""
    if tracker.name == "tensorboard":
        tracker.log_images({name: picture_HWC[None]}, step, dataformats="NHWC")
    elif tracker.name in LISTS:
        tracker.log_images({name: [picture_HWC]}, step)
