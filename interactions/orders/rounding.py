"""How much of a measured interaction is rounding.

A difference of four values of the network can be much smaller than the values themselves. The noise
floor is measured: some differences are evaluated again with the network in float64 on the CPU, and

    floor = RMS over those differences of (Delta v as measured - Delta v in float64).

Interactions of that size are not told apart from 0. Averaging over contexts lowers the noise of the
middle orders; at m = 0 and m = n-2, with their single context, nothing does.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np

from interactions.games.image import PatchGame
from interactions.games.token_drop import TokenDropGame
from interactions.orders.estimator import Design, orders_of, replicate_means


def noise_floor(game: PatchGame | TokenDropGame, design: Design, pairs: int = 4) -> float:
    """The numerical noise of single differences Delta v of a game.

    Args:
        game: a game as it is measured, on any device and in any precision.
        design: its design; the lowest, the middle and the highest order are probed.
        pairs: how many pairs are evaluated again, one context each per order.

    Returns:
        The RMS error, in units of the reward.
    """
    exact = replace(
        game,
        model=deepcopy(game.model).cpu().double(),
        image_CHW=game.image_CHW.cpu().double(),
        precision="model",
    )
    orders = orders_of(design.ratios, game.n)
    probed = sorted({orders[0], orders[len(orders) // 2], orders[-1]})
    pairs_P2 = design.pairs.draw(game.n, design.seed, game.image)[:pairs]
    played = [
        (pairs_P2, contexts_PRWN[:, :1, :1])
        for contexts_PRWN in design.contexts.draw(game.n, pairs_P2, probed, design.seed, game.image)
    ]
    measured, reference = (np.stack(replicate_means(g, played)) for g in (game, exact))
    return float(np.sqrt(((measured - reference) ** 2).mean()))
