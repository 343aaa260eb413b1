"""Interactions of several networks by the published design in small, a few images at a time.

Pairs and contexts are those of A2MIM's protocol (14 x 14 patches, 13 orders, neighbours up to 2
rows and columns apart, mean colour, log-odds of the true class, drawn by its rule and its seed),
with fewer pairs and contexts. Every network does a round of images before the next round begins,
and none begins after ``until``: so the clock decides how many images there are, and all networks
have the same ones. Records that are there are not measured again.

Source: Li et al., ICML 2023, tool of the representation bottleneck (50 pairs x 50 contexts there).
Command: ``python -m experiments.photographs.measure CKPT... --images DIR --out DIR``
Time: 720 forwards a network and image; 60 to 120 seconds an image for the four networks of
``results/photographs`` on one core of the reference machine.
Expected: the tables of ``results/photographs``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import tyro
from timm.data import create_transform

import interactions as ix
from a2mim.data.sources import folder_images
from a2mim.measure.networks import check_different, load, nicknames
from a2mim.runs.folder import keep_memory
from a2mim.runs.records import read_record, record_key, write_record
from a2mim.settings.weights import WeightsConfig
from interactions.orders.published import PublishedContexts, PublishedPairs

GRID = ix.PatchGrid(14, 14)
SEED = 1
"""The seed of A2MIM's protocol."""

DRAWN = 48
"""Photographs that are drawn; fewer are the first of these."""


def design_of(pairs: int, contexts: int) -> ix.Design:
    """A2MIM's protocol with so many pairs and contexts."""
    sampler = PublishedPairs(GRID, pairs)
    return ix.Design(sampler, PublishedContexts(sampler, contexts), seed=SEED)


def main(
    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CKPT...")],
    images: Path,
    out: Path,
    count: int = DRAWN,
    pairs: int = 2,
    contexts: int = 8,
    size: int = 4,
    until: str = "",
) -> None:
    """Measure, and tell what was done.

    Args:
        checkpoints: what ``a2mim models`` takes.
        images: folder of photographs with their classes.
        out: where a folder of records for each network is.
        count: at most this many of the photographs that are drawn.
        pairs: of neighbouring patches of each image.
        contexts: of a pair and order.
        size: images of a round.
        until: time of day, as 18:30, after which no round begins.
    """
    keep_memory()
    networks = [load(checkpoint, WeightsConfig()) for checkpoint in checkpoints]
    reports = [network.report for network in networks]
    check_different(reports)
    loaded = dict(zip(nicknames(reports), networks, strict=True))
    sources = folder_images(images, DRAWN, seed=0, truth=True, outputs=1000)[:count]
    design = design_of(pairs, contexts)
    for start in range(0, len(sources), size):
        if until and time.strftime("%H:%M") > until:
            print(f"{until}: {start} images of {len(sources)}", flush=True)
            return
        for name, network in loaded.items():
            began, transform = time.perf_counter(), create_transform(**network.data_config)
            for k in range(start, min(start + size, len(sources))):
                image_CHW = transform(sources[k].read())
                label = sources[k].truth
                assert isinstance(image_CHW, torch.Tensor)
                assert label is not None
                settings = {"design": repr(design), "weights": network.report.sha256}
                key = record_key(settings | {"image": str(k)}, image_CHW, label)
                path = out / name / f"{k:05d}-{key}-0.npz"
                if read_record(path) is None:
                    # The published draws are keyed by the image's place.
                    games = ix.PatchGames(network.model, image_CHW[None], [label], GRID, [str(k)])
                    (record,) = ix.measure(games, design, target=None)
                    write_record(record, path, label)
            seconds = time.perf_counter() - began
            print(f"{name}: images {start} to {k}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
