import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interactions as ix
from interactions import fills
from interactions.inputs import (
    batches_of,
    coalitions_of,
    colours_of,
    fill_of,
    label_of,
    labels_of,
    logits_of,
    names_of,
    prepare,
    visible_picture,
)

GRID = ix.PatchGrid(4, 4)


def make_model(size=32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("test_vit", num_classes=5, img_size=size).eval()


def pixels(seed=0, size=(40, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_pictures_of_every_kind_are_what_the_own_preparation_of_the_model_gives(tmp_path):
    from timm.data import create_transform, resolve_model_data_config

    model, image = make_model(), pixels()
    file = tmp_path / "a.png"
    Image.fromarray(image).save(file)
    config = resolve_model_data_config(model) | {"input_size": (3, 32, 32)}
    expected = create_transform(**config, is_training=False)(Image.fromarray(image))
    assert expected.shape == (3, 32, 32)
    for given in (
        image,
        torch.from_numpy(image),
        torch.from_numpy(image).permute(2, 0, 1),  # as torchvision reads files
        Image.fromarray(image),
        Image.fromarray(image).convert("RGBA"),
        file,
        str(file),
    ):
        torch.testing.assert_close(prepare(given, model), expected[None], atol=0, rtol=0)
    torch.testing.assert_close(prepare([file, image], model)[1], expected, atol=0, rtol=0)
    grey = prepare(image[:, :, 0], model)
    torch.testing.assert_close(
        grey, prepare(np.repeat(image[:, :, :1], 3, axis=2), model), atol=0, rtol=0
    )


def test_the_orientation_of_a_photograph_is_honoured(tmp_path):
    file, image = tmp_path / "turned.jpg", Image.fromarray(pixels())
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(file, exif=exif, quality=100)
    picture = prepare(file, transform=lambda im: torch.zeros(3, im.height, im.width))
    assert picture.shape == (1, 3, 50, 40)


def test_what_is_ready_is_taken_as_it_is():
    ready = torch.randn(2, 3, 8, 8)
    assert prepare(ready) is ready
    assert prepare(ready[0]).shape == (1, 3, 8, 8)
    torch.testing.assert_close(prepare(ready.numpy()), ready, atol=0, rtol=0)
    torch.testing.assert_close(prepare(list(ready)), ready, atol=0, rtol=0)
    assert prepare(ready.double().numpy()).dtype == torch.float32
    assert prepare(ready.double()).dtype == torch.float64


def test_floats_of_8_bits_are_no_images_that_are_ready():
    """In whatever they come; of a network that does not say how it sees, there is a warning."""
    model, image = make_model(), pixels(size=(32, 32)).transpose(2, 0, 1).astype(np.float32)
    floats, grid = torch.from_numpy(image), ix.PatchGrid(2, 2)
    said = r"makes -1 to 1 of pixels, got 0 to 255, which looks like pixels of 8 bits; give"
    for given in (image, image[None], floats, floats[None], [image, image], floats.half()):
        with pytest.raises(ValueError, match=said):
            prepare(given, model)
    for wrong in (
        lambda: ix.explain(model, floats, players=grid),
        lambda: ix.PatchGame(model, floats, 0, grid),
        lambda: ix.PatchGames(model, floats[None], [0], grid),
        lambda: ix.occlude(model, image, [0], grid, ix.occluders.OCCLUDERS["random"]),
        lambda: ix.occlusion_curve(model, image[None], [0], grid),
        lambda: ix.spectrum(model, [floats[None]]),
        lambda: ix.spectrum(model, DataLoader(TensorDataset(floats[None]))),
        lambda: ix.invariance(model, floats[None], grid, untrained=None),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)).eval()
    with pytest.warns(UserWarning, match="hold 0 to 255, as pixels of 8 bits do; they go into Seq"):
        assert prepare(floats, network)[0] is not None
    network.pretrained_cfg = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}  # which it divides itself
    torch.testing.assert_close(prepare(floats, network), floats[None], atol=0, rtol=0)


def test_noise_is_an_image_and_the_mean_of_caffe_is_not_ours():
    model = make_model()  # whose own range is -1 to 1
    prepare(3 * torch.randn(2, 3, 64, 64), model)
    with pytest.raises(ValueError, match=r"makes -1 to 1 of pixels, got -124 to 151; give"):
        prepare(torch.tensor([-124.0, 0, 151]).expand(3, 1, 3), model)


def test_bytes_of_a_loader_are_pictures():
    """As those in a list."""
    model, image = make_model(), torch.from_numpy(pixels(size=(32, 32))).permute(2, 0, 1)
    batches, count = batches_of(DataLoader(TensorDataset(image[None])), model)
    assert count == 1
    torch.testing.assert_close(next(iter(batches)), prepare(image, model), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.zeros((8, 9, 3), np.float32), ValueError, r"\(8, 9, 3\).*looks like \(H, W, C\)"),
        ("a\0b.png", ValueError, r"zero byte in 'a\\x00b"),
        (np.zeros((8, 8), np.float32), ValueError, r"\(C, H, W\), got \(8, 8\)"),
        (np.zeros((8, 8, 3), np.int64), TypeError, "uint8.*int64"),
        (np.zeros((8, 8, 7), np.uint8), ValueError, r"got \(8, 8, 7\)"),
        ([], ValueError, "at least one image"),
        (3, TypeError, "got int"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], ValueError, "one size"),
    ],
)
def test_what_is_no_image(given, error, message):
    with pytest.raises(error, match=message):
        prepare(given, make_model())


