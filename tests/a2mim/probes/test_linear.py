import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from a2mim.data.sampler import Batches, keyed_generator
from a2mim.probes import linear as probe
from a2mim.probes import results
from a2mim.probes.features import Features
from a2mim.probes.linear import RECIPES, SgdRecipe, fit_linear, linear_probe, sgd_probe
from a2mim.probes.results import held_out_split


@pytest.mark.parametrize("kind", ["knn", "lbfgs", "sgd"])
def test_classes_far_apart_are_told_apart(kind, gaussians, probes):
    train, test = gaussians(300, 12, classes=4), gaussians(200, 12, classes=4, seed=1)
    result = probes()[kind](train, test)
    assert result.accuracy == 1
    assert result.interval[0] > 0.97
    assert torch.equal(result.predictions_J, test.labels_I)
    assert json.loads(json.dumps(result.settings)) == result.settings


@pytest.mark.parametrize("decay", [1e-3, 1e-1])
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_scikit_learns(decay, classes, gaussians):
    """Coefficients of a softmax; scikit-learn's two-class one is a sigmoid with w = w1 - w0."""
    train = gaussians(300, 1.5, classes=classes, scale=3.0)
    x, y = train.features_ID.double(), train.labels_I
    (weights, biases), gradient = probe._logistic(x, y, classes, decay, None)
    # for two classes ||w0||^2 + ||w1||^2 = ||w||^2 / 2 at the minimum
    penalty = decay if classes > 2 else decay / 2
    theirs = LogisticRegression(C=1 / (penalty * 300), tol=1e-10, max_iter=2000).fit(x, y)
    if classes == 2:
        weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
    else:  # of several biases only the differences are determined
        biases = biases - biases.mean() + theirs.intercept_.mean()
    np.testing.assert_allclose(weights.T, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(biases, theirs.intercept_, atol=1e-4)
    assert gradient <= probe.GRADIENT


def test_the_linear_probe_end_to_end_against_scikit_learn(gaussians):
    """Standardised by training statistics, predictions of all test images."""
    train, test = gaussians(200, 1.5, classes=4), gaussians(300, 1.5, classes=4, seed=1)
    spread = torch.tensor([100.0, 1.0, 0.01, 3.0, 1.0])
    train = replace(train, features_ID=train.features_ID * spread + 5)
    test = replace(test, features_ID=test.features_ID * spread + 5)
    result = linear_probe(train, test, weight_decays=[1e-2])
    mean, std = train.features_ID.double().mean(0), train.features_ID.double().std(0, False)
    scale = (std**2 + 1e-6).sqrt()
    theirs = LogisticRegression(C=1 / (1e-2 * 200), tol=1e-8, max_iter=1000)
    theirs.fit((train.features_ID - mean) / scale, train.labels_I)
    expected = theirs.predict((test.features_ID - mean) / scale)
    assert result.predictions_J.tolist() == expected.tolist()
    assert result.grid == ()
    assert result.chosen == result.settings["weight_decay"] == 1e-2
    assert result.settings["held_out"] is None
    other = linear_probe(train, test, weight_decays=[1e-2], seed=5)
    assert torch.equal(other.predictions_J, result.predictions_J)


@pytest.mark.parametrize("normalise", ["standardise", "none"])
def test_the_weights_of_a_fit_are_those_of_the_probe(normalise, gaussians):
    """By the formula, on features far from standardised."""
    train, test = gaussians(200, 1.5, classes=4), gaussians(300, 1.5, classes=4, seed=1)
    test = replace(test, features_ID=test.features_ID * 3 - 1)
    fit = fit_linear(train, weight_decays=(1e-2, 1e-1), normalise=normalise)
    x = (test.features_ID.double() - fit.mean_D) / fit.std_D
    predictions = (x @ fit.weight_KD.T + fit.bias_K).argmax(1)
    expected = linear_probe(train, test, weight_decays=(1e-2, 1e-1), normalise=normalise)
    assert torch.equal(predictions, expected.predictions_J)
    assert (fit.chosen, fit.grid) == (expected.chosen, expected.grid)
    assert fit.settings["weight_decay"] == fit.chosen
    with pytest.raises(ValueError, match="expected features with labels"):
        fit_linear(replace(train, labels_I=None))


def test_the_weight_decay_is_chosen_on_the_held_out_part(gaussians):
    train, test = gaussians(120, 2.0, width=60), gaussians(200, 2.0, width=60, seed=1)
    result = linear_probe(train, test, weight_decays=(1e-6, 1.0, 1e-1), held_out=0.3, seed=4)
    fit, held = held_out_split(train.labels_I, 0.3, 4)
    part = Features(train.features_ID[fit], train.labels_I[fit])
    rest = Features(train.features_ID[held], train.labels_I[held])
    expected = [(d, linear_probe(part, rest, weight_decays=[d]).accuracy) for d in (1, 0.1, 1e-6)]
    assert [decay for decay, _ in result.grid] == [1, 0.1, 1e-6]
    for (_, ours), (_, theirs) in zip(result.grid, expected, strict=True):
        assert abs(ours - theirs) < 1.5 / len(held)  # one image, where 1e-6 is badly determined
    best = max(accuracy for _, accuracy in result.grid)
    assert result.chosen == max(decay for decay, accuracy in result.grid if accuracy == best)
    alone = linear_probe(train, test, weight_decays=[result.chosen])
    assert torch.equal(alone.predictions_J, result.predictions_J)
    # test labels decide nothing
    flipped = replace(test, labels_I=1 - test.labels_I)
    blind = linear_probe(train, flipped, weight_decays=(1e-6, 1.0, 1e-1), held_out=0.3, seed=4)
    assert (blind.chosen, blind.grid) == (result.chosen, result.grid)
    assert blind.accuracy == pytest.approx(1 - result.accuracy)


def test_blocks_of_the_objective_do_not_matter(monkeypatch, gaussians):
    train, test = gaussians(150, 1.5, classes=4), gaussians(100, 1.5, classes=4, seed=1)
    whole = linear_probe(train, test)
    monkeypatch.setattr(results, "BLOCK", 35)
    parts = linear_probe(train, test)
    assert torch.equal(whole.predictions_J, parts.predictions_J)
    assert whole.chosen == parts.chosen
    assert all(a == pytest.approx(b) for a, b in zip(whole.grid, parts.grid, strict=True))


def test_iterations_that_are_not_enough(monkeypatch, gaussians):
    monkeypatch.setattr(probe, "ITERATIONS", 3)
    train = gaussians(100, 1.0)
    with pytest.warns(RuntimeWarning, match="after 3 iterations of L-BFGS, got"):
        result = linear_probe(train, train, weight_decays=[1e-6])
    assert result.settings["gradient"] > probe.GRADIENT


SCHEDULES = [("cosine", 0.0), ("step", 1e-3), ("constant", 1e-2)]


@pytest.mark.parametrize(("schedule", "decay"), SCHEDULES)
def test_sgd_is_torchs(schedule, decay, gaussians):
    """One learning rate of two, against torch.optim.SGD on nn.Linear with its schedulers."""
    recipe = SgdRecipe((0.5, 2.0), 5, 16, schedule, weight_decay=decay)
    train = gaussians(50, 1.5, classes=3)
    found = probe._sgd(train.features_ID, train.labels_I, 3, recipe, recipe.lrs, seed=7)
    first = 0.01 * torch.randn(6, 1, 3, generator=keyed_generator(7, "weights"))
    for lr, (weights, biases) in zip(recipe.lrs, found, strict=True):
        linear = nn.Linear(5, 3)
        linear.weight.data = first[:5, 0].T.clone()
        linear.bias.data.zero_()
        optimiser = torch.optim.SGD(linear.parameters(), lr, momentum=0.9, weight_decay=decay)
        by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5 * 3)
        by_epoch = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 4])
        for group in optimiser.param_groups:
            group["lr"] = lr
        batches = Batches(50, 16, seed=7)
        for step in range(15):
            rows = batches.at(step)
            optimiser.zero_grad()
            output = linear(train.features_ID[rows])
            functional.cross_entropy(output, train.labels_I[rows]).backward()
            optimiser.step()
            if schedule == "cosine":
                by_step.step()
            elif schedule == "step" and step % 3 == 2:
                by_epoch.step()
        torch.testing.assert_close(weights, linear.weight.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(biases, linear.bias, rtol=1e-4, atol=1e-5)


def test_learning_rates_together_are_learning_rates_alone(gaussians):
    train, test = gaussians(300, 1.5, classes=4), gaussians(400, 1.5, classes=4, seed=1)
    recipe = SgdRecipe((1.0, 1e-4, 0.1), epochs=4, batch_size=32)
    result = sgd_probe(train, test, recipe, seed=2)
    fit, held = held_out_split(train.labels_I, 0.2, 2)
    part = Features(train.features_ID[fit], train.labels_I[fit])
    rest = Features(train.features_ID[held], train.labels_I[held])
    for lr, accuracy in result.grid:
        alone = sgd_probe(part, rest, replace(recipe, lrs=(lr,)), seed=2)
        assert alone.accuracy == pytest.approx(accuracy)
        assert alone.grid == ()
    best = max(accuracy for _, accuracy in result.grid)
    assert result.chosen == min(lr for lr, accuracy in result.grid if accuracy == best)
    assert [lr for lr, _ in result.grid] == result.settings["lrs"] == [1e-4, 0.1, 1.0]
    alone = sgd_probe(train, test, replace(recipe, lrs=(result.chosen,)), seed=2)
    assert torch.equal(alone.predictions_J, result.predictions_J)
    assert result.settings["views"] == "one per image"
    assert result.settings["normalise"] == "none"


def test_sgd_that_diverges(gaussians):
    train = gaussians(64, 1.0, scale=1e30)
    recipe = SgdRecipe((1.0,), epochs=30, batch_size=16, weight_decay=10.0)
    with pytest.raises(FloatingPointError, match="diverge at the learning rate 1; use a smaller"):
        sgd_probe(train, train, recipe)
    standardised = replace(recipe, lrs=(1e-3, 1e3), weight_decay=0.1, normalise="standardise")
    result = sgd_probe(gaussians(640, 6.0), gaussians(64, 6.0), standardised)
    assert result.chosen == 1e-3
    assert math.isnan(result.grid[1][1])
    assert result.accuracy > 0.95


def test_recipes_are_those_of_the_specification():
    rows = {
        name: (r.lrs, r.epochs, r.batch_size, r.schedule, r.momentum, r.weight_decay, r.normalise)
        for name, r in RECIPES.items()
    }
    rest = (0.9, 0.0, "none")
    assert rows == {
        "in1k-resnet": ((30,), 100, 256, "step", *rest),
        "in1k-vit": ((12,), 90, 1024, "cosine", *rest),
        "cifar100-resnet50": ((0.1,), 100, 256, "cosine", *rest),
        "cifar100-resnet18": ((1,), 100, 256, "cosine", *rest),
        "cifar100-deit": ((1,), 100, 512, "cosine", *rest),
        "stl10-resnet50": ((1,), 100, 256, "cosine", *rest),
        "stl10-deit": ((0.1,), 100, 512, "cosine", *rest),
    }
    step = RECIPES["in1k-resnet"]
    drops = [step.factor(epoch * 10 + 5, 1000) for epoch in (0, 59, 60, 79, 80, 99)]
    assert drops == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lrs": ()}, "different positive learning rates"),
        ({"lrs": (0.1, 0.1)}, "different positive learning rates"),
        ({"lrs": (0.0,)}, "different positive learning rates"),
        ({"epochs": 0}, "at least 1 epoch"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight decay of at least 0"),
        ({"schedule": "linear"}, "got 'linear'"),
        ({"normalise": "batch"}, "'standardise', 'l2' or 'none', got 'batch'"),
    ],
)
def test_recipes_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SgdRecipe(**{"lrs": (0.1,), **arguments})


