"""Every measure, and one step of A2MIM, on a small untrained network of every file of timm.

Networks are drawn anew in every version of timm; what each measure says of them is worth knowing
before a run of hours. A cell of the table is "yes" or "no"; the one line that a network is refused
with stands below.

Command: ``python -m experiments.network_walk`` writes ``docs/networks.md``; with names of networks
it prints their rows alone.
Time: 8 to 16 minutes on one core.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import interactions as ix
from a2mim.checkpoints.files import WeightsError
from a2mim.checkpoints.load import load_model
from a2mim.messages import in_a_line
from a2mim.methods.masked_image_model import MaskedImageModel
from a2mim.methods.masking import BlockMask
from a2mim.probes.features import Readout
from interactions.features import spectrum
from interactions.networks.layers import stream_names

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
SIZE, PLAYERS, IMAGES = 64, ix.PatchGrid(4, 4), 4

_TINY_VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}

NETWORKS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": _TINY_VIT,
    "halonet_h1": {"size": 256},
    "test_byobnet": {},
    "cait_xxs24_224": _TINY_VIT,
    "coat_tiny": {},
    "coat_lite_tiny": {},
    "convit_tiny": {},
    "convmixer_768_32": {"size": 112},
    "test_convnext": {},
    "cpubone_nano": {},
    "crossvit_tiny_240": {"size": 240},
    "csatv2": {},
    "cs3darknet_s": {},
    "cspnext_tiny": {},
    "davit_tiny": {},
    "deepseek_vit_412m": _TINY_VIT | {"size": 672, "patch_size": 56},
    "deit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "densenet121": {},
    "dla46_c": {},
    "dpn48b": {},
    "edgenext_xx_small": {},
    "efficientformer_l1": {"size": 224},
    "efficientformerv2_s0": {},
    "test_efficientnet": {},
    "efficientvim_m1": {},
    "efficientvim_m1_dist": {},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "vit_tiny_patch16_dinov3_qkvb": {},
    "eva02_tiny_patch14_224": {"size": 224, "depth": 2},
    "fasternet_t0": {},
    "fastvit_t8": {},
    "focalnet_tiny_srf": {},
    "gcvit_xxtiny": {},
    "gemma4_vit_167m": _TINY_VIT | {"size": 96, "head_dim": 16, "position_embedding_size": 64},
    "ghostnet_050": {},
    "hardcorenas_b": {},
    "hgnetv2_b0": {},
    "hiera_tiny_224": {},
    "hieradet_small": {},
    "hrnet_w18_small": {},
    "iformer_t": {},
    "inception_next_atto": {},
    "inception_resnet_v2": {"size": 96},
    "inception_v3": {"size": 96},
    "inception_v4": {"size": 96},
    "lcnetv2_small": {},
    "levit_128s": {},
    "levit_128": {},
    "lowformer_b0": {},
    "test_mambaout": {},
    "test_coatnet": {},
    "test_maxvit": {},
    "poolformer_s12": {},
    "gmlp_ti16_224": {},
    "resmlp_12_224": {},
    "mobilenetv3_small_050": {},
    "mobilenetv5_base": {},
    "mobilevit_xxs": {},
    "mvitv2_tiny": {},
    "mvitv2_small_cls": {},
    "naflexvit_base_patch16_gap": _TINY_VIT,
    "nasnetalarge": {"size": 96, "num_features": 96 * 24, "stem_size": 48},
    "nest_tiny": {},
    "nextvit_small": {},
    "test_nfnet": {},
    "pit_ti_224": {},
    "pit_ti_distilled_224": {},
    "pnasnet5large": {"size": 96},
    "pvt_v2_b0": {},
    "qwen3_vit_88m": _TINY_VIT,
    "rdnet_tiny": {},
    "regnetx_002": {},
    "repghostnet_050": {},
    "repvit_m1": {},
    "res2net50_14w_8s": {},
    "resnest14d": {},
    "test_resnet": {},
    "resnetv2_50": {"layers": (1, 1, 1, 1)},
    "rexnet_100": {},
    "selecsls42": {},
    "legacy_seresnet18": {},
    "sequencer2d_s": {},
    "shvit_s1": {},
    "skresnet18": {},
    "starnet_s050": {},
    "swiftformer_xs": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)},
    "swinv2_tiny_window8_256": {"depths": (1, 1, 1, 1)},
    "swinv2_cr_tiny_224": {"depths": (1, 1, 1, 1)},
    "tiny_vit_5m_224": {},
    "tnt_s_patch16_224": {"depth": 2},
    "tresnet_m": {},
    "twins_svt_small": {},
    "twins_pcpvt_small": {},
    "vgg11": {},
    "visformer_tiny": {},
    "test_vit": {},
    "vit_small_patch16_224": _TINY_VIT | {"class_token": False, "global_pool": "avg"},
    "vit_small_patch14_reg4_dinov2": _TINY_VIT | {"size": 224},
    "vit_tiny_r_s16_p8_224": {"depth": 2, "size": 128},
    "vit_relpos_small_patch16_224": _TINY_VIT,
    "samvit_base_patch16_224": _TINY_VIT,
    "vitamin_small_224": {},
    "volo_d1_224": {},
    "vovnet39a": {},
    "xception41": {},
    "legacy_xception": {"size": 96},
    "xcit_nano_12_p16_224": {},
}
"""At least one network of each file -> what makes it small; ``size`` is its images' edge."""


