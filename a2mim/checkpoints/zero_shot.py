"""Zero-shot classes: a network whose outputs are compared with vectors of texts.

    logits_k = scale * cos(z, t_k) + bias,    z = projection(features of the image)

where t_k is the mean of the normalised vectors of class k's prompts, normalised again (Radford et
al., ICML 2021, section 3.1.4). The network stays what it is, with another last layer: of a CLIP
tower of timm, whose classifier is the projection, or of one whose file holds the projection
(``visual.proj``, ``visual_projection.weight``).

Texts are a file of class names and vectors, in the order of the outputs:

    .npz            names (K,), vectors (K, D); scale and bias, one number each, if they are known
    .safetensors    vectors, scale, bias; names as a JSON list in the header

or ``open_clip:MODEL:PRETRAINED:CLASSES.txt[:TEMPLATES.txt]``, where open_clip (extra ``clip``)
computes them from names, one a line, and templates such as ``a photo of a {}.`` A MODEL such as
``hf-hub:USER/NAME`` or ``local-dir:PATH`` brings its own weights: PRETRAINED is left out.

Shapes: B images, K classes, D numbers of a vector, F features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from a2mim.checkpoints.files import WeightsError, contents_hash, one_line, read_state, weights_hash
from a2mim.checkpoints.load import Loaded
from a2mim.checkpoints.renaming import without_common_prefix

BY_OPEN_CLIP = "open_clip:"
OF_ITSELF = ("hf-hub", "local-dir")
"""What models of open_clip begin with that bring weights of their own."""

TEMPLATE = "a photo of a {}."
SCALE = 100.0
"""exp of the logit scale that CLIP was trained to, which it is clipped at."""

_PROJECTIONS = ("visual.proj", "visual_projection.weight", "visual.head.proj.weight")


@dataclass(frozen=True)
class Texts:
    """Vectors of classes, in the order of the outputs.

    Attributes:
        names: of the classes.
        vectors_KD: float32, of length 1.
        scale: of the cosines; None if it is not known.
        bias: of the logits (SigLIP).
    """

    names: tuple[str, ...]
    vectors_KD: Tensor
    scale: float | None = None
    bias: float = 0.0


class TextClassifier(nn.Module):
    """The last layer: features ``(B, F)`` -> logits ``(B, K)``.

    Args:
        projection: from features to the space of the texts.
        texts: of the classes.
        scale: of the cosines.
    """

    vectors_KD: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, projection: nn.Module, texts: Texts, scale: float) -> None:
        super().__init__()
        self.projection = projection
        self.register_buffer("vectors_KD", texts.vectors_KD)
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("bias", torch.tensor(texts.bias))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Scaled cosines."""
        image_BD = F.normalize(self.projection(features_BF), dim=-1)
        logits_BK: Tensor = self.scale * image_BD @ self.vectors_KD.T + self.bias
        return logits_BK


class _Behind(nn.Module):
    """A network of one's own with another last layer."""

    def __init__(self, network: nn.Module, last: TextClassifier, classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, classes
        self.last: nn.Module = last
        self.pretrained_cfg = getattr(network, "pretrained_cfg", {})

    def reset_classifier(self, num_classes: int) -> None:
        """Leave the features of the network."""
        if num_classes:
            raise ValueError(f"expected 0 classes, got {num_classes}")
        self.last, self.num_classes = nn.Identity(), 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.last(self.network(images_BCHW))
        return logits


def read_texts(where: str) -> Texts:
    """Names and vectors of classes, from a file or by open_clip.

    Raises:
        WeightsError: one line, if they cannot be had.
    """
    if where.startswith(BY_OPEN_CLIP):
        return _by_open_clip(where)
    path = Path(where)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found: dict[str, Any] = {key: arrays[key] for key in arrays.files}
            names = [str(name) for name in found.pop("names", ())]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                names = [str(n) for n in json.loads((file.metadata() or {}).get("names", "[]"))]
        else:
            raise WeightsError(
                f"expected texts in a .npz or .safetensors file, or {BY_OPEN_CLIP}MODEL:PRETRAINED:"
                f"CLASSES.txt, got {where}"
            )
        scale, bias = (
            float(np.asarray(found[key]).reshape(())) if key in found else None
            for key in ("scale", "bias")
        )
        vectors = torch.tensor(np.asarray(found.get("vectors", ()), np.float32))
    except FileNotFoundError as error:
        raise WeightsError(f"expected a file of texts, {where} is missing") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"cannot read texts from {where}: {one_line(error)}") from error
    return _checked(names, vectors, scale, bias or 0.0, where)


def _checked(
    names: Sequence[str], vectors_KD: Tensor, scale: float | None, bias: float, where: str
) -> Texts:
    shape = tuple(vectors_KD.shape)
    if len(shape) != 2 or len(names) != shape[0] or len(names) < 2 or len(set(names)) < len(names):
        raise WeightsError(
            f"expected different names (K,) and vectors (K, D) of at least 2 classes in {where}, "
            f"got {len(names)} names and vectors {shape}"
        )
    lengths = vectors_KD.norm(dim=1)
    if not (vectors_KD.isfinite().all() and lengths.all()):
        raise WeightsError(f"expected vectors of numbers, none of length 0, in {where}")
    if scale is not None and not 0 < scale < math.inf:
        raise WeightsError(f"expected a scale above 0 in {where}, got {scale}")
    return Texts(tuple(names), vectors_KD / lengths[:, None], scale, bias)


