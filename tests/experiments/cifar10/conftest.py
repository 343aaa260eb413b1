"""Rows of a study."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def table():
    """Rows of J of two arms that differ by so much: difference, seeds, images -> table."""
    return _table


def _table(difference, seeds=3, images=40):
    rng = np.random.default_rng(0)
    of_images = rng.normal(size=images)
    rows = [
        {
            **{"arch": "vit", "arm": arm, "seed": seed, "measure": "J middle", "at": 0.0},
            **{"setting": "fine-tuned", "image": f"{k}"},
            "value": 1 + (arm == "a2mim") * difference + 0.1 * (of_images[k] + rng.normal()),
        }
        for arm in ("scratch", "a2mim")
        for seed in range(seeds)
        for k in range(images)
    ]
    return pd.DataFrame(rows)
