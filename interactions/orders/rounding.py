"""How much of a measured interaction is rounding.

A difference of four values of the network can be much smaller than the values themselves. The noise
floor is measured: some differences are evaluated again with the network in float64, and

    floor = RMS over those differences of (Delta v as measured - Delta v in float64).

Interactions of that size are not told apart from 0. Averaging over contexts lowers the noise of the
middle orders; at m = 0 and m = n-2, with their single context, nothing does, so that these are
measured in float32 in any case. The precision "auto" is, on a GPU, the fastest whose floor is below
1 % of the smallest strength in between, and float32 on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from interactions.games.image import PatchGame
from interactions.games.token_drop import TokenDropGame
from interactions.networks.inference import Fitting, device_of, fastest_of
from interactions.networks.rounding import in_float64
from interactions.orders.estimator import Design, measure_one, orders_of, replicate_means
from interactions.orders.strength import strength


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
        game.precise,
        model=in_float64(game.model),
        image_CHW=game.image_CHW.double(),
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


def fitting_precision(
    game: PatchGame | TokenDropGame, design: Design, share: float = 0.01
) -> Fitting:
    """The fastest arithmetic in which a game's interactions can be measured.

    Args:
        game: one of the games that will be measured, in any precision.
        design: its design. The game is measured by it in float32 for its strengths.
        share: of the smallest strength at m from 1 to n-3 that the noise floor may be.
    """
    device = device_of(game.model)
    if device.type == "cpu":
        return Fitting("float32")
    measured = strength([measure_one(replace(game, precision="float32"), design)])
    inner_O = (measured.orders_O > 0) & (measured.orders_O < game.n - 2)
    if not inner_O.any():
        return Fitting("float32")
    # An order whose strength contexts hide counts as 0: then nothing but float32 will do.
    allowed = share * float(np.nan_to_num(measured.S[inner_O]).min())
    return fastest_of(
        lambda one: noise_floor(replace(game, precision=one), design), allowed, device
    )
