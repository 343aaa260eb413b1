"""The study itself, tiny, on generated images; and that a killed stage goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from a2mim.messages import UsageError
from a2mim.runs.table import read_table
from experiments.cifar10.__main__ import Study, chosen, said, settled, work
from experiments.cifar10.arms import UNTRAINED
from experiments.cifar10.claims import claims
from experiments.cifar10.plan import RATES, Plan
from experiments.cifar10.report import report
from experiments.cifar10.sizes import LARGE, TINY
from experiments.cifar10.stages import choose_images, look_of, stages_of
from experiments.cifar10.tables import read_rows

FAST = dict.fromkeys([*RATES, "vit forward", "resnet forward"], 1000.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Coloured squares on noise, of two classes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 16)):
        for name in range(2):
            folder = root / split / f"class{name}"
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 80, (32, 32, 3))
                y, x = rng.integers(4, 20, 2)
                pixels[y : y + 8, x : x + 8, name] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k:03d}.png")
    return root


def test_every_stage_comes_after_what_it_needs():
    for size in (TINY, LARGE):
        seen = set()
        for stage in stages_of(size):
            assert set(stage.needs) <= seen
            assert stage.name not in seen
            seen.add(stage.name)


def test_what_claims_are_about_is_measured_somewhere():
    """Names of arms, measures and settings, in a study of everything."""
    kinds = {
        "accuracy": ("features", ""),
        "linear probe": ("features", ""),
        "occluded accuracy, mean": ("features", "random zero", "salient zero"),
        "occluded accuracy, mean less clean": ("features", "random zero"),
        "similarity, mean": ("features", "encoder", "fine-tuned"),
        "J middle": ("strength", "fine-tuned"),
    }
    size = replace(TINY, extra_seeds=1)
    there = {(s.kind, s.arm.arch, s.arm.name) for s in stages_of(size) if s.arm}
    untrained = {(s.arm.arch, UNTRAINED) for s in stages_of(size) if s.kind == "untrained"}
    for claim in claims(1):
        settings = claim.setting.split("/")
        for arm, setting in ((claim.arm, settings[0]), (claim.minus, settings[-1])):
            kind, *known = kinds[claim.measure]
            if setting.startswith("epoch"):
                kind, known = "along", ["epoch 0", "epoch 1"]
            assert setting in known
            assert (kind, claim.arch, arm) in there or (claim.arch, arm) in untrained, claim


def test_the_first_seed_of_all_arms_comes_first():
    seeds = [s.arm.seed for s in stages_of(replace(TINY, seeds=3)) if s.kind == "strength"]
    assert seeds == sorted(seeds)


def test_as_many_images_of_each_class(images, tmp_path):
    look, available = look_of(images)
    assert look["image_size"] == 32
    assert available == (64, 32)
    choose_images(images, tmp_path, replace(TINY, train=10, test=4))
    for split, count in (("train", 5), ("val", 2)):
        for name in ("class0", "class1"):
            assert len(list((tmp_path / split / name).iterdir())) == count
    first = sorted(path.name for path in tmp_path.rglob("*.png"))
    choose_images(images, tmp_path, replace(TINY, train=10, test=4))
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == first


def test_shares_are_all_stages_once_but_for_the_reference(tmp_path):
    stages = stages_of(TINY)
    shares = [
        {s.name for s in chosen(Study(tmp_path, tmp_path, share=f"{k}/3"), stages)}
        for k in (1, 2, 3)
    ]
    assert set.union(*shares) == {stage.name for stage in stages}
    common = {"data", "finetune-vit-scratch-1000"}
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert shares[a] & shares[b] == common
    for share in shares:  # each can be done alone
        assert all(set(s.needs) <= share for s in stages if s.name in share)
    for wrong in ("0/2", "3/2", "half"):
        with pytest.raises(UsageError, match="share"):
            chosen(Study(tmp_path, tmp_path, share=wrong), stages)


def test_a_plan_stays_and_another_budget_is_refused(tmp_path):
    plan = Plan(TINY, FAST, "3", 180.0, "cpu", "squares")
    plan.write(tmp_path / "plan.json")
    assert settled(Study(tmp_path / "gone", tmp_path, budget="3")) == plan
    with pytest.raises(UsageError, match="--budget 3"):
        settled(Study(tmp_path / "gone", tmp_path, budget="4"))


def test_a_plan_grows_by_seeds_and_never_shrinks(tmp_path):
    plan = Plan(replace(TINY, seeds=2), FAST, "3", 180.0, "cpu", "squares")
    plan.write(tmp_path / "plan.json")
    more = Study(tmp_path / "gone", tmp_path, budget="3", seeds=3, extra_seeds=1, ablation_seeds=2)
    grown = replace(plan, size=replace(plan.size, seeds=3, extra_seeds=1, ablation_seeds=2))
    assert settled(replace(more, plan=True)) == grown
    assert Plan.read(tmp_path / "plan.json") == plan  # which was only asked about
    assert settled(more) == grown
    assert settled(Study(tmp_path / "gone", tmp_path, budget="3")) == grown
    before, after = ([s.name for s in stages_of(of.size)] for of in (plan, grown))
    assert after[: len(before)] == before  # nothing is done again
    with pytest.raises(UsageError, match="--seeds of at least 3"):
        settled(replace(more, seeds=2))


def test_what_is_left_is_said(tmp_path):
    plan = Plan(TINY, FAST, "3", 180.0, "cpu", "squares")
    stages = stages_of(TINY)
    (tmp_path / "done").mkdir()
    (tmp_path / "done/data.json").write_text("{}")
    assert f"left: {len(stages) - 1} of {len(stages)} stages" in said(plan, stages, tmp_path)


@pytest.mark.integration
def test_the_study_from_images_to_the_write_up(images, tmp_path):
    plan = Plan(TINY, FAST, "3", 180.0, "cpu", "squares")
    words = ("data", "1000", "vit-scratch-0", "resnet-a2mim-0")
    stages = [s for s in stages_of(TINY) if any(word in s.name for word in words)]
    study = Study(images, tmp_path)
    tmp_path.joinpath("done").mkdir()
    assert not work(study, plan, stages)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert not work(study, plan, stages)  # nothing is done again
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert all(path.stat().st_size < 16e6 for path in tmp_path.rglob("*"))
    report(plan, tmp_path, tmp_path / "results")
    page = (tmp_path / "results/README.md").read_text()
    assert (
        "middle orders rise from the untrained network to the end of pre-training, ResNet" in page
    )
    assert "no interval from one seed" in page
    similar = read_rows(tmp_path / "results/rows.csv.gz").query("measure == 'similarity'")
    said = set(similar[["arch", "arm", "setting"]].itertuples(index=False, name=None))
    assert said == {
        ("vit", "scratch", "fine-tuned"),
        *(("resnet", "a2mim", state) for state in ("encoder", "fine-tuned")),
        ("resnet", "untrained", "encoder"),
    }
    similar = similar[similar["arch"] == "vit"]
    told = read_table(tmp_path / "runs/invariance-vit-scratch-0/rows.csv")
    told = told[(told["measure"] == "invariance_centred_cosine") & (told["at"] > 0)]
    told = told[~told["setting"].str.contains("layer=output")]
    np.testing.assert_allclose(
        similar.groupby("at")["value"].mean(), told["value"], rtol=1e-4
    )  # one hidden fraction, layers in their order
    names = ("orders", "orders-published", "occlusion-zero", "along", "depth", "invariance")
    for name in (*names, "claims"):
        assert (tmp_path / f"results/{name}.svg").stat().st_size > 1000
    # No path of the machine is in what is meant to be published.
    for path in (tmp_path / "results").glob("*.csv"):
        assert str(tmp_path) not in path.read_text()


@pytest.mark.slow
def test_a_killed_stage_goes_on_from_its_checkpoint(images, tmp_path):
    size = replace(TINY, pretrain_epochs=60)
    backbones = []
    for name, killed in (("whole", False), ("killed", True)):
        out = tmp_path / name
        out.mkdir()
        Plan(size, FAST, "3", 180.0, "cpu", "squares").write(out / "plan.json")
        command = [sys.executable, "-m", "experiments.cifar10", "--data", str(images)]
        command += ["--out", str(out), "--budget", "3", "--stages", "data", "pretrain-vit-mae-0"]
        if killed:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while not list(out.glob("runs/*.partial/checkpoints/*")):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert not (out / "done/pretrain-vit-mae-0.json").exists()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        backbones.append((out / "runs/pretrain-vit-mae-0/backbone.safetensors").read_bytes())
    assert backbones[0] == backbones[1]
