import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from a2mim.training import state
from a2mim.training.state import (
    CheckpointError,
    latest,
    load_checkpoint,
    load_latest,
    prepare_folder,
    restore,
    save_checkpoint,
)

SETTINGS = {"seed": 0, "optimiser": {"betas": (0.9, 0.95)}, "lr": [0.1, 0.2]}


def make(seed=0, kind=torch.optim.AdamW, steps=2, width=3):
    """A network with a convolution, tied weights and buffers, a few steps trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4))
        model.append(nn.Linear(4, 4))
        model.append(nn.Linear(4, width))
        x = torch.randn(5, 3, 3, 3)
    model[4].weight = model[5].weight if width == 4 else model[4].weight
    groups = [{"params": model[:3].parameters(), "weight_decay": 0.1, "lr_scale": 0.5}]
    groups.append({"params": model[3:].parameters(), "weight_decay": 0.0, "lr_scale": 1.0})
    optimiser = kind(groups, lr=0.01)
    for _ in range(steps):
        model(x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return model, optimiser, x


def save(folder, step=2, keep=2, settings=SETTINGS, **made):
    model, optimiser, _ = make(**made)
    return save_checkpoint(
        folder,
        step,
        modules={"model": model},
        optimiser=optimiser,
        settings=settings,
        scalars={"scaler": {"scale": 65536.0}},
        keep=keep,
    )


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop])
def test_a_restored_run_goes_on_to_the_bit(kind, tmp_path):
    model, optimiser, x = make(kind=kind)
    save(tmp_path, kind=kind)
    other, fresh, _ = make(seed=1, kind=kind, steps=0)
    other.to(memory_format=torch.channels_last)
    found = load_latest(tmp_path, SETTINGS)
    assert found is not None
    assert (found.step, found.scalars) == (2, {"scaler": {"scale": 65536.0}})
    restore(found, {"model": other}, fresh)
    assert same(model.state_dict(), other.state_dict())
    for group, again in zip(optimiser.param_groups, fresh.param_groups, strict=True):
        assert {**group, "params": 0} == {**again, "params": 0}
        assert type(group.get("betas")) is type(again.get("betas"))
    kernel = other[0].weight
    for moment in fresh.state[kernel].values():
        if moment.ndim == 4:
            assert moment.stride() == kernel.stride() != moment.contiguous().stride()
    other.to(memory_format=torch.contiguous_format)  # else another convolution rounds differently
    for network, rule in ((model, optimiser), (other, fresh)):
        network(x).square().mean().backward()
        rule.step()
    assert same(model.state_dict(), other.state_dict())


def test_low_precision_tied_weights_and_empty_states_come_back(tmp_path):
    model, optimiser, _ = make(width=4, steps=0)
    model.bfloat16()
    save_checkpoint(tmp_path, 0, modules={"m": model}, optimiser=optimiser, settings={})
    other, fresh, _ = make(width=4, steps=0, seed=1)
    restore(load_checkpoint(latest(tmp_path)), {"m": other.bfloat16()}, fresh)
    assert same(model.state_dict(), other.state_dict())
    assert not fresh.state


def test_nothing_is_pickled_and_the_last_ones_stay(tmp_path):
    assert latest(tmp_path / "none") is None
    assert load_latest(tmp_path, SETTINGS) is None
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000000002.safetensors",
        "step-000000003.safetensors",
    ]
    head = (tmp_path / "step-000000003.safetensors").read_bytes()
    size = int.from_bytes(head[:8], "little")
    assert json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["a2mim"])["step"] == 3
    # a run that is at step 2 again: step 3 was of no use
    save(tmp_path, 2, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000002.safetensors"]
    with pytest.raises(ValueError, match="keep at least 1 checkpoint, got 0"):
        save(tmp_path, 4, keep=0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def rewrite(path):
    path.write_bytes(path.read_bytes().replace(b'"seed\\": 0', b'"seed\\": 1'))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, rewrite, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    with pytest.warns(RuntimeWarning, match=r"step-000000002.*; going on from the one before"):
        found = load_latest(tmp_path, SETTINGS)
    assert found is not None
    assert found.step == 1
    damage(found.path)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(CheckpointError, match="all 2 are damaged; remove them to start again"),
    ):
        load_latest(tmp_path, SETTINGS)


def test_other_settings_are_refused_by_name(tmp_path):
    save(tmp_path, 1)
    other = {"seed": 1, "optimiser": {"betas": [0.9, 0.999]}, "lr": (0.1, 0.2), "clip": 5.0}
    with pytest.raises(CheckpointError) as caught:
        load_latest(tmp_path, other)
    assert (
        "got another one: seed: 0 there, 1 here; optimiser.betas.1: 0.95 there, 0.999 here; "
        "clip: nothing there, 5.0 here; use the same settings or another folder"
    ) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_version_is_not_taken_for_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "VERSION", 2)
    save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"of version 1, .* has 2; use the code that wrote it"
    ):
        load_latest(tmp_path, SETTINGS)


def test_another_model_or_optimiser_changes_nothing(tmp_path):
    found = load_checkpoint(save(tmp_path))
    model, optimiser, _ = make(width=5, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"5.bias is \(3,\) there and \(5,\) here"):
        restore(found, {"model": model}, optimiser)
    with pytest.raises(CheckpointError, match=r"the ema of .*: 0.bias is missing there and \(4,\)"):
        restore(found, {"ema": model}, optimiser)
    model, _, _ = make(seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="expected the optimiser of"):
        restore(found, {"model": model}, torch.optim.SGD(model[0].parameters(), lr=0.1))
    assert same(before, model.state_dict())


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_as_safetensors_says(*args, **kwargs):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        (state, "save_file", disk_full),
        (state, "save_file", disk_full_as_safetensors_says),
        (os, "fsync", disk_full),
        (os, "replace", disk_full),
    ],
)
def test_a_full_disk_leaves_the_last_good_checkpoint(owner, name, failure, tmp_path, monkeypatch):
    for first in (True, False):
        monkeypatch.setattr(owner, name, failure)
        last = "no earlier one" if first else "last good checkpoint is step-000000001.safetensors"
        with pytest.raises(CheckpointError, match=rf"step 2 .*No space left on device.*{last}"):
            save(tmp_path, 2, keep=1)
        monkeypatch.undo()
        if first:
            assert not list(tmp_path.iterdir())
            save(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert load_latest(tmp_path, SETTINGS).step == 1


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with pytest.raises(CheckpointError, match=r"can be written, got .*: Not a directory; choose"):
        prepare_folder(folder)
    with pytest.raises(
        CheckpointError, match=r"cannot save step 2 to .*: Not a directory; there is"
    ):
        save(folder)
    prepare_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    model, optimiser, _ = make()
    path = save_checkpoint(
        tmp_path, 2, modules={"m": model}, optimiser=optimiser, settings={}, write=False
    )
    assert path == tmp_path / "step-000000002.safetensors"
    assert not list(tmp_path.iterdir())


def test_others_may_read_it_as_far_as_they_may_read_files(tmp_path):
    (tmp_path / "file").touch()
    assert save(tmp_path).stat().st_mode == (tmp_path / "file").stat().st_mode


def test_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / "step-000000002.safetensors.7.partial").write_bytes(b"half")
    (tmp_path / ".tmpXYZ").write_bytes(b"half")
    assert latest(tmp_path) is None
    save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000002.safetensors"]


def test_an_optimiser_that_keeps_something_else_is_refused(tmp_path):
    model, optimiser, _ = make()
    optimiser.param_groups[0]["schedule"] = print
    with pytest.raises(TypeError, match="AdamW keeps a builtin_function_or_method as schedule"):
        save_checkpoint(tmp_path, 1, modules={"m": model}, optimiser=optimiser, settings={})


def test_how_an_optimiser_computes_is_its_own_matter(tmp_path):
    """A run that began with one kernel for all parameters goes on without, and the other way."""
    for fused in (True, None):
        made = [nn.Linear(3, 2), nn.Linear(3, 2)]
        ours = torch.optim.AdamW(made[0].parameters(), lr=0.1, fused=fused)
        made[0](torch.ones(1, 3)).sum().backward()
        ours.step()
        folder = tmp_path / str(fused)
        save_checkpoint(folder, 1, modules={"m": made[0]}, optimiser=ours, settings={})
        theirs = torch.optim.AdamW(made[1].parameters(), lr=0.2, fused=None if fused else True)
        restore(load_latest(folder, {}), {"m": made[1]}, theirs)
        assert theirs.param_groups[0]["fused"] is (None if fused else True)
        assert theirs.param_groups[0]["lr"] == 0.1
        for one in made:
            one.zero_grad()
            one(torch.ones(1, 3)).sum().backward()
        ours.step()
        theirs.step()
        torch.testing.assert_close(made[0].weight, made[1].weight, rtol=0, atol=1e-6)