def _by_open_clip(where: str) -> Texts:
    """Vectors of prompts, averaged for each class."""
    parts: list[str | None] = [*where.removeprefix(BY_OPEN_CLIP).split(":")]
    if parts[0] in OF_ITSELF and len(parts) > 1:
        parts[:2] = [f"{parts[0]}:{parts[1]}", None]
    model_name, pretrained, *files = (*parts, "", "")[: max(len(parts), 2)]
    if len(files) not in (1, 2) or not model_name or pretrained == "" or not all(files):
        raise WeightsError(
            f"expected {BY_OPEN_CLIP}MODEL:PRETRAINED:CLASSES.txt[:TEMPLATES.txt], or "
            f"{BY_OPEN_CLIP}hf-hub:USER/NAME:CLASSES.txt[:TEMPLATES.txt], got {where}"
        )
    names = _lines(str(files[0]))
    templates = _lines(str(files[1])) if len(files) == 2 else [TEMPLATE]
    if wrong := [template for template in templates if "{}" not in template]:
        raise WeightsError(f"expected templates with {{}} for the class, got {wrong[0]!r}")
    try:
        import open_clip
    except ImportError as error:
        raise WeightsError(
            f"texts by {BY_OPEN_CLIP} need open_clip: pip install 'a2mim[clip]', or give a file of "
            "names and vectors"
        ) from error
    try:
        model, *_ = open_clip.create_model_and_transforms(model_name, pretrained=pretrained)
        tokenizer = open_clip.get_tokenizer(model_name)
        model.eval()
        vectors = []
        with torch.inference_mode():
            for name in names:
                tokens = tokenizer([template.replace("{}", name) for template in templates])
                vectors.append(F.normalize(model.encode_text(tokens).float(), dim=-1).mean(dim=0))
            scale = float(model.logit_scale.exp())
            bias = getattr(model, "logit_bias", None)
            bias = 0.0 if bias is None else float(bias)
    except Exception as error:  # whatever names, downloads and other versions raise
        raise WeightsError(f"cannot compute texts by {where}: {one_line(error)}") from error
    return _checked(names, torch.stack(vectors), scale, bias, where)


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"expected a text file of one name a line: {one_line(error)}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def with_texts(loaded: Loaded, where: str, file: Path | None) -> Loaded:
    """A network with zero-shot classes for its classifier.

    Args:
        loaded: a tower whose outputs, or whose features behind the projection in its file, are in
            the space of the texts.
        where: the texts, as of :func:`read_texts`.
        file: of its weights, if they are of one.

    Raises:
        WeightsError: if texts cannot be read, or are of another width.
    """
    texts = read_texts(where)
    found, learned = _projection(file)
    scale = texts.scale or learned or SCALE
    model: Any = loaded.model
    name = str(getattr(model, "pretrained_cfg", {}).get("classifier") or "")
    inside = name and hasattr(model, "forward_head") and "," not in name and "(" not in name
    last = model.get_submodule(name) if inside else nn.Identity()
    projection: nn.Module = last
    if found is not None:
        projection = nn.Linear(found.shape[1], found.shape[0], bias=False)
        projection.weight = nn.Parameter(found)
    classifier = TextClassifier(projection, texts, scale)
    if inside:
        model.set_submodule(name, classifier)
        model.num_classes = len(texts.names)
    else:
        model = _Behind(model, classifier, len(texts.names)).eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *loaded.data_config["input_size"]))
    except RuntimeError as error:
        raise WeightsError(
            f"expected vectors as wide as the outputs of {loaded.report.architecture}, got "
            f"{texts.vectors_KD.shape[1]} numbers a class in {where}"
        ) from error
    state = model.state_dict()
    told = "" if texts.scale or learned else ", which nothing told"
    kind = f"zero-shot: {len(texts.names)} classes of {Path(where).name}, scale {scale:.4g}{told}"
    report = replace(
        loaded.report,
        classes=len(texts.names),
        class_names=texts.names,
        sha256=weights_hash(state),
        contents=contents_hash(state),
        notes=(*loaded.report.notes, kind),
        assumed=tuple(one for one in loaded.report.assumed if one.setting != "class indices"),
    )
    return Loaded(model.eval(), loaded.data_config, report)


def _projection(file: Path | None) -> tuple[Tensor | None, float | None]:
    """The projection ``(D, F)`` that a file of CLIP holds, and its scale."""
    if file is None or not file.is_file():
        return None, None
    tensors = {
        k: tensor for k, (_, tensor) in without_common_prefix(read_state(file).tensors).items()
    }
    scale = tensors.get("logit_scale")
    learned = None if scale is None else float(scale.float().exp())
    name = next((name for name in _PROJECTIONS if name in tensors), None)
    if name is None:
        return None, learned
    weight = tensors[name].float()
    return (weight.T.contiguous() if name == "visual.proj" else weight), learned
