from dataclasses import replace

import pytest

from a2mim.messages import UsageError
from experiments.cifar10.plan import RATES, Plan, budget_of, fitted, timed
from experiments.cifar10.sizes import LARGE, SMALL, TINY
from experiments.cifar10.stages import total

FAST = dict.fromkeys([*RATES, "vit forward", "resnet forward"], 1000.0)


def test_budgets():
    assert budget_of("3h-cpu") == ("cpu", 21600)
    assert budget_of("8min-gpu") == ("cuda", 480)
    assert budget_of("1.5")[1] == 90
    for words in ("soon", "0", "-1", "nan"):
        with pytest.raises(UsageError):
            budget_of(words)


def test_a_plan_fits_and_one_epoch_more_does_not():
    size, _ = fitted((LARGE, SMALL, TINY), lambda _: FAST, total, 3000)
    assert size.name == "small"
    more = SMALL.stretched(size.finetune_epochs - SMALL.finetune_epochs + 1)
    assert total(size, FAST) <= 3000 < total(more, FAST)


def test_twice_the_speed_is_more_epochs():
    slow, fast = (
        fitted((SMALL,), lambda _, r=rate: dict.fromkeys(FAST, r), total, 20_000)[0]
        for rate in (100.0, 200.0)
    )
    assert fast.finetune_epochs > slow.finetune_epochs


def test_too_small_a_budget_is_one_line():
    with pytest.raises(UsageError, match="at least"):
        fitted((SMALL, TINY), lambda _: FAST, total, 1)


def test_there_and_back(tmp_path):
    plan = Plan(TINY, FAST, "3h-cpu", 1.0, "cpu", "images")
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


def test_a_plan_of_other_code_is_one_line(tmp_path):
    (tmp_path / "plan.json").write_text('{"size": {"shape": 1}}')
    with pytest.raises(UsageError, match="version"):
        Plan.read(tmp_path / "plan.json")


def test_rates_are_of_all_kinds_of_work(monkeypatch):
    monkeypatch.setattr("experiments.cifar10.plan._seconds", lambda step, device: (step(), 2.0)[1])
    assert timed(replace(TINY, batch=4), "cpu") == dict.fromkeys(FAST, 2.0)
