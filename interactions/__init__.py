"""What a frozen network has learned: games over image patches and what they tell.

import interactions as ix

grid = ix.PatchGrid(14, 14)
games = ix.PatchGames(model, images, labels, grid)
records = ix.measure(games, ix.Design(pairs=ix.NeighbourPairs(grid, count=12)))
print(ix.strength(records).to_frame())
"""

from interactions import fills
from interactions.games import toy
from interactions.games.base import REWARDS, Game
from interactions.games.encoders import encoder_games
from interactions.games.exact import ExactGame, order_weights, value_table
from interactions.games.image import PatchGame, PatchGames
from interactions.games.token_drop import TokenDropGame
from interactions.occlusion.patch_drop import OcclusionCurve, occlusion_curve, random_drop
from interactions.orders.adaptive import measure, refine, spending, wanted_replicates
from interactions.orders.attribution import Marginals, ShapleyValues, marginals, shapley
from interactions.orders.contexts import IID, AllContexts, Windows
from interactions.orders.estimator import (
    PUBLISHED_RATIOS,
    Design,
    Interactions,
    add_replicates,
    measure_one,
    orders_of,
)
from interactions.orders.pairs import AdjacentPairs, AllPairs, NeighbourPairs, RandomPairs
from interactions.orders.planning import Noise, Plan, noise_of, plan
from interactions.orders.published import protocol
from interactions.orders.rounding import noise_floor
from interactions.orders.strength import ESTIMATORS, Strength, strength
from interactions.patches import PatchGrid, Players, hide, random_order
from interactions.segments import PlayerMap, superpixels
from interactions.stats import Interval, holm, t_interval

__all__ = [
    "ESTIMATORS",
    "IID",
    "PUBLISHED_RATIOS",
    "REWARDS",
    "AdjacentPairs",
    "AllContexts",
    "AllPairs",
    "Design",
    "ExactGame",
    "Game",
    "Interactions",
    "Interval",
    "Marginals",
    "NeighbourPairs",
    "Noise",
    "OcclusionCurve",
    "PatchGame",
    "PatchGames",
    "PatchGrid",
    "Plan",
    "PlayerMap",
    "Players",
    "RandomPairs",
    "ShapleyValues",
    "Strength",
    "TokenDropGame",
    "Windows",
    "add_replicates",
    "encoder_games",
    "fills",
    "hide",
    "holm",
    "marginals",
    "measure",
    "measure_one",
    "noise_floor",
    "noise_of",
    "occlusion_curve",
    "order_weights",
    "orders_of",
    "plan",
    "protocol",
    "random_drop",
    "random_order",
    "refine",
    "shapley",
    "spending",
    "strength",
    "superpixels",
    "t_interval",
    "toy",
    "value_table",
    "wanted_replicates",
]