def test_features_that_do_not_go_together(gaussians, probes):
    train = gaussians(30, 1.0)
    with pytest.raises(ValueError, match="features with labels"):
        linear_probe(train, replace(train, labels_I=None))
    with pytest.raises(ValueError, match="the same number of features, got 5 and 4"):
        linear_probe(train, Features(train.features_ID[:, :4], train.labels_I))
    with pytest.raises(ValueError, match="among the 2 of training, got 7"):
        linear_probe(train, replace(train, labels_I=torch.full((30,), 7)))
    with pytest.raises(ValueError, match="expected images, got 30 and 0"):
        linear_probe(train, Features(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)))
    pooled = replace(train, setting={"readout": {"pool": "mean"}, "images": {"count": 1}})
    for kind in probes().values():
        with pytest.raises(ValueError, match="the same readout for training and test"):
            kind(pooled, train)
    other = replace(pooled, setting={"readout": {"pool": "mean"}, "images": {"count": 2}})
    settings = linear_probe(pooled, other).settings
    assert settings["features"] == {"readout": {"pool": "mean"}}
    assert settings["images"] == {"train": {"count": 1}, "test": {"count": 2}}
    with pytest.raises(ValueError, match="weight decays of at least 0"):
        linear_probe(train, train, weight_decays=[])
    with pytest.raises(ValueError, match="got 'batch'"):
        linear_probe(train, train, normalise="batch")
    with pytest.raises(ValueError, match="at least 256 images for a batch, got 30"):
        sgd_probe(train, train, RECIPES["stl10-resnet50"])
