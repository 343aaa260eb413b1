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
# # Five lines: from a timm name and a folder of images to a curve with error bars
#
# Two photographs come with scikit-learn; four cuts of them make a folder to work with. Put your
# own folder here.

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image
from sklearn.datasets import load_sample_images

folder = Path(mkdtemp()) / "photographs"
folder.mkdir()
for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
    for k in range(2):
        cut = pixels[:400, 240 * k : 240 * k + 400]
        Image.fromarray(cut).save(folder / f"{name}{k}.png")

# %% [markdown]
# The network here is untrained, so that nothing has to be downloaded: what it shows is its
# architecture and its initial weights. For a trained one write, for example,
# `timm.create_model("resnet50.a1_in1k", pretrained=True)`. `players` of 14 x 14 cells are those of
# the published curves; 5 x 5 are quicker.

# %%
import timm

import interactions as ix
from a2mim.data.arrays import photographs

model = timm.create_model("test_vit").eval()
images, names = photographs(folder, model)
games = ix.PatchGames(model, images, "prediction", players := ix.PatchGrid(5, 5), names)
records = ix.measure(games, ix.Design(ix.NeighbourPairs(players, count=2)))
ax = ix.strength(records).plot(label="test_vit, untrained")

# %% [markdown]
# The band is a 95 % interval over images; four images say little. Strength is the root of the mean
# of I², which is free of bias at any context noise (rho in the table). From 8 images on, `measure`
# adds contexts at the orders where that makes J more precise, and `ix.spending(records)` tells what
# was spent and reached.

# %%
strength = ix.strength(records)
strength.to_frame()

# %% [markdown]
# Low, middle and high orders, each with its interval:

# %%
strength.bands()

# %% [markdown]
# ## Another network, on the same images, pairs and contexts
#
# Draws are keyed by the name of the image, so that both networks are asked the same questions, and
# their difference is taken image by image. Here: the same architecture with other initial weights.

# %%
import torch

with torch.random.fork_rng(devices=[]):
    torch.manual_seed(1)
    twin = timm.create_model("test_vit").eval()
others = ix.PatchGames(twin, images, "prediction", players, names)
other = ix.strength(ix.measure(others, ix.Design(ix.NeighbourPairs(players, count=2))))
_ = other.plot(strength.plot(label="one"), label="other", colour="#c2410c").legend()

# %%
other.compare_bands(strength)

# %% [markdown]
# ## What would it cost to know more?
#
# The measurement above serves as a pilot: how many images, pairs and contexts per order bring the
# error of J below 30 % of it at every order, and how many forwards is that?

# %%
ix.plan(records, target=0.3)
