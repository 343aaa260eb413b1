import tyro

from a2mim.settings.weights import ModelsConfig, WeightsConfig


def test_options_of_weights_stand_beside_those_of_the_command():
    given = ["a.pth", "--ema", "--mean", "0.5", "0.5", "0.5", "--model-kwargs", "pad_type=same"]
    config = tyro.cli(ModelsConfig, args=given)
    assert config.files == ("a.pth",)
    assert config.weights == WeightsConfig(("pad_type=same",), ema=True, mean=(0.5, 0.5, 0.5))
