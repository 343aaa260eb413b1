"""What a frozen network has learned: games over image patches and what they tell.

import interactions as ix

grid = ix.PatchGrid(14, 14)
games = ix.PatchGames(model, images, labels, grid)
records = ix.measure(games, ix.Design(pairs=ix.NeighbourPairs(grid, count=12)))
print(ix.strength(records).to_frame())
"""

from interactions import fills, toy
from interactions.adaptive import refine
from interactions.contexts import IID, AllContexts, Windows
from interactions.estimator import (
    PUBLISHED_RATIOS,
    Design,
    Interactions,
    add_replicates,
    measure,
    measure_one,
    orders_of,
)
from interactions.games import REWARDS, Game, PatchGame, PatchGames
from interactions.occlusion import OcclusionCurve, occlusion_curve, random_drop
from interactions.pairs import AllPairs, NeighbourPairs, RandomPairs
from interactions.patches import PatchGrid, hide, random_order
from interactions.planner import Plan, VarianceParts, plan, variance_parts
from interactions.strength import ESTIMATORS, Interval, Strength, holm, strength, t_interval

__all__ = [
    "ESTIMATORS",
    "IID",
    "PUBLISHED_RATIOS",
    "REWARDS",
    "AllContexts",
    "AllPairs",
    "Design",
    "Game",
    "Interactions",
    "Interval",
    "NeighbourPairs",
    "OcclusionCurve",
    "PatchGame",
    "PatchGames",
    "PatchGrid",
    "Plan",
    "RandomPairs",
    "Strength",
    "VarianceParts",
    "Windows",
    "add_replicates",
    "fills",
    "hide",
    "holm",
    "measure",
    "measure_one",
    "occlusion_curve",
    "orders_of",
    "plan",
    "random_drop",
    "random_order",
    "refine",
    "strength",
    "t_interval",
    "toy",
    "variance_parts",
]
