import pytest
import torch
from torch import nn
from torch.nn import functional as F

from a2mim.training.plain import batch_indices, train

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def test_batches_are_whole_epochs_in_keyed_orders():
    batches = list(batch_indices(10, 3, 6, seed=0))
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    for epoch in (first, second):
        assert len(epoch.unique()) == 9
    assert not torch.equal(first, second)
    again = list(batch_indices(10, 3, 4, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(again, batches, strict=False))
    assert not torch.equal(torch.cat(list(batch_indices(10, 3, 3, seed=1))), first)
    with pytest.raises(ValueError, match="at least 11 images for a batch, got 10"):
        next(batch_indices(10, 11, 1, seed=0))


def fit(seed=0, steps=60, on_step=lambda losses: None, noise=0.0, lr=0.05):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def losses(indices, generator):
        x = X[indices] + noise * torch.randn(len(indices), 4, generator=generator)
        return {"loss": F.cross_entropy(model(x), Y[indices]), "one": torch.ones(())}

    history = train(
        model, losses, 20, steps=steps, batch_size=5, lr=lr, warmup=5, seed=seed, on_step=on_step
    )
    return model, history


def test_it_learns_and_ends_in_eval_mode():
    seen = []
    model, history = fit(on_step=seen.append)
    assert history[-1] < 0.1 < history[0]
    assert not model.training
    assert [s["loss"] for s in seen] == history
    assert seen[0]["one"] == 1


def test_the_seed_decides_everything():
    torch.manual_seed(1)
    _, one = fit(noise=0.1)
    torch.manual_seed(2)
    _, two = fit(noise=0.1)
    assert one == two
    assert fit(seed=1, noise=0.1)[1] != one


def test_a_draw_depends_on_its_step_and_not_on_the_steps_before():
    drawn = []

    def losses(indices, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return {"loss": weight.sum() ** 2}

    weight = nn.Parameter(torch.ones(1))
    holder = nn.ParameterList([weight])
    for steps in (4, 6):
        train(holder, losses, 20, steps=steps, batch_size=5, lr=0.1, warmup=1)
    assert drawn[:4] == drawn[4:8]
    assert len(set(drawn)) == 6


def test_a_loss_that_is_not_finite_stops_the_run():
    module = nn.Linear(1, 1)
    with pytest.raises(
        FloatingPointError, match="the loss is nan at step 0; lower the learning rate"
    ):
        train(
            module,
            lambda indices, generator: {"loss": module.weight.sum() * torch.nan},
            8,
            steps=2,
            batch_size=4,
            lr=0.1,
            warmup=1,
        )
