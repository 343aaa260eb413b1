from a2mim.settings.spectrum import SpectrumConfig


def test_the_defaults_are_all_maps():
    config = SpectrumConfig(("net.pth",), data="cifar10")
    assert config.layers == ()
    assert config.count > 1
