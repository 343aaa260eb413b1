"""Rows of one training of each network, with the published strength beside the unbiased one."""

import numpy as np
import pandas as pd
import pytest

from a2mim.runs.table import ENERGY, LOWER, PUBLISHED


@pytest.fixture(scope="session")
def one_seed(demo_rows):
    rows = demo_rows[(demo_rows["seed"] == 0) & ~demo_rows["weights"].str.endswith("-few")]
    energies = rows[rows["measure"] == ENERGY]
    roots = energies.assign(value=np.sqrt(energies["value"]))
    return pd.concat(
        [
            rows,
            roots.assign(measure=PUBLISHED, value=1.2 * roots["value"]),
            roots.assign(measure=LOWER),
        ]
    )
