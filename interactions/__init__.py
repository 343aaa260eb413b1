"""What a frozen network has learned: games over image patches and what they tell.

import interactions as ix

grid = ix.PatchGrid(14, 14)
games = ix.PatchGames(model, images, labels, grid)
records = ix.measure(games, ix.Design(pairs=ix.NeighbourPairs(grid, count=12)))
print(ix.strength(records).to_frame())
"""

from interactions import fills, plots, stats
from interactions.explanation import Explanation, explain
from interactions.explorer import Explorer, explore
from interactions.features.cka import cka
from interactions.features.invariance import invariance
from interactions.features.spectrum import spectrum
from interactions.games import toy
from interactions.games.base import REWARDS, Game
from interactions.games.encoders import encoder_games
from interactions.games.exact import ExactGame, exact
from interactions.games.image import PatchGame, PatchGames
from interactions.games.token_drop import TokenDropGame
from interactions.inputs import prepare
from interactions.networks.layers import layer_features
from interactions.occlusion import masks as occluders
from interactions.occlusion.patch_drop import OcclusionCurve, occlusion_curve
from interactions.occlusion.predictions import occlude
from interactions.orders.adaptive import measure, refine, spending
from interactions.orders.attribution import Marginals, ShapleyValues, marginals, shapley
from interactions.orders.contexts import IID, AllContexts, Windows
from interactions.orders.estimator import PUBLISHED_RATIOS, Design, Interactions
from interactions.orders.measurements import Measurements
from interactions.orders.pairs import AdjacentPairs, AllPairs, NeighbourPairs, RandomPairs
from interactions.orders.planning import Plan, plan
from interactions.orders.published import protocol
from interactions.orders.rounding import noise_floor
from interactions.orders.strength import ESTIMATORS, Strength, strength
from interactions.patches import PatchGrid, Players, hide
from interactions.segments import PlayerMap, superpixels
from interactions.stats import Interval

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
    "Explanation",
    "Explorer",
    "Game",
    "Interactions",
    "Interval",
    "Marginals",
    "Measurements",
    "NeighbourPairs",
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
    "cka",
    "encoder_games",
    "exact",
    "explain",
    "explore",
    "fills",
    "hide",
    "invariance",
    "layer_features",
    "marginals",
    "measure",
    "noise_floor",
    "occlude",
    "occluders",
    "occlusion_curve",
    "plan",
    "plots",
    "prepare",
    "protocol",
    "refine",
    "shapley",
    "spectrum",
    "spending",
    "stats",
    "strength",
    "superpixels",
    "toy",
]