def test_a_picture_for_a_network_that_does_not_say_how_it_sees():
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2))
    with pytest.raises(ValueError, match=r"Sequential.*transform"):
        prepare(pixels(), model)
    turned = prepare(pixels(), model, lambda image: torch.ones(3, image.height, image.width))
    assert turned.shape == (1, 3, 40, 50)
    with pytest.raises(ValueError, match=r"floats \(C, H, W\), got Image"):
        prepare(pixels(), model, lambda image: image)


def test_labels():
    for label in (3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3]), np.array([3])):
        assert label_of(label) == 3
    for label in (3.0, "3", True, np.array([1, 2]), torch.tensor(2.0)):
        with pytest.raises(TypeError, match="as an integer"):
            label_of(label)
    for labels in ([1, 2], (np.int64(1), 2), np.array([1, 2]), torch.tensor([1, 2]).int()):
        found = labels_of(labels)
        assert (found.tolist(), found.dtype) == ([1, 2], torch.int64)
    with pytest.raises(TypeError, match="float32"):
        labels_of(torch.tensor([1.0]))


def test_coalitions():
    rows = [[True, False], [False, False]]
    for given in (rows, np.array(rows), torch.tensor(rows)):
        assert coalitions_of(given, 2).tolist() == rows
    with pytest.raises(TypeError, match=r"bool.*int64"):
        coalitions_of(np.array([[0, 1]]), 2)
    with pytest.raises(ValueError, match=r"\(K, 3\), got \(2, 2\)"):
        coalitions_of(rows, 3)


def test_names():
    assert names_of(None, torch.zeros(2, 3, 4, 4), 2) == ("0", "1")
    assert names_of(None, ["x/a.png", "y/b.png"], 2) == ("a.png", "b.png")
    assert names_of(None, ["x/a.png", "y/a.png"], 2) == ("x/a.png", "y/a.png")
    assert names_of(np.array(["a", "b"]), None, 2) == ("a", "b")
    with pytest.raises(ValueError, match=r"2 distinct.* 1 of 1"):
        names_of(["a"], None, 2)
    with pytest.raises(ValueError, match=r"2 distinct.* 1 of 2"):
        names_of(["a", "a"], None, 2)


