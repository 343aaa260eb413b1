from pathlib import Path

import interactions as ix
from a2mim.settings.interactions import InteractionsConfig


def test_the_defaults_are_the_published_orders_and_the_recommended_contexts():
    config = InteractionsConfig(checkpoints=("resnet50",), images=Path("images"))
    assert config.orders == ix.PUBLISHED_RATIOS
    assert ix.Windows(config.replicates, config.windows) == ix.Windows()
