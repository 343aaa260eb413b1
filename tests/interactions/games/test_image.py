import pytest
import torch
from timm import create_model
from torch import nn

from interactions import fills
from interactions.games.base import REWARDS, log_odds
from interactions.games.image import PatchGame, PatchGames
from interactions.patches import PatchGrid, hide

GRID = PatchGrid(4, 4)


def make_model(name="test_vit", classes=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, num_classes=classes, img_size=32).eval()


def make_images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def make_coalitions(count, n, seed=2):
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_values_against_a_loop_over_single_images():
    model, image = make_model(), make_images(1)[0]
    game = PatchGame(model, image, label=3, players=GRID)
    coalitions = make_coalitions(6, 16)
    for coalition, value in zip(coalitions, game(coalitions), strict=True):
        masked = image.clone()
        for k in range(16):
            if not coalition[k]:
                masked[:, 8 * (k // 4) : 8 * (k // 4) + 8, 8 * (k % 4) : 8 * (k % 4) + 8] = 0
        with torch.inference_mode():
            z = model(masked[None]).double()[0]
        expected = z[3] - z[[0, 1, 2, 4]].logsumexp(0)
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_batch_size_does_not_change_values(name):
    """In float64, where kernels of different batch sizes agree to the last digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(name, num_classes=5).eval().double()
    size = model.default_cfg["input_size"][-1]
    image = make_images(1, size)[0].double()
    coalitions = make_coalitions(7, 16)
    values = [
        PatchGame(model, image, 0, GRID, batch_size=batch)(coalitions) for batch in (1, 3, 256)
    ]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], atol=1e-10, rtol=0)


def test_the_full_coalition_is_the_image_and_the_empty_one_the_fill():
    model, image = make_model(), make_images(1)[0]
    game = PatchGame(model, image, 0, GRID, fill=fills.image_mean, reward=REWARDS["logit"])
    both = game(torch.stack([torch.ones(16), torch.zeros(16)]).bool())
    blank = fills.image_mean(image[None]).expand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = torch.cat([model(image[None]), model(blank)])[:, 0].double()
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)


def test_games_of_a_batch():
    model, images = make_model(), make_images(3)
    games = PatchGames(model, images, torch.tensor([0, 4, 2]), GRID, names=["a", "b", "c"])
    assert [game.image for game in games] == ["a", "b", "c"]
    assert [game.label for game in games] == [0, 4, 2]
    assert len(games) == 3
    coalitions = make_coalitions(4, 16)
    alone = PatchGame(model, images[1], 4, GRID)
    torch.testing.assert_close(games[1](coalitions), alone(coalitions))
    assert games[-1].image == "c"
    with pytest.raises(IndexError):
        games[3]
    assert [g.image for g in PatchGames(model, images, [0, 0, 0], GRID)] == ["0", "1", "2"]


def test_no_coalitions_no_values():
    game = PatchGame(make_model(), make_images(1)[0], 0, GRID)
    assert game(torch.zeros(0, 16, dtype=torch.bool)).shape == (0,)


class Small(nn.Module):
    """A model on a device with room for three images."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return images.flatten(1)[:, :2]


def test_batches_shrink_until_they_fit():
    image, coalitions = make_images(1)[0], make_coalitions(8, 16)
    model = Small().eval()
    values = PatchGame(model, image, 0, GRID, batch_size=8)(coalitions)
    assert model.sizes == [8, 4, 2, 2, 2, 2]
    torch.testing.assert_close(values, PatchGame(model, image, 0, GRID, batch_size=1)(coalitions))


def test_a_device_without_room_for_one_image_is_an_error():
    class Full(nn.Module):
        def forward(self, images):
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        PatchGame(Full().eval(), make_images(1)[0], 0, GRID)(make_coalitions(2, 16))


class Broken(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output.expand(len(images), *self.output.shape[1:])


def test_bad_input_names_the_image_and_the_problem():
    model, image = make_model(), make_images(1)[0]
    everything = torch.ones(1, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"image cat\.png: label 5 is not one of the model's 5"):
        PatchGame(model, image, 5, GRID, image="cat.png")(everything)
    with pytest.raises(ValueError, match=r"image cat\.png: the model gave values that are not fin"):
        PatchGame(Broken(torch.tensor([[torch.nan, 0]])).eval(), image, 0, GRID, "cat.png")(
            everything
        )
    with pytest.raises(ValueError, match=r"logits \(B, classes\), got \(1, 2, 3\)"):
        PatchGame(Broken(torch.zeros(1, 2, 3)).eval(), image, 0, GRID)(everything)
    with pytest.raises(ValueError, match=r"call model.eval"):
        PatchGame(make_model().train(), image, 0, GRID)
    with pytest.raises(ValueError, match=r"image cat\.png: expected .* a 5 x 5 grid divides"):
        PatchGame(model, image, 0, PatchGrid(5, 5), image="cat.png")
    with pytest.raises(ValueError, match=r"\(C, H, W\), got \(32, 32\)"):
        PatchGame(model, image[0], 0, GRID)
    with pytest.raises(ValueError, match="at least 1 for batch_size"):
        PatchGame(model, image, 0, GRID, batch_size=0)
    with pytest.raises(ValueError, match="expected 2 labels, got 1"):
        PatchGames(model, make_images(2), [0], GRID)
    with pytest.raises(ValueError, match="distinct image names"):
        PatchGames(model, make_images(2), [0, 1], GRID, names=["a", "a"])
    with pytest.raises(ValueError, match="with B > 0"):
        PatchGames(model, make_images(2)[:0], [], GRID)


def test_labels_by_prediction_and_one_for_all():
    model, images = make_model(), make_images(3)
    with torch.inference_mode():
        expected = model(images).argmax(dim=1).tolist()
    games = PatchGames(model, images, "prediction", GRID)
    assert [game.label for game in games] == expected
    assert [game.label for game in PatchGames(model, images, 4, GRID)] == [4, 4, 4]
    with pytest.raises(ValueError, match="labels or 'prediction', got 'truth'"):
        PatchGames(model, images, "truth", GRID)


def test_players_of_each_image():
    model, images = make_model(), make_images(2)
    games = PatchGames(model, images, 0, [GRID, PatchGrid(2, 2)])
    assert [game.n for game in games] == [16, 4]
    with pytest.raises(ValueError, match="expected 2 divisions into players, got 1"):
        PatchGames(model, images, 0, [GRID])


class Wrapped(nn.Module):
    """Gives its logits away inside of something else, as models of other libraries do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return {"scores": self.model(images)}


def test_any_module_with_a_reward_that_reads_it():
    model, image = make_model(), make_images(1)[0]
    coalitions = make_coalitions(5, 16)
    game = PatchGame(
        Wrapped(model).eval(), image, 2, GRID, reward=lambda out, k: log_odds(out["scores"], k)
    )
    torch.testing.assert_close(game(coalitions), PatchGame(model, image, 2, GRID)(coalitions))
    with pytest.raises(ValueError, match="got dict; give a reward that reads"):
        PatchGame(Wrapped(model).eval(), image, 2, GRID)(coalitions)


def test_half_precision_differs_a_little_and_its_precise_twin_does_not():
    model, image = make_model(), make_images(1)[0]
    coalitions = make_coalitions(5, 16)
    exact = PatchGame(model, image, 2, GRID)
    half = PatchGame(model, image, 2, GRID, precision="float16")
    error = (half(coalitions) - exact(coalitions)).abs().max()
    assert 0 < error < 0.05
    assert exact.precise is exact
    assert torch.equal(half.precise(coalitions), exact(coalitions))
    coarse = PatchGame(model, image, 2, GRID, precision="bfloat16")
    assert error < (coarse(coalitions) - exact(coalitions)).abs().max() < 0.5
    with pytest.raises(ValueError, match="got 'float8'"):
        PatchGame(model, image, 2, GRID, precision="float8")


def test_a_network_is_played_as_it_is():
    model, image = make_model().double(), make_images(1)[0]
    coalitions = make_coalitions(5, 16)
    own = PatchGame(model, image, 2, GRID, precision="model")
    assert own.precise is own
    expected = model(hide(image[None].double(), coalitions, GRID, torch.zeros(1)))
    torch.testing.assert_close(own(coalitions), REWARDS["log_odds"](expected, 2))