def test_fills_by_name():
    model, image = make_model(), torch.randn(1, 3, 8, 8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    assert fill_of("zero", model) is fills.zero
    assert fill_of(fills.zero, model) is fills.zero
    torch.testing.assert_close(fill_of("white", model)(image)[0, :, 0, 0], (1 - mean) / std)
    torch.testing.assert_close(fill_of("black", model)(image)[0, :, 0, 0], -mean / std)
    torch.testing.assert_close(fill_of("blur", model)(image), fills.blur()(image))
    with pytest.raises(ValueError, match=r"Linear.*ix\.fills"):
        fill_of("black", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'pink'"):
        fill_of("pink", model)


def test_logits_in_a_dict_or_an_object():
    logits = torch.randn(2, 3)
    holder = type("Outputs", (), {"logits": logits})()
    for outputs in (logits, {"logits": logits, "loss": 1}, holder):
        assert logits_of(outputs) is logits
    assert logits_of({"features": logits}) == {"features": logits}


def test_batches(tmp_path):
    images = torch.randn(5, 3, 32, 32)
    data = torch.utils.data.TensorDataset(images, torch.arange(5))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    for given, count in (
        (images, 5),
        (list(images), 5),
        ([images[:2], images[2:]], None),
        (loader, 5),
        (iter([images]), None),
        ([(images[:2], None), (images[2:], None)], None),
    ):
        batches, known = batches_of(given)
        torch.testing.assert_close(torch.cat(list(batches)), images, atol=0, rtol=0)
        assert known == count


def test_no_batches():
    assert batches_of([]) == ([], 0)


def test_a_picture_for_the_eye_is_the_one_before_the_normalisation():
    model, image = make_model(), pixels(size=(32, 32))
    model.pretrained_cfg = dict(model.pretrained_cfg, crop_pct=1.0)
    shown = visible_picture(prepare(image, model)[0], colours_of(model))
    np.testing.assert_allclose(shown * 255, image, atol=0.01)
    stretched = visible_picture(torch.linspace(-2, 2, 4).reshape(1, 2, 2))
    np.testing.assert_allclose(stretched[..., 0].ravel(), [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    unit = torch.tensor([[[0.2, 0.4]]])
    np.testing.assert_allclose(visible_picture(unit)[0, :, 2], [0.2, 0.4])


class InDict(nn.Module):
    """A network of the Hugging Face kind."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return {"loss": None, "logits": self.network(images)}


def test_games_take_what_people_have():
    model, image = make_model(), pixels()
    ready = prepare(image, model)[0]
    label = int(model(ready[None]).argmax())
    coalitions = np.random.default_rng(0).random((5, 16)) < 0.5
    plain = ix.PatchGame(model, ready, label, GRID, fill=fills.blur(), reward=ix.REWARDS["logit"])(
        torch.from_numpy(coalitions)
    )
    for given in (image, Image.fromarray(image), ready.numpy(), ready):
        for label_given in ("prediction", np.int64(label), torch.tensor(label)):
            game = ix.PatchGame(model, given, label_given, GRID, fill="blur", reward="logit")
            assert game.label == label
            torch.testing.assert_close(game(coalitions), plain, atol=0, rtol=0)
    wrapped = ix.PatchGame(
        InDict(model).eval(), ready, "prediction", GRID, fill="blur", reward="logit"
    )
    torch.testing.assert_close(wrapped(coalitions.tolist()), plain, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="class or 'prediction', got 'truth'"):
        ix.PatchGame(model, ready, "truth", GRID)
    with pytest.raises(ValueError, match=r"log_odds.*'odds'"):
        ix.PatchGame(model, ready, 0, GRID, reward="odds")


def test_batches_of_games_take_what_people_have(tmp_path):
    model, images = make_model(), [pixels(seed) for seed in range(2)]
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    ready = prepare(images, model)
    plain = ix.measure(ix.PatchGames(model, ready, [1, 2], GRID, ["a.png", "b.png"]), DESIGN)
    for labels in ([1, 2], np.array([1, 2]), (np.int64(1), 2), torch.tensor([1, 2])):
        games = ix.PatchGames(model, files, labels, GRID)
        assert [game.label for game in games] == [1, 2]
    for one, other in zip(ix.measure(games, DESIGN), plain, strict=True):
        assert one.image == other.image
        np.testing.assert_array_equal(one.replicates_PRO, other.replicates_PRO)
    one_class = ix.PatchGames(model, files, np.int64(3), GRID)
    assert [game.label for game in one_class] == [3, 3]


DESIGN = ix.Design(ix.RandomPairs(3), ratios=(0, 0.5, 1))


def test_occlusion_takes_what_people_have(tmp_path):
    model, images = make_model(), [pixels(seed) for seed in range(3)]
    ready = prepare(images, model)
    labels = model(ready).argmax(1)
    occluder = ix.occluders.OCCLUDERS["random"]
    plain = ix.occlude(model, ready, labels, GRID, occluder, fill=fills.image_mean)
    for network in (model, InDict(model).eval()):
        rows = (
            ix.occlude(network, images, "prediction", GRID, "random", fill="image_mean")
            if network is model
            else ix.occlude(network, ready, labels.tolist(), GRID, "random", fill="image_mean")
        )
        assert rows["label"].tolist() == plain["label"].tolist()
        np.testing.assert_allclose(rows["nll"], plain["nll"], atol=1e-5)
    with pytest.raises(ValueError, match="'everything'"):
        ix.occlude(model, ready, labels, GRID, "everything")


def test_features_take_what_people_have():
    model, images = make_model(64), [pixels(seed) for seed in range(6)]
    ready = prepare(images, model)
    settings = {"untrained": None, "fractions": (0.5,), "repeats": 1}
    plain = ix.invariance(model, [ready], GRID, **settings, fill=fills.image_mean)
    for given in (images, ready, ready.numpy()):
        table = ix.invariance(model, given, GRID, **settings, fill="image_mean")
        np.testing.assert_allclose(table["value"], plain["value"], atol=1e-9)
    plain = ix.spectrum(model, [ready])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(ready, torch.zeros(6)), batch_size=4
    )
    for given in (images, loader):
        np.testing.assert_allclose(ix.spectrum(model, given)["value"], plain["value"], atol=1e-5)


def test_a_loader_is_all_of_its_batches():
    model, images = make_model(), torch.randn(5, 3, 32, 32)
    data = torch.utils.data.TensorDataset(images, torch.arange(5))
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    assert torch.equal(prepare(loader, model), images)
    games = ix.PatchGames(model, loader, "prediction", GRID)
    assert games.names == ("0", "1", "2", "3", "4")
    assert torch.equal(games[4].image_CHW, images[4])
    without_last = torch.utils.data.DataLoader(data, batch_size=2, drop_last=True)
    assert batches_of(without_last)[1] == 4
    assert batches_of(torch.utils.data.DataLoader(data, batch_size=None))[1] is None


def test_predictions_of_half_networks_for_whole_images():
    model, images = make_model(), torch.randn(3, 3, 32, 32)
    expected = ix.occlude(model, images, "prediction", GRID, "random", fractions=(0.5,))
    rows = ix.occlude(model.bfloat16(), images, "prediction", GRID, "random", fractions=(0.5,))
    assert rows["label"].tolist() == expected["label"].tolist()
