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
# # First look: hide patches, play a game, read the curves
#
# How much do two patches matter *together*, and how much of the rest of the image does the network
# need to see for that? This notebook hides patches of one image, plays a game whose answer is
# known, and then reads the curves of the demo.

# %%
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import interactions as ix
from a2mim.data.arrays import digits
from interactions import plots
from interactions.occlusion.patch_drop import random_drop

plt.rcParams.update(plots.STYLE)
# The repository is where this notebook's folder lies, wherever Jupyter was started.
ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "pyproject.toml").is_file())

# %% [markdown]
# ## Hide patches
#
# A player is a cell of a grid. `visible` is a boolean per player: `True` keeps the pixels, `False`
# replaces them by a *fill*. Which fill is taken changes every number, so it is always an argument.

# %%
_, test = digits(size=32)
image = test.pixels_ICHW[:1].float() / 255
grid = ix.PatchGrid(8, 8)
visible = random_drop(grid.n, fractions=(0, 0.3, 0.6, 0.9), images=["digit"], seed=0, repeat=0)[0]

figure, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
for ax, coalition in zip(axes, visible, strict=True):
    hidden_share = 1 - coalition.float().mean().item()
    masked = ix.hide(image, coalition[None], grid, ix.fills.image_mean(image))
    plots.show_image(ax, masked[0], f"{hidden_share:.0%} hidden")

# %% [markdown]
# The hidden sets are nested: what is hidden at 30 % stays hidden at 60 %. They are drawn by name
# (seed, image), so every network is tested on the same ones.

# %% [markdown]
# ## A game with a known answer
#
# An estimator sees only a *game*: coalitions of players in, values out. Here three players form a
# team that is worth 1 when all of them are there. Players 0 and 1 alone are worth nothing together;
# they interact once player 2 is in the context, so their interaction grows with the order:
#
# $$I^{(m)}(0, 1) = \frac{m}{n-2}$$

# %%
game = ix.toy.DividendGame(n=12, dividends={frozenset({0, 1, 2}): 1.0})
design = ix.Design(pairs=ix.AllPairs(), contexts=ix.Windows(replicates=16, windows=2))
(record,) = ix.measure([game], design)
pair = record.pairs_P2.tolist().index([0, 1])
exact = [game.interaction(0, 1, int(m)) for m in record.orders_O]

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(record.orders_O, exact, color=plots.COLOURS[0], label="closed form")
ax.plot(record.orders_O, record.mean_PO[pair], "o", color=plots.COLOURS[1], label="estimate")
ax.set(xlabel="order m", ylabel="interaction of players 0 and 1")
_ = ax.legend()
print(f"{record.forwards} coalitions were evaluated")

# %% [markdown]
# With all contexts instead of a sample, the estimate *is* the closed form:

# %%
(every,) = ix.measure([game], ix.Design(ix.AllPairs(), ix.AllContexts()))
assert torch.allclose(torch.tensor(every.mean_PO[pair]), torch.tensor(exact, dtype=torch.float64))

# %% [markdown]
# ## Why the published strength is too large
#
# The published strength is a mean of |I|, and the absolute value of a noisy mean is too large. In
# this game the interactions change sign with the context, so context noise is several times the
# signal: the published plug-in overshoots in the middle orders and not at the ends. The split
# jackknife removes part of that, and no estimate of a mean of |I| is without bias. The root of the
# mean of I² has one: with replicates, the square of their mean less what noise adds to it is I² on
# average, whatever the noise. That is why it is the default.

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
# ## The curves of the demo
#
# `make demo` leaves one tidy table. Everything below is computed from its raw rows.

# %%
from a2mim.report.demo import findings
from a2mim.report.figures import interaction_curves, occlusion_curves
from a2mim.runs.table import read_table

rows = read_table(ROOT / "results" / "demo" / "rows.csv")
rows.groupby(["model", "weights", "measure"]).size().unstack()

# %%
interaction_curves(rows)

# %%
occlusion_curves(rows)

# %%
for sentence in findings(rows):
    print("-", sentence)
