import pytest
import torch
from torch.nn import functional as F

from a2mim.methods.decoder import PixelDecoder


def test_channel_c_r_s_becomes_colour_c_row_r_column_s():
    P = 4
    decoder = PixelDecoder(channels=5, stride=P)
    features = torch.randn(2, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    images = decoder(features)
    assert images.shape == (2, 3, 8, 12)
    for c, r, s, y, x in ((0, 0, 0, 0, 0), (1, 2, 3, 1, 2), (2, 3, 0, 0, 1)):
        weight = decoder.project.weight[c * P * P + r * P + s, :, 0, 0]
        expected = features[:, :, y, x] @ weight
        torch.testing.assert_close(images[:, c, y * P + r, x * P + s], expected)


def test_published_sizes():
    assert PixelDecoder(2048, 32).project.weight.shape == (3072, 2048, 1, 1)
    assert PixelDecoder(768, 16).project.weight.shape == (768, 768, 1, 1)


def test_without_a_stack_there_are_no_further_weights():
    assert list(PixelDecoder(5, 4).state_dict()) == ["project.weight", "project.bias"]


def test_the_stack_against_its_formula():
    decoder = PixelDecoder(channels=5, stride=4, depthwise=2).double()
    features = torch.randn(2, 5, 6, 3, dtype=torch.float64)
    expected = features
    for convolution, norm, _ in decoder.stack:
        assert convolution.weight.shape == (5, 1, 5, 5)
        assert convolution.bias is None
        padded = F.pad(expected, (2, 2, 2, 2))
        z = sum(
            convolution.weight[:, 0, r, s, None, None] * padded[:, :, r : r + 6, s : s + 3]
            for r in range(5)
            for s in range(5)
        )
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        z = z * norm.weight[:, None, None] + norm.bias[:, None, None]
        expected = z * 0.5 * (1 + torch.erf(z / 2**0.5))
    torch.testing.assert_close(decoder.stack(features), expected)
    torch.testing.assert_close(decoder(features), decoder.shuffle(decoder.project(expected)))


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="0 or more depth-wise layers, got -1"):
        PixelDecoder(5, 4, depthwise=-1)
