import inspect

from a2mim.settings.invariance import InvarianceConfig
from interactions.features.invariance import invariance


def test_the_defaults_are_those_of_the_library():
    config = InvarianceConfig(("net.pth",), data="cifar10")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(invariance).parameters.items()
    }
    for name in ("fractions", "repeats", "seed", "cka_batch"):
        assert getattr(config, name) == defaults[name], name
    assert defaults["fill"].__name__ == config.fill
    assert (config.batch_size or None) == defaults["batch_size"]
