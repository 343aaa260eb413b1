"""Feature drop inside a network ("lesion"): features of random places are 0 where a layer reads.

    transformers   int(r L) patch tokens of L = all tokens, the class token counted but kept
    feature maps   every place with probability r, all channels of it

as in IPViT (Naseer et al., NeurIPS 2021, appendix): r = 0.25, 0.5, 0.75 at blocks 0, 2, 4, 8, 10 of
ViTs (int(r 197) of 196 patches) and before ``layer1`` to ``layer4`` and the pooling of a ResNet.

Shapes: B images, L tokens, D channels, H x W places, P patch tokens or places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from interactions.keys import Key, raw_words
from interactions.occlusion.masks import uniform


@contextmanager
def lesion(
    model: nn.Module,
    layer: str,
    fraction: float,
    *,
    images: Sequence[Key] | None = None,
    seed: int = 0,
    repeat: int = 0,
) -> Iterator[None]:
    """Within the block, features of random places are 0 where they enter a layer.

    Args:
        model: the network; it is whole again afterwards, also after errors.
        layer: the layer's name, such as ``"blocks.4"``, ``"layer3"`` or ``"global_pool"``. Its
            input has to be tokens ``(B, L, D)`` or maps with channels first ``(B, C, H, W)``.
        fraction: dropped share r of the places.
        images: a name for each image of *every* batch within the block, in its order, for places
            of its own by key; without names all images share one set, as published, where each
            batch has another one (another ``repeat``).
        seed: the seed of the experiment.
        repeat: which of several independent draws.

    Raises:
        ValueError: for an unknown layer or a fraction outside [0, 1]; within the block, if the
            layer's input is something else, or names are not as many as images.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a dropped fraction between 0 and 1, got {fraction}")
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        raise ValueError(
            f"expected a layer of {type(model).__name__}, got {layer!r}; see named_modules()"
        ) from None
    prefix = getattr(model, "num_prefix_tokens", 0)
    called = False

    def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal called
        called = True
        features = args[0]
        tokens = features.ndim == 3
        if features.ndim not in (3, 4):
            raise ValueError(
                f"expected tokens (B, L, D) or maps (B, C, H, W) at {layer}, got an input of shape "
                f"{tuple(features.shape)}"
            )
        if images is not None and len(images) != len(features):
            raise ValueError(f"expected a batch of {len(images)} named images, got {len(features)}")
        places = features.shape[1] - prefix if tokens else features.shape[2:].numel()
        keys: list[tuple[Key, ...]] = [()] if images is None else [(image,) for image in images]
        words_BP = np.stack(
            [raw_words(places, "lesion", seed, layer, repeat, *key) for key in keys]
        )
        if tokens:
            dropped = min(int(fraction * features.shape[1]), places)
            kept = words_BP.argsort(axis=1, kind="stable").argsort(axis=1) >= dropped
            kept = np.pad(kept, ((0, 0), (prefix, 0)), constant_values=True)[:, :, None]
        else:
            kept = uniform(words_BP) >= fraction
            kept = kept.reshape(-1, 1, *features.shape[2:])
        # Not a product: 0 times infinity is no 0.
        whole = torch.from_numpy(kept).to(features.device)
        return (torch.where(whole, features, 0), *args[1:])

    hook = module.register_forward_pre_hook(drop)
    try:
        yield
        if not called:
            raise ValueError(f"expected a forward pass through {layer}, but it was never called")
    finally:
        hook.remove()