def interactions(model: nn.Module, images_BCHW: Tensor) -> None:
    """One pair of one image, at the orders 0 and n-2."""
    game = ix.PatchGame(model, images_BCHW[0], 0, PLAYERS)
    pairs = ix.NeighbourPairs(PLAYERS, count=1)
    ix.measure([game], ix.Design(pairs, ratios=(0.0, 1.0)), target=None)


def occlusion(model: nn.Module, images_BCHW: Tensor) -> None:
    """Half of two images hidden."""
    labels_I = torch.zeros(2, dtype=torch.long)
    ix.occlude(
        model,
        images_BCHW[:2],
        labels_I,
        PLAYERS,
        ix.occluders.OCCLUDERS["random"],
        fractions=(0.5,),
    )


def invariance(model: nn.Module, images_BCHW: Tensor) -> None:
    """Half of the images hidden, every layer."""
    ix.invariance(model, [images_BCHW], PLAYERS, untrained=None, fractions=(0.5,), repeats=1)
    with torch.inference_mode():
        read = ix.layer_features(model, images_BCHW, layers=["output"])["output", "output"]
        torch.testing.assert_close(read, Readout().read(model, images_BCHW), rtol=1e-4, atol=1e-5)


def spectra(model: nn.Module, images_BCHW: Tensor) -> None:
    """Every map of the stream that is large enough."""
    small = spectrum.too_small(model, images_BCHW[:1])
    large = [name for name in stream_names(model) if name not in small]
    if not large:
        raise ValueError("expected maps of at least 3 x 3 cells, got smaller ones")
    ix.spectrum(model, [images_BCHW], layers=large)


def probe(model: nn.Module, images_BCHW: Tensor) -> None:
    """What the classifier reads."""
    Readout().setting(model)
    with torch.inference_mode():
        Readout().read(model, images_BCHW)


def probe_of_mean(model: nn.Module, images_BCHW: Tensor) -> None:
    """The mean of all places, after the last norm."""
    Readout("mean").setting(model)
    with torch.inference_mode():
        Readout("mean").read(model, images_BCHW)


def a2mim_step(model: nn.Module, images_BCHW: Tensor) -> None:
    """A step forwards and backwards, with the token where A2MIM has it in such a network."""
    method = MaskedImageModel(
        model.train(), BlockMask(images_BCHW.shape[-1], images_BCHW.shape[-1] // 2)
    )
    visible_BN = method.draw(torch.arange(len(images_BCHW)), seed=0)
    method(images_BCHW, visible_BN)["loss"].backward()


MEASURES: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "interactions": interactions,
    "occlusion": occlusion,
    "invariance": invariance,
    "spectrum": spectra,
    "probe": probe,
    "probe of the mean": probe_of_mean,
    "A2MIM": a2mim_step,
}


