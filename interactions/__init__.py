"""What a frozen network has learned: games over image patches and what they tell.

import interactions as ix

grid = ix.PatchGrid(14, 14)
games = ix.PatchGames(model, images, labels, grid)
records = ix.measure(games, ix.Design(pairs=ix.NeighbourPairs(grid, count=12)))
print(ix.strength(records).to_frame())
"""

from interactions import fills, toy
from interactions.adaptive import measure, refine, spending, wanted_replicates
from interactions.attribution import Marginals, ShapleyValues, marginals, shapley
from interactions.contexts import IID, AllContexts, Windows
from interactions.encoders import encoder_games
from interactions.estimator import (
    PUBLISHED_RATIOS,
    Design,
    Interactions,
    add_replicates,
    measure_one,
    orders_of,
)
from interactions.exact import ExactGame, order_weights, value_table
from interactions.games import REWARDS, Game, PatchGame, PatchGames
from interactions.occlusion import OcclusionCurve, occlusion_curve, random_drop
from interactions.pairs import AllPairs, NeighbourPairs, RandomPairs
from interactions.patches import PatchGrid, Players, hide, random_order
from interactions.planner import Noise, Plan, noise_of, plan
from interactions.precision import noise_floor
from interactions.protocols import protocol
from interactions.stats import Interval, holm, t_interval
from interactions.strength import ESTIMATORS, Strength, strength
from interactions.superpixels import AdjacentPairs, PlayerMap, superpixels
from interactions.token_drop import TokenDropGame

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
