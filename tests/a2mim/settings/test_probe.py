from a2mim.settings.probe import ProbeConfig


def test_the_defaults_are_the_linear_probe_of_what_the_network_hands_on():
    config = ProbeConfig(("net.pth",), data="cifar10")
    assert (config.method, config.pool, config.normalise) == ("linear", "pooled", "standardise")
    assert config.neighbours == 20  # DINO's