OBLONG = ("interactions", "occlusion", "invariance", "probe", "probe of the mean")
"""What images need not be square for: A2MIM's crops are, and spectra are of square maps."""


def walked(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What each measure says of a network: nothing, or the one line that it refuses it with.

    Raises:
        Exception: whatever else happens; that would be a traceback.
    """
    options = dict(options)
    size = options.pop("size", SIZE)
    model = load_model(f"untrained:{name}", options=options, image_size=size).model
    return {"class": type(model).__name__, **_said(model, (size, size), MEASURES)}


def walked_oblong(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The same of images that are half as wide again as they are high."""
    options = dict(options)
    size = options.pop("size", SIZE)
    oblong = (size, 3 * size // 2)
    try:
        model = load_model(f"untrained:{name}", options=options, image_size=oblong).model
    except WeightsError as error:
        return dict.fromkeys(OBLONG, str(error))
    return _said(model, oblong, OBLONG)


def _said(model: nn.Module, size: tuple[int, int], measures: Iterable[str]) -> dict[str, str]:
    images_BCHW = torch.rand(IMAGES, 3, *size, generator=torch.Generator().manual_seed(0))
    said = {}
    for measure in measures:
        try:
            MEASURES[measure](model, images_BCHW)
            said[measure] = ""
        except ValueError as error:
            if not re.search("expected|cannot", str(error)):
                raise  # not a line of ours
            said[measure] = in_a_line(error)
    return said


def page(rows: Mapping[str, Mapping[str, str]], oblong: Mapping[str, Mapping[str, str]]) -> str:
    """The rows as a page of Markdown; what is refused, and why, stands below.

    Args:
        rows: what is said of square images.
        oblong: of others, where that was tried.
    """
    measures = list(MEASURES)
    table = [
        "| network | class | " + " | ".join(measures) + " | oblong |",
        "|---|---|" + "---|" * (len(measures) + 1),
    ]
    refused: dict[str, dict[tuple[str, bool], list[str]]] = {}  # a line -> what it was said of
    for name, row in rows.items():
        marks = ["no" if row[measure] else "yes" for measure in measures]
        also = oblong.get(name, {})
        worse = [measure for measure in also if also[measure] and not row[measure]]
        last = ("no" if worse else "yes") if also else "–"
        table.append(f"| `{name}` | {row['class']} | " + " | ".join([*marks, last]) + " |")
        for measure in measures:
            if row[measure]:
                said_of = refused.setdefault(shortened(row[measure]), {})
                said_of.setdefault((name, False), []).append(measure)
        for measure in worse:
            said_of = refused.setdefault(shortened(also[measure]), {})
            said_of.setdefault((name, True), []).append(measure)
    lines = [
        "- "
        + ", ".join(
            f"`{name}` ({'oblong: ' if is_oblong else ''}{', '.join(measures)})"
            for (name, is_oblong), measures in said_of.items()
        )
        + f": {line}"
        for line, said_of in refused.items()
    ]
    table = ["::::{container} dense", *table, "::::"]
    return "\n".join([*HEAD, *table, "", "Refused, in one line each:", "", *lines, ""])


def shortened(message: str) -> str:
    """What came instead of what was expected."""
    return message.partition(", got ")[2] or message


HEAD = (
    "# Which networks of timm can be measured",
    "",
    "One small untrained network of every file of timm 1.0.31, made by",
    "`python -m experiments.network_walk`; the tests walk through them again. What the columns",
    "stand for is in that file. The last one is about images that are half as wide again as they",
    "are high: whether what works on square ones works there too (spectra and A2MIM aside, which",
    "are of square ones).",
    "",
)


def main() -> None:
    """Write the page, or print the rows of the networks that are named."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *NETWORKS], metavar="NAME")
    names = parser.parse_args().names
    rows = {name: walked(name, NETWORKS[name]) for name in names or NETWORKS}
    oblong = {name: walked_oblong(name, NETWORKS[name]) for name in rows}
    if names:
        print(page(rows, oblong))
    else:
        PAGE.write_text(page(rows, oblong), encoding="utf-8")


if __name__ == "__main__":
    main()
