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
# # 3. What A2MIM sees and predicts
#
# Architecture-agnostic masked image modelling hides squares of an image, fills them with the
# image's mean colour, blends a learned token into the features at one place of the network, and
# predicts the hidden pixels. This notebook shows each step on handwritten digits, which come with
# scikit-learn, and then trains for some seconds. At this scale it shows the mechanism, not what
# pre-training is worth.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import torch

import interactions as ix
from a2mim import LOSSES, BlockMask, MaskedImageModel, site_of
from a2mim.data.arrays import digits
from a2mim.data.resident import TensorSamples
from a2mim.recipes.pretrain import RECIPES
from a2mim.recipes.pretraining import backbone_of
from a2mim.recipes.watching import seen_and_completed
from a2mim.training.loop import pretrain
from a2mim.training.optim import adamw, cosine_lr
from interactions import plots

plt.rcParams.update(plots.STYLE | {"figure.dpi": 80})

train, test = digits(size=32)
mean, std = train.statistics()
images, held_out = train.normalised(mean, std), test.normalised(mean, std)


def shown(stack):
    """Normalised images as pixels in [0, 1]."""
    return stack.detach() * std[:, None, None] + mean[:, None, None]


# %% [markdown]
# ## Masks
#
# `BlockMask` hides whole squares. A mask is a hash of (seed, step, number of the image), so it is
# the same in every batch and on every device.

# %%
mask = BlockMask(32, block=8, ratio=0.6)
visible = mask.draw(torch.arange(6), seed=0)
figure, axes = plt.subplots(1, 6, figsize=(9, 1.7), layout="constrained")
for ax, image, seen in zip(axes, held_out[:6], visible, strict=True):
    plots.show_image(ax, shown(ix.hide(image[None], seen[None], mask.grid, image[None] * 0))[0])
print(mask.hidden, "of", mask.grid.n, "squares are hidden")

# %% [markdown]
# ## Fills: what stands in the place of hidden pixels
#
# A2MIM takes the image's mean colour: it hides the content and keeps the statistics of the input
# near those of whole images. SimMIM leaves the pixels to the token.

# %%
image, seen = held_out[:1], visible[:1]
fills = {
    "image mean (A2MIM)": ix.fills.image_mean,
    "zero (mean of the data)": ix.fills.zero,
    "black": ix.fills.black(mean.tolist(), std.tolist()),
    "blur": ix.fills.blur(),
}
figure, axes = plt.subplots(1, 4, figsize=(9, 2.4), layout="constrained")
for ax, (name, fill) in zip(axes, fills.items(), strict=True):
    plots.show_image(ax, shown(ix.hide(image, seen, mask.grid, fill(image)))[0], name)

# %% [markdown]
# ## The token, and where it enters
#
# The site is found by tracing the network: in a ViT where the blocks begin, in a CNN before the
# last stage that lowers the resolution. There, features z of hidden cells become z + token ("add"),
# the token alone ("replace", SimMIM) or a damped mixture ("damped", the official CNNs).

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    backbone = backbone_of(
        RECIPES["digits-demo-vit"]()
    )  # 0.1 M parameters; "digits-demo-resnet" is as small
    model = MaskedImageModel(backbone, mask, token="add", loss="paper")
print(site_of(backbone, 32))
print("feature cells at the site:", model.token_blend.grid)

# %% [markdown]
# ## Losses
#
# Each loss has a spatial part and, unless its weight is 0, one in the Fourier domain, which the
# paper adds so that detail counts. They are presets by name, of the paper and of the published
# code, which differ.

# %%
with torch.no_grad():
    for name in ("paper", "official-r50", "official-vit", "simmim"):
        other = MaskedImageModel(backbone, mask, loss=name).eval()
        parts = other(held_out[:6], visible)
        print(f"{name:14}", {k: round(v.item(), 3) for k, v in parts.items() if v.ndim == 0})
print("all presets:", ", ".join(LOSSES))

# %% [markdown]
# ## Some seconds of training
#
# Along the way the backbone is copied three times, to be measured below. `a2mim pretrain NAME
# --export-every 20` does that for real runs.

# %%
from copy import deepcopy

STEPS = 80
kept, losses = {0: deepcopy(model.backbone)}, []


def watch(report):
    losses.append((report.step, report.losses["spatial"], report.losses["fourier"]))
    if report.step in (20, STEPS):
        kept[report.step] = deepcopy(model.backbone)


_ = pretrain(
    model,
    TensorSamples(images),
    adamw(model, 2e-3, 0.05),
    lambda step, scale: cosine_lr(step, STEPS, 12, 2e-3 * scale),
    batch_size=64,
    steps=STEPS,
    seed=0,
    cpu=True,
    on_step=watch,
)

# %%
step, spatial, fourier = zip(*losses, strict=True)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
for ax, values, name in zip(axes, (spatial, fourier), ("spatial", "fourier"), strict=True):
    ax.plot(step, values, color=plots.COLOURS[1])
    ax.set(xlabel="step", title=f"{name} loss", ylim=(0, None))

# %% [markdown]
# What it sees, what it predicts, and the hidden squares completed:

# %%
stacks = seen_and_completed(model, held_out[:6], visible)
figure, axes = plt.subplots(len(stacks), 6, figsize=(7, 5), layout="constrained")
for line, (name, stack) in zip(axes, stacks.items(), strict=True):
    for ax, pixels in zip(line, shown(stack), strict=True):
        plots.show_image(ax, pixels)
    line[0].set_title(name)

# %% [markdown]
# ## J along training
#
# A backbone without a classifier has no log-odds to play for. `ix.encoder_games` plays for its
# features: how far those of a masked image lie in the direction of those of the whole one. All
# three are asked about the same images, pairs and contexts, so the differences between curves are
# theirs.

# %%
grid = ix.PatchGrid(4, 4)
design = ix.Design(
    ix.NeighbourPairs(grid, radius=1, count=4), ix.Windows(4, 1), (0.0, 0.25, 0.5, 0.75, 1.0)
)
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (step, network), colour in zip(kept.items(), plots.COLOURS, strict=False):
    games = ix.encoder_games(network.eval(), held_out[:8], grid, names=test.names[:8])
    ix.measure(games, design, target=None).strength().plot(ax, label=f"step {step}", colour=colour)
_ = ax.legend()

# %% [markdown]
# ## A longer run
#
# Five epochs of `cifar10-resnet` are in `results/pretrain`, as `a2mim pretrain` left them:

# %%
from pathlib import Path

import pandas as pd

# The repository is where this notebook's folder lies, wherever Jupyter was started.
ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "pyproject.toml").is_file())
log = pd.read_json(ROOT / "results/pretrain/cifar10-resnet/log.jsonl", lines=True)
log = log.dropna(subset=["loss"])
figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
ax.plot(log["step"], log["loss"], color=plots.COLOURS[1])
_ = ax.set(xlabel="step", title="loss of cifar10-resnet", ylim=(0, None))
