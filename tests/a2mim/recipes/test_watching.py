import json

import numpy as np
import pytest
import torch

from a2mim.data.samples import SomeSamples
from a2mim.messages import UsageError
from a2mim.recipes.pretrain import RECIPES, changed
from a2mim.recipes.pretraining import first_images, method_of, samples_of
from a2mim.recipes.watching import (
    Log,
    OnlineKnn,
    contact_sheet,
    pictures,
    remove_link,
    running_link,
)
from a2mim.training.loop import StepReport


def report(step):
    return StepReport(step, 0, 0.1, {"loss": 1.0 / step}, None, 5.0)


def test_pictures_of_all_methods():
    for name in ("digits-vit", "digits-resnet", "cifar10-mae", "cifar10-rmae"):
        config = changed(RECIPES[name](), data="digits")
        stacks = pictures(method_of(config), first_images(samples_of(config), config), config)
        assert list(stacks) == ["original", "masked", "prediction", "completed"]
        size = config.image_size
        assert stacks["completed"].shape == (8, 3, size, size)
        sheet = contact_sheet(stacks)
        assert sheet.shape == (4 * size, 8 * size, 3)
        corner = sheet[2 * size : 3 * size, size : 2 * size]  # the second image's prediction
        assert np.array_equal(corner.transpose(2, 0, 1), stacks["prediction"][1])
        # What was visible is shown as it is, in every picture: 6 of 16 blocks, or 16 of 64.
        shown = (stacks["masked"] == stacks["original"]) & (
            stacks["completed"] == stacks["original"]
        )
        visible = 1 - config.mask_ratio
        assert shown.all(axis=1).mean(axis=(1, 2)).min() >= int(visible * 16) / 16


def test_contrast_predicts_no_picture():
    config = changed(RECIPES["cifar10-cmae"](), data="digits")
    images = first_images(samples_of(config), config)
    stacks = pictures(method_of(config), images, config)
    assert list(stacks) == ["original", "masked"]
    other = changed(RECIPES["cifar10-mae"](), data="digits")
    for key, stack in stacks.items():  # the same view as of MAE
        assert np.array_equal(stack, pictures(method_of(other), images, other)[key])


def test_a_link_to_a_run_that_works_takes_the_place_of_no_other_file(tmp_path):
    work, out, link = tmp_path / "run.1.partial", tmp_path / "run", tmp_path / "run.running"

    def begin():
        work.mkdir(exist_ok=True)
        log = Log(work, steps=1, batch_size=2, link=running_link(out))
        log(report(1))
        log.close()

    link.symlink_to("run.0.partial")  # of a run that was killed, and then removed
    begin()
    assert link.resolve() == work
    remove_link(link)
    assert (link / "log.jsonl").read_text()
    work.rename(out)
    remove_link(link)
    assert not link.is_symlink()
    link.mkdir()
    (link / "thesis.txt").touch()
    begin()
    remove_link(link)
    assert [path.name for path in link.iterdir()] == ["thesis.txt"]
    link.rename(tmp_path / "mine")
    link.symlink_to("mine")
    begin()
    assert link.resolve() == tmp_path / "mine"


def test_a_log_forgets_what_is_done_again(tmp_path):
    log = Log(tmp_path, steps=9, batch_size=2)
    for step in (1, 2, 3, 4):
        log(report(step))
    log.close()
    with (tmp_path / "log.jsonl").open("a") as lines:
        lines.write('{"step": 5, "lo')  # as a kill leaves it
    again = Log(tmp_path, steps=9, batch_size=2)
    for step in (3, 4, 5):
        again(report(step))
    again.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
    rows = again.rows("digits-vit", RECIPES["digits-vit"]())
    assert set(rows["setting"]) == {"method=a2mim size=32"}
    few = again.rows("digits-vit", changed(RECIPES["digits-vit"](), few=10))
    assert set(few["setting"]) == {"method=a2mim size=32 few=10"}
    assert rows["at"].tolist() == [1, 2, 3, 4, 5]
    assert np.allclose(rows["value"], 1 / rows["at"])


@pytest.mark.parametrize(
    "which",
    [
        "torch.utils.tensorboard.SummaryWriter.add_scalar",
        "torch.utils.tensorboard.SummaryWriter.close",
        "tensorboard.summary.writer.record_writer.RecordWriter.write",  # in a thread
    ],
)
def test_what_cannot_be_written_is_said(which, tmp_path, monkeypatch, capsys):
    log = Log(tmp_path, steps=9, batch_size=2)
    log(report(1))

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    def write():
        try:
            log(report(2))
        finally:
            log.close()

    with monkeypatch.context() as patch:
        patch.setattr(which, fail)
        with pytest.raises(UsageError) as caught:
            write()
    assert str(caught.value).startswith(f"cannot write to {tmp_path}: No space left on device; ")
    assert "the same command begins again" in str(caught.value)
    assert "Traceback" not in capsys.readouterr().err


def test_the_probe_sees_images_of_a_class_together():
    """Class k is an image of level k: neighbours are of one class, noise aside."""

    class Levels:
        labels_I = torch.arange(40) % 4

        def __len__(self):
            return 40

        def load(self, index, epoch):
            noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
            level = torch.zeros(3, 8, 8)
            level[:, :, 2 * int(self.labels_I[index]) :][:, :, :2] = 1
            return level + 0.1 * noise

    train, test = (SomeSamples(Levels(), range(a, a + 20)) for a in (0, 20))
    probe = OnlineKnn(train, test, batch_size=7, device=torch.device("cpu"))
    network = torch.nn.Flatten().train()
    assert probe(network) == 1.0
    assert network.training
