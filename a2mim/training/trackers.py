"""Where a run can be followed: TensorBoard, and the services that accelerate's trackers write to.

TensorBoard's files are in the run folder. The others keep to their own settings (environment
variables, a login), as their packages say. All get the numbers of every report; TensorBoard,
Weights & Biases and SwanLab get the pictures too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mim.messages import UsageError, did_you_mean, in_a_line

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

OWN = "tensorboard"
"""The tracker that writes into the folder of the run."""

EXTRA = "pip install 'a2mim[tensorboard]'"

PICTURE = "reconstructions"

LISTS = ("wandb", "swanlab")
"""Trackers that take pictures as a list."""


def by_default() -> tuple[str, ...]:
    """TensorBoard if it is installed."""
    return (OWN,) if find_spec("tensorboard") else ()


@dataclass(frozen=True)
class Trackers:
    """By which trackers a run is followed.

    Attributes:
        names: as accelerate has them; also of classes registered with it. TensorBoard if left out
            and installed.
        project: what the services file the run under.
        settings: of the run, which the services keep; numbers and texts.
    """

    names: Sequence[str] = field(default_factory=by_default)
    project: str = "a2mim"
    settings: Mapping[str, object] = field(default_factory=dict)

    def check(self) -> None:
        """See whether all can be had.

        Raises:
            UsageError: for an unknown one, with the nearest name, or one that is not installed.
        """
        if len(set(self.names)) < len(self.names):
            raise UsageError(f"expected every tracker once, got {','.join(self.names)}")
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
        from accelerate.utils import LoggerType

        services = {kind.value for kind in LoggerType} - {"all"}
        for name in self.names:
            if name not in LOGGER_TYPE_TO_CLASS:
                hint = did_you_mean(name, LOGGER_TYPE_TO_CLASS)
                known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
                raise UsageError(f"expected trackers of {known}, got {name!r}{hint}")
            if name in services and LoggerType(name) not in get_available_trackers():
                raise UsageError(
                    f"expected the package of the tracker {name}, it is not installed; "
                    f"{EXTRA if name == OWN else 'install it'}, or leave the tracker out"
                )

    def start(self, folder: Path, step: int) -> Followers:
        """Open all.

        Args:
            folder: of the run.
            step: of the first report; what TensorBoard has of later ones is of no use any more.

        Raises:
            OSError: if the folder cannot be written.
            UsageError: if a service refuses.
        """
        followers = Followers([])
        try:
            for name in self.names:
                followers.trackers.append(self._started(name, folder, step))
        except BaseException:
            followers.finish()
            raise
        return followers

    def _started(self, name: str, folder: Path, step: int) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if name == OWN:
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
            raise UsageError(f"cannot start the tracker {name}: {in_a_line(error)}") from error
        return tracker


@dataclass(frozen=True)
class Followers:
    """Trackers that are open.

    A service that fails gets no more, and a warning says so: it is no reason to end a run. A folder
    that cannot be written is one.

    Attributes:
        trackers: accelerate's.
    """

    trackers: list[Any]

    def log(self, numbers: Mapping[str, float], picture_HWC: np.ndarray | None, step: int) -> None:
        """Give a report to all, and its picture, uint8 ``(H, W, 3)``, to those that take some.

        Raises:
            OSError: if the folder of the run cannot be written.
        """

        def give(tracker: Any) -> None:
            tracker.log(dict(numbers), step=step)
            if picture_HWC is None:
                return
            if tracker.name == OWN:
                tracker.log_images({PICTURE: picture_HWC[None]}, step, dataformats="NHWC")
            elif tracker.name in LISTS:
                tracker.log_images({PICTURE: [picture_HWC]}, step)

        self._each(give)

    def finish(self) -> None:
        """Close all.

        Raises:
            OSError: if the folder of the run cannot be written.
        """
        self._each(lambda tracker: tracker.finish())

    def _each(self, work: Callable[[Any], None]) -> None:
        for tracker in list(self.trackers):
            if tracker.name == OWN:
                work(tracker)
                continue
            try:
                work(tracker)
            except Exception as error:  # each service has errors of its own
                self.trackers.remove(tracker)
                logger.warning(
                    "the tracker %s fails and gets no more of this run: %s",
                    tracker.name,
                    in_a_line(error),
                )
