import torch

from a2mim.decoder import PixelDecoder


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
