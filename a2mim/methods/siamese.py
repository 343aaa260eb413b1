"""Masked image modelling as a siamese problem: relaxed MAE and contrastive MAE.

Kong & Zhang, "Understanding masked image modeling via learning occlusion invariant feature" (CVPR
2023) read MAE as two views of one image that are pulled together:

    x1 = x M,   x2 = x (1 - M)       M = 1 at visible patches; or x2 = x  (view2 = "full")
    z1 = f(x1), z2 = f'(x2)          f' = f, or its slow copy (momentum)

    siamese   min over f of  E distance(f(T1(x)), f(T2(x)))                                  (1)
    L_MAE   = |(d(z1) - t) (1 - M)|^2                                                        (2)
    S       = |(d(z1) - d'(z2)) (1 - M)|^2                                                   (3)
    penalty = |(d'(z2) - t) (1 - M)|^2                                                       (4)
    R-MAE:    L_relaxed = S + lambda penalty                                                 (5)
    bound:    L_MAE <= (1 + 1 / lambda) L_relaxed                                            (6)
    C-MAE:    L = -mean over a of log( e^(q_a k_a / tau) / sum over b of e^(q_a k_b / tau) ) (7)

d and d' are two decoders of :mod:`a2mim.methods.mae`, t the pixels or, with ``norm_pix``, the
normalised pixels of a patch, |.|^2 the mean over the D numbers of a patch and over hidden patches;
q and k are heads of z1 and z2, divided by their norms.

How well each is known; of the paper we could read the abstract and the introduction's beginning:

certain
    (1), the paper's equation 1, and that masked modelling can be relaxed to it; (2), the official
    code of MAE
second-hand
    from those who cite it: complementary views, a similarity made of decoders, InfoNCE in C-MAE,
    the names R-MAE and C-MAE
from memory
    the assumption behind (3), that some d' restores from z2 what x2 shows, so that d'(z2) can stand
    for t; the symbol M, 1 at visible patches
derived
    (3) from it; (4) and (5), where "d' is the best one" turns from a constraint into a penalty;
    (6), because L_MAE^1/2 <= S^1/2 + penalty^1/2 = a + b (triangle inequality) and
    (a + b)^2 <= (1 + 1 / lambda)(a^2 + lambda b^2); that lambda = 0 collapses; (7) as another
    distance in (1)
chosen here
    lambda, tau, sizes, heads, negatives, what is stopped, what is slow

At lambda = 0, d = d' = constant is a minimum of (5). In the small networks of the tests, decoders
get there first, and leave the encoder's features without a gradient; with fixed decoders, features
collapse. In (7) negatives prevent that.

The slow copy follows the weights theta of f (and of the head) after every step of the optimiser:

    xi <- m xi + (1 - m) theta                 xi = theta at first; MoCo (He et al., CVPR 2020)

in ``after_step``, which :func:`a2mim.training.loop.pretrain` calls; a loop of one's own calls it
too. All processes have the same theta, and so the same xi; where weights are spread over them
(fsdp), each has a part of both. It is part of a method's state: a run that is resumed goes on with
the same xi.

(7) compares within the micro-batch of one process: another number of processes or of micro-batches
is another loss. (2) to (6) are means over images.

Shapes: B images, C colours, H x W pixels, N patches, K visible in view 1, L in view 2, T prefix
tokens, E encoder channels, D numbers per patch; P channels of a head, O places per image that it
describes (1 or N); A sets of Q pairs that are compared with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any, Literal, cast, get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from a2mim.methods.mae import (
    PatchDecoder,
    encode_visible,
    hidden_mse,
    patches_of,
    pixel_decoder,
    pixel_target,
    visible_places,
    vision_transformer,
)
from a2mim.methods.masking import random_squares
from interactions.patches import PatchGrid

View2 = Literal["complement", "full"]
"""What the second view shows: the patches that the first hides, or all."""

Branch = Literal["view1", "view2"]

Negatives = Literal["images", "positions", "all"]


class RelaxedMAE(nn.Module):
    """R-MAE: two decoders agree on the hidden patches, and the second also tells the truth.

    Numbers in brackets are equations of :mod:`a2mim.methods.siamese`.

    Args:
        backbone: a timm ``VisionTransformer``, as for :class:`a2mim.methods.mae.MaskedAutoencoder`,
            with the weights to start from: a slow copy is made now.
        ratio: hidden share of the patches in view 1.
        penalty_weight: lambda; at 0 the features may collapse.
        view2: what the second view shows.
        stop_gradient: the branch through which S sends no gradient. With ``"view2"``, S does not
            train d', and trains f through view 1 alone; the penalty still trains both. With
            ``"view1"`` nothing trains d, which is frozen.
        momentum: m, if view 2 is encoded by a slow copy. Then the penalty trains d' alone.
        decoder_width: of each decoder.
        decoder_depth: of each decoder.
        decoder_heads: of each decoder.
        norm_pix: whether t is normalised.

    Raises:
        TypeError: see :class:`a2mim.methods.mae.MaskedAutoencoder`.
        ValueError: as there; for options out of range; or if nothing would train the backbone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        ratio: float = 0.75,
        *,
        penalty_weight: float = 1.0,
        view2: View2 = "complement",
        stop_gradient: Branch | None = None,
        momentum: float | None = None,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= penalty_weight < inf:
            raise ValueError(f"expected a penalty weight of at least 0, got {penalty_weight}")
        _check(view2, View2, "view2")
        _check(stop_gradient, Branch, "stop_gradient", or_none=True)
        if momentum is not None and stop_gradient == "view1":
            raise ValueError(
                "expected a branch that trains the backbone, got view 1 stopped and view 2 slow; "
                "leave out one of stop_gradient and momentum"
            )
        self.backbone = vision_transformer(backbone)
        self.grid, self.kept = patches_of(self.backbone, ratio)
        self.penalty_weight = penalty_weight
        self.view2: View2 = view2
        self.stop_gradient = stop_gradient
        self.norm_pix = norm_pix
        sizes = decoder_width, decoder_depth, decoder_heads
        self.decoder = pixel_decoder(self.backbone, *sizes)
        self.decoder2 = pixel_decoder(self.backbone, *sizes)
        if stop_gradient == "view1":
            self.decoder.requires_grad_(False)
        self.target = _slow_copy(momentum, backbone=self.backbone)

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks of view 1: see :meth:`a2mim.methods.mae.MaskedAutoencoder.draw`."""
        return random_squares(images_B, self.grid.n, self.kept, seed)

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor) -> dict[str, Tensor]:
        """One step.

        Args:
            images_BCHW: normalised images, from which the target is made.
            visible_BN: bool over the patches, True in view 1, equally many in every row.

        Returns:
            ``loss`` (5) and its parts ``similarity`` (3) and ``penalty`` (4), unweighted; ``mae``
            (2), which nothing trains directly; ``bound``, the right side of (6), unless lambda is
            0; ``output``, the image that d predicts, as in
            :class:`a2mim.methods.mae.MaskedAutoencoder`.

        Raises:
            ValueError: if images and masks do not fit this model.
        """
        places1_BK = visible_places(visible_BN, self.grid.n, self.kept)
        places2_BL = second_view(visible_BN, self.view2, self.kept)
        z1 = encode_visible(self.backbone, images_BCHW, places1_BK)
        if self.target is None:
            z2 = encode_visible(self.backbone, images_BCHW, places2_BL)
        else:
            with torch.no_grad():
                z2 = encode_visible(self.target.backbone, images_BCHW, places2_BL)
        target = pixel_target(images_BCHW, self.grid, self.norm_pix)
        t = target.patches_BND
        # Under autocast predictions have few digits, and a difference of two would have fewer.
        y1 = self.decoder(z1, places1_BK).to(t.dtype)
        y2 = self.decoder2(z2, places2_BL).to(t.dtype)
        similarity = hidden_mse(*_stopped(y1, y2, self.stop_gradient), visible_BN)
        penalty = hidden_mse(y2, t, visible_BN)
        loss = similarity + self.penalty_weight * penalty
        losses = {"loss": loss, "similarity": similarity, "penalty": penalty}
        losses["mae"] = hidden_mse(y1.detach(), t, visible_BN)
        if self.penalty_weight:
            losses["bound"] = (1 + 1 / self.penalty_weight) * loss.detach()
        return {**losses, "output": target.image(y1)}

    def after_step(self) -> None:
        """Let the slow copy, if there is one, follow a step of the optimiser."""
        if self.target is not None:
            self.target.update(self)


@dataclass(frozen=True)
class ImageLevel:
    """C-MAE with one vector per image: the mean of the visible tokens, then a perceptron.

    Negatives are the other images of the micro-batch.

    Attributes:
        widths: output channels of the layers, with GELU in between; none compares the means.
    """

    widths: tuple[int, ...] = (2048, 2048, 256)

    def head(self, backbone: VisionTransformer, grid: PatchGrid) -> nn.Module:
        """A module ``(tokens, places) -> (B, 1, P)``."""
        return MeanHead(backbone.embed_dim, self.widths, backbone.num_prefix_tokens)

    def sets(self, described_BOP: Tensor) -> Tensor:
        """What is compared with each other: ``(1, B, P)``."""
        return described_BOP.transpose(0, 1)


@dataclass(frozen=True)
class TokenLevel:
    """C-MAE with a vector per patch, hidden ones too: mask tokens and a few blocks restore them.

    A pair is the same image and position in both views; all N positions count, not only hidden
    ones. Negatives among other positions are told apart by the position embedding to some degree.
    With ``"all"``, (B N)^2 numbers are in memory.

    Attributes:
        width: of the blocks.
        depth: how many blocks.
        heads: attention heads.
        channels: P.
        negatives: ``"images"`` (same position, other images), ``"positions"`` (same image, other
            positions) or ``"all"`` (all other tokens of the micro-batch).

    Raises:
        ValueError: for unknown negatives.
    """

    width: int = 512
    depth: int = 2
    heads: int = 16
    channels: int = 256
    negatives: Negatives = "images"

    def __post_init__(self) -> None:
        _check(self.negatives, Negatives, "negatives")

    def head(self, backbone: VisionTransformer, grid: PatchGrid) -> nn.Module:
        """A module ``(tokens, places) -> (B, N, P)``."""
        return PatchDecoder(
            backbone.embed_dim,
            self.width,
            self.depth,
            self.heads,
            grid,
            self.channels,
            backbone.num_prefix_tokens,
        )

    def sets(self, described_BOP: Tensor) -> Tensor:
        """What is compared with each other: ``(N, B, P)``, ``(B, N, P)`` or ``(1, B N, P)``."""
        if self.negatives == "images":
            return described_BOP.transpose(0, 1)
        return described_BOP if self.negatives == "positions" else described_BOP.flatten(0, 1)[None]


class ContrastiveMAE(nn.Module):
    """C-MAE: from view 1, find view 2 of the same image among others, by InfoNCE.

    View 1 asks and view 2 answers, as the hidden part answers in MAE; the reverse is not added.
    Numbers in brackets are equations of :mod:`a2mim.methods.siamese`.

    Args:
        backbone: a timm ``VisionTransformer``, as for :class:`RelaxedMAE`.
        ratio: hidden share of the patches in view 1.
        level: what is compared.
        temperature: tau.
        view2: what the second view shows.
        stop_gradient: the branch that gets no gradient.
        momentum: m, if a slow copy of backbone and head makes view 2. It gets no gradient in any
            case.

    Raises:
        TypeError: see :class:`a2mim.methods.mae.MaskedAutoencoder`.
        ValueError: as there; for options out of range; or for both stop_gradient and momentum.
    """

    def __init__(
        self,
        backbone: nn.Module,
        ratio: float = 0.75,
        *,
        level: ImageLevel | TokenLevel = ImageLevel(),
        temperature: float = 0.1,
        view2: View2 = "complement",
        stop_gradient: Branch | None = None,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < temperature < inf:
            raise ValueError(f"expected a positive temperature, got {temperature}")
        _check(view2, View2, "view2")
        _check(stop_gradient, Branch, "stop_gradient", or_none=True)
        if momentum is not None and stop_gradient is not None:
            raise ValueError(
                f"expected stop_gradient or momentum, got {stop_gradient!r} and {momentum}; a slow "
                "copy gets no gradient, and view 1 has to have one"
            )
        self.backbone = vision_transformer(backbone)
        self.grid, self.kept = patches_of(self.backbone, ratio)
        self.level = level
        self.temperature = temperature
        self.view2: View2 = view2
        self.stop_gradient = stop_gradient
        self.head = level.head(self.backbone, self.grid)
        self.target = _slow_copy(momentum, backbone=self.backbone, head=self.head)

    def draw(self, images_B: Tensor, seed: int) -> Tensor:
        """Masks of view 1: see :meth:`a2mim.methods.mae.MaskedAutoencoder.draw`."""
        return random_squares(images_B, self.grid.n, self.kept, seed)

    def forward(self, images_BCHW: Tensor, visible_BN: Tensor) -> dict[str, Tensor]:
        """One step.

        Args:
            images_BCHW: normalised images, 2 or more if they are each other's negatives.
            visible_BN: bool over the patches, True in view 1, equally many in every row.

        Returns:
            ``loss`` (7); ``output``, the head of view 1 ``(B, O, P)``, not normalised.

        Raises:
            ValueError: if images and masks do not fit this model, or there are no negatives.
        """
        places1_BK = visible_places(visible_BN, self.grid.n, self.kept)
        places2_BL = second_view(visible_BN, self.view2, self.kept)
        q = self.head(encode_visible(self.backbone, images_BCHW, places1_BK), places1_BK)
        if self.target is None:
            k = self.head(encode_visible(self.backbone, images_BCHW, places2_BL), places2_BL)
        else:
            with torch.no_grad():
                z2 = encode_visible(self.target.backbone, images_BCHW, places2_BL)
                k = self.target.head(z2, places2_BL)
        queries, keys = _stopped(q, k, self.stop_gradient)
        loss = info_nce(self.level.sets(queries), self.level.sets(keys), self.temperature)
        return {"loss": loss, "output": q}

    def after_step(self) -> None:
        """Let the slow copy, if there is one, follow a step of the optimiser."""
        if self.target is not None:
            self.target.update(self)


class MeanHead(nn.Module):
    """The mean of the patch tokens, prefix left out, through a perceptron.

    Args:
        channels: E.
        widths: output channels of its layers, with GELU in between.
        prefix: T.
    """

    def __init__(self, channels: int, widths: Sequence[int], prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *widths)):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, tokens: Tensor, _places_BK: Tensor) -> Tensor:
        """Vectors ``(B, 1, P)`` from tokens ``(B, T + K, E)``; where they stand does not matter."""
        return self.layers(tokens[:, self.prefix :].mean(dim=1, keepdim=True))


class SlowCopy(nn.Module):
    """Copies of modules, whose weights follow theirs: xi <- m xi + (1 - m) theta.

    Buffers are not followed: those of vision transformers are constants.

    Args:
        momentum: m.
        modules: what is copied, by the name it has in the method.

    Raises:
        ValueError: if ``momentum`` is not in [0, 1).
    """

    def __init__(self, momentum: float, **modules: nn.Module) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"expected a momentum of at least 0 and below 1, got {momentum}")
        self.momentum = momentum
        for name, module in modules.items():
            self.add_module(name, deepcopy(module))
        self.requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        """A copy by its name; Any, because torch's own annotation allows for tensors."""
        return super().__getattr__(name)

    @torch.no_grad()
    def update(self, method: nn.Module) -> None:
        """One step towards the weights of the method."""
        for name, copy in self.named_children():
            own = method.get_submodule(name).parameters()
            for slow, fast in zip(copy.parameters(), own, strict=True):
                slow.lerp_(fast, 1 - self.momentum)


