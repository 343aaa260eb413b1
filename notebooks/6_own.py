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
# # 6. Your own game, occluder and method, in 20 lines each
#
# Three borders are open. A *game* is a function of coalitions; an *occluder* says which patches are
# hidden; a *method* says what a network is trained to predict. What follows them (estimators,
# curves, the training loop) knows nothing else about them.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from torch import nn

import interactions as ix
from a2mim import BlockMask, PixelDecoder
from a2mim.data.arrays import digits
from a2mim.data.resident import TensorSamples
from a2mim.training.loop import pretrain
from a2mim.training.optim import adamw
from interactions import plots

plt.rcParams.update(plots.STYLE | {"figure.dpi": 80})
train, test = digits(size=32)
mean, std = train.statistics()
images, held_out = train.normalised(mean, std), test.normalised(mean, std)

# %% [markdown]
# ## A game
#
# `n` players, the name of an image by which random draws are keyed, and a call from booleans `(K,
# n)` to numbers `(K,)`. This one is no network: a classifier of scikit-learn votes on the digits,
# and hidden pixels become those of the mean digit. Anything that gives numbers will do.

# %%
from dataclasses import dataclass

from sklearn.linear_model import LogisticRegression

levels = train.pixels_ICHW[:, 0, ::4, ::4].reshape(len(train), 64).numpy() / 255
voter = LogisticRegression(max_iter=200).fit(levels, train.labels_I)


@dataclass(frozen=True)
class Vote:
    """The log-odds of the right class when only some pixels of a digit are known."""

    pixels: np.ndarray
    label: int
    image: str
    n: int = 64

    def __call__(self, coalitions_KN):
        known = np.where(coalitions_KN.numpy(), self.pixels, levels.mean(axis=0))
        p = voter.predict_proba(known)[:, self.label].clip(1e-12, 1 - 1e-12)
        return torch.from_numpy(np.log(p / (1 - p)))


pixels = test.pixels_ICHW[:, 0, ::4, ::4].reshape(len(test), 64).numpy() / 255
games = [Vote(pixels[k], int(test.labels_I[k]), test.names[k]) for k in range(20)]
records = ix.measure(games, ix.Design(ix.NeighbourPairs(ix.PatchGrid(8, 8), count=8)))
_ = records.strength().plot(label="logistic regression")

# %% [markdown]
# ## An occluder
#
# From a scene (players, names of images, seed) and hidden fractions to `visible`, bool `(images,
# fractions, players)`. The easy way is an order in which patches are hidden. This one hides from
# the left to the right. Then `ix.occlude` does the rest.

# %%
from interactions.occlusion.masks import Ordered


def from_the_left(scene, key=()):
    """When each patch is hidden: a rank per image and player."""
    columns = torch.arange(scene.players.n) % scene.grid.cols
    return columns.argsort(stable=True).argsort().expand(len(scene.images), -1)


grid = ix.PatchGrid(4, 4)
visible = Ordered(from_the_left)(ix.occluders.Scene(grid, ("digit",)), (0.25, 0.5, 0.75))[0]
figure, axes = plt.subplots(1, 3, figsize=(6, 2.2), layout="constrained")
picture = test.pixels_ICHW[:1].float() / 255
for ax, seen in zip(axes, visible, strict=True):
    masked = ix.hide(picture, seen[None], grid, ix.fills.image_mean(picture))
    plots.show_image(ax, masked[0], f"{1 - seen.float().mean():.0%} hidden")

# %% [markdown]
# ## A method
#
# An `nn.Module` with two functions: `draw` gives masks of images with these numbers, and `forward`
# gives at least `loss` and `output`. This one predicts, from a masked image, which way the hidden
# pixels of the *blurred* image go: a coarse target. The loop brings checkpoints, resuming, several
# processes and mixed precision.


# %%
class BlurModel(nn.Module):
    """Predict a blurred image from a masked one."""

    def __init__(self, backbone, channels, stride, mask):
        super().__init__()
        self.backbone, self.mask, self.blur = backbone, mask, ix.fills.blur()
        self.decoder = PixelDecoder(channels, stride)

    def draw(self, images_B, seed):
        return self.mask.draw(images_B, seed)

    def forward(self, images_BCHW, visible_BN):
        fill = ix.fills.image_mean(images_BCHW)
        masked = ix.hide(images_BCHW, visible_BN, self.mask.grid, fill)
        output = self.decoder(self.backbone.forward_features(masked))
        hidden = ~self.mask.grid.pixels(visible_BN, *images_BCHW.shape[2:])
        error = (output - self.blur(images_BCHW)).abs() * hidden
        return {"loss": error.sum() / (3 * hidden.sum()), "output": output}


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=0)
    model = BlurModel(backbone, backbone.num_features, 32, BlockMask(32, block=8, ratio=0.6))
losses = []
_ = pretrain(
    model,
    TensorSamples(images),
    adamw(model, 2e-3, 0.05),
    lambda step, scale: 2e-3 * scale,
    batch_size=64,
    steps=60,
    cpu=True,
    on_step=lambda report: losses.append((report.step, report.losses["loss"])),
)
figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.plot(*zip(*losses, strict=True), color=plots.COLOURS[1])
_ = ax.set(xlabel="step", title="loss", ylim=(0, None))

# %% [markdown]
# ## And measured like any other
#
# What it has learned is asked with the same tools. `a2mim pretrain` takes methods of the toolkit by
# name; your own one is trained by a script like this cell. `CODE.py:FUNCTION=FILE` makes a network
# of your own known to every command (notebook 5).

# %%
games = ix.encoder_games(model.backbone, held_out[:12], grid, names=test.names[:12])
design = ix.Design(ix.NeighbourPairs(grid, count=6), ix.Windows(4, 1), (0.0, 0.25, 0.5, 0.75, 1.0))
_ = ix.measure(games, design, target=None).strength().plot(label="blur model, 60 steps")
