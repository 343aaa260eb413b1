import pytest
import torch

from a2mim.measure.fills import FILLS, plain_fill


def test_black_and_white_are_the_ends_of_pixels():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = torch.zeros(1, 3, 4, 4)
    for name, value in (("black", 0), ("white", 1)):
        pixel = FILLS[name](mean, std, 0)(image) * torch.tensor(std).reshape(1, 3, 1, 1)
        pixel = pixel + torch.tensor(mean).reshape(1, 3, 1, 1)
        torch.testing.assert_close(pixel, torch.full((1, 3, 1, 1), float(value)))


@pytest.mark.parametrize("fill", FILLS)
def test_every_fill_is_its_own(fill):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def filled(name):
        made = FILLS[name]((0.4,) * 3, (0.2,) * 3, 0)
        if not callable(made):
            made = made.for_images(["a", "b"])
        return made(images).expand_as(images)

    assert all(not torch.equal(filled(fill), filled(other)) for other in FILLS if other != fill)


def test_noise_is_named_by_its_seed():
    images = torch.zeros(2, 3, 8, 8)
    one, again, other = (plain_fill("noise", (0.4,) * 3, (0.2,) * 3, s)(images) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