def second_view(visible_BN: Tensor, view2: View2, kept: int) -> Tensor:
    """Places ``(B, L)`` of the patches in view 2, ascending; ``kept`` are in view 1."""
    B, N = visible_BN.shape
    if view2 == "full":
        return torch.arange(N, device=visible_BN.device).expand(B, N)
    return visible_places(~visible_BN, N, N - kept)


def info_nce(queries_AQP: Tensor, keys_AQP: Tensor, temperature: float) -> Tensor:
    """(7): each query against all keys of its set, of which the one at its own place is right.

    In float32 at least, also under autocast: at tau = 0.07 the digits of a bfloat16 are too few.

    Raises:
        ValueError: if a set holds one pair only: there is nothing to tell it from.
    """
    A, Q, _ = queries_AQP.shape
    if Q < 2:
        raise ValueError(
            "expected at least 2 pairs to compare, got 1; use more images in a micro-batch"
        )
    with torch.autocast(queries_AQP.device.type, enabled=False):
        dtype = torch.promote_types(queries_AQP.dtype, torch.float32)
        q = functional.normalize(queries_AQP.to(dtype), dim=2)
        k = functional.normalize(keys_AQP.to(dtype), dim=2)
        logits_AQQ = q @ k.transpose(1, 2) / temperature
        right = torch.arange(Q, device=q.device).repeat(A)
        return functional.cross_entropy(logits_AQQ.flatten(0, 1), right)


def _slow_copy(momentum: float | None, **modules: nn.Module) -> SlowCopy | None:
    return None if momentum is None else SlowCopy(momentum, **modules)


def _stopped(one: Tensor, two: Tensor, branch: Branch | None) -> tuple[Tensor, Tensor]:
    """Both branches, one of them without its gradient."""
    return (
        one.detach() if branch == "view1" else one,
        two.detach() if branch == "view2" else two,
    )


def _check(value: str | None, names: Any, option: str, or_none: bool = False) -> None:
    known = cast(tuple[str, ...], get_args(names))
    if value not in known and not (or_none and value is None):
        raise ValueError(f"expected {option} {' or '.join(known)}, got {value!r}")
