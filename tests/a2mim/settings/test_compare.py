from a2mim.settings.compare import CompareConfig


def test_the_defaults_show_everything_the_same_to_all():
    config = CompareConfig(("a.pth", "b.pth"), data="cifar10")
    assert config.skip == ()
    assert config.fill == "image_mean"  # the same colour whatever the normalisation
    assert config.label == "auto"
