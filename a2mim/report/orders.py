"""J by order in a table of a page, from the rows of one network."""

from __future__ import annotations

import numpy as np
import pandas as pd

from a2mim.report.page import Cell
from a2mim.runs.table import strength_from
from interactions.stats import Interval

ORDERS = (
    "J is that of the RMS strength, the root of the unbiased mean of I²; its interval holds "
    "however noisy contexts are. The published strength, the mean of |I|, is another norm and too "
    "large where contexts vary; the bracket is what that leaves open, and it is unresolved where "
    "the bracket is wider than a tenth. rho is the noise of contexts relative to the interactions."
)
"""What the columns of :func:`order_lines` are."""

ORDER_COLUMNS = ("order m", "J [95 %]", "J, published", "its bracket", "rho")


def order_lines(rows: pd.DataFrame) -> list[list[str | Cell]]:
    """J by order, what published tools report, and rho, of the rows of one network."""
    strength, published = strength_from(rows), strength_from(rows, "plug_in")
    assert published.bracket is not None
    low_O, high_O = published.bracket
    lines: list[list[str | Cell]] = []
    for o, interval in enumerate(strength.intervals()):
        wide = " unresolved" if published.unresolved_O[o] else ""
        lines.append(
            [
                Cell(str(strength.orders_O[o]), float(strength.orders_O[o])),
                Cell(plain(interval), interval.estimate),
                Cell(f"{published.J[o]:.3f}", published.J[o]),
                Cell(f"{low_O[o]:.3f} to {high_O[o]:.3f}{wide}", high_O[o] - low_O[o]),
                Cell(strength.rho_said()[o], strength.rho_O[o]),
            ]
        )
    return lines


def plain(interval: Interval) -> str:
    """A number with its interval; – where there is no interval."""
    number, *ends = (f"{x:.3f}" for x in (interval.estimate, interval.low, interval.high))
    return f"{number} [{'–' if np.isnan(interval.low) else ', '.join(ends)}]"
