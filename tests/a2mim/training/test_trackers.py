import sys

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from a2mim.messages import UsageError
from a2mim.recipes.pretrain import RECIPES
from a2mim.recipes.watching import Log
from a2mim.training.loop import StepReport
from a2mim.training.trackers import Trackers, by_default


class Notebook(GeneralTracker):
    """A service that keeps what it is told."""

    name = "notebook"
    requires_logging_directory = True
    told: list[object]

    def __init__(self, project, folder):
        super().__init__()
        self.told = [project, folder]
        Notebook.last = self

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step=None, **options):
        self.told.append((step, values))

    def finish(self):
        self.told.append("finished")


class Frail(Notebook):
    """A service that is gone after a report."""

    name = "frail"

    def log(self, values, step=None, **options):
        if step > 1:
            raise ConnectionError("timed\nout")  # which is an OSError
        super().log(values, step)


class Lost(Notebook):
    name = "lost"

    def finish(self):
        raise RuntimeError("gone")


class Strict(Notebook):
    def start(self):
        raise ConnectionError("no key,\nlog in")


@pytest.fixture
def services(monkeypatch):
    for kind in (Notebook, Frail, Lost):
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, kind.name, kind)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "strict", Strict)


def report(step):
    return StepReport(step, 0, 0.1, {"loss": 1.0 / step}, None, 5.0)


class Look:
    def measure(self, report):
        return {"knn_top1": 0.5}

    def look(self, report):
        return np.zeros((4, 6, 3), np.uint8) + np.uint8(report.step)


def test_without_tensorboard(monkeypatch):
    """It is left out by default, and an error where it was asked for."""
    assert by_default() == ("tensorboard",)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not there
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    assert by_default() == Trackers().names == RECIPES["digits-vit"]().trackers == ()
    Trackers().check()
    with pytest.raises(UsageError, match=r"pip install 'a2mim\[tensorboard\]'") as told:
        Trackers(("tensorboard",)).check()
    assert "\n" not in str(told.value)


def test_reports_go_to_all(services, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"epochs": 3, "head": (1, 2), "clip": None}
    trackers = Trackers(("tensorboard", "notebook"), "a2mim-digits", settings)
    trackers.check()
    log = Log(tmp_path, 9, 2, Look(), trackers)
    for step in (1, 2):
        log(report(step))
    log.close()
    numbers = {"lr": 0.1, "images_per_second": 5.0, "knn_top1": 0.5}
    assert Notebook.last.told == [
        "a2mim-digits",
        tmp_path,
        {"epochs": 3, "head": "(1, 2)", "clip": "None"},
        (1, {"loss": 1.0, **numbers}),
        (2, {"loss": 0.5, **numbers}),
        "finished",
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [1.0, 0.5]
    pictures = events.Images("reconstructions")
    assert [(p.step, p.width, p.height) for p in pictures] == [(1, 6, 4), (2, 6, 4)]


def test_none_at_all(tmp_path):
    log = Log(tmp_path, 9, 2, trackers=Trackers(()))
    log(report(1))
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_service_that_fails_ends_no_run(services, tmp_path, caplog):
    log = Log(tmp_path, 9, 2, trackers=Trackers(("frail", "lost", "notebook")))
    for step in (1, 2, 3):
        log(report(step))
    log.close()
    assert [r.getMessage() for r in caplog.records] == [
        "the tracker frail fails and gets no more of this run: ConnectionError: timed out",
        "the tracker lost fails and gets no more of this run: RuntimeError: gone",
    ]
    assert [told[0] for told in Notebook.last.told if isinstance(told, tuple)] == [1, 2, 3]
    assert Notebook.last.told[-1] == "finished"


def test_a_service_that_refuses_is_said_in_a_line(services, tmp_path):
    log = Log(tmp_path, 9, 2, trackers=Trackers(("notebook", "strict")))
    with pytest.raises(UsageError) as caught:
        log(report(1))
    log.close()
    assert str(caught.value) == ("cannot start the tracker strict: ConnectionError: no key, log in")


def test_pictures_come_to_services_as_lists(monkeypatch, tmp_path):
    class Gallery(Notebook):
        name = "wandb"

        def log_images(self, values, step=None, **options):
            self.told.append((step, {k: [x.shape for x in v] for k, v in values.items()}))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Gallery)
    log = Log(tmp_path, 9, 2, Look(), Trackers(("wandb",)))
    log(report(1))
    log.close()
    assert (1, {"reconstructions": [(4, 6, 3)]}) in Notebook.last.told
