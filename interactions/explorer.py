"""A picture to click on: choose an image and a patch, and see its partners by order.

Needs ipywidgets (``pip install 'a2mim[notebook]'``) and a notebook that shows widgets; a click on
a patch is a click on a button that lies over it, so no other extension is needed. Without
widgets :meth:`interactions.Explanation.plot_patch` draws the same figure.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from interactions.explanation import Explanation, explain
from interactions.inputs import is_path, names_of
from interactions.patches import PatchGrid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, WIDTH = 280, 590
"""Edge of the clickable image and width of the picture beside it, on the screen, in pixels."""

TABLE = 3
"""Partners that are listed for each band of orders."""


def explore(
    model: nn.Module, images: Any, *, names: Sequence[str] | None = None, **settings: Any
) -> Explorer:
    """Images to click on: a patch's partners at low, middle and high orders.

    An image is explained when it is chosen for the first time (minutes on a CPU at the default
    settings, see :func:`interactions.explain`).

    Args:
        model: a classifier in eval mode.
        images: an image, or a list of them: arrays, PIL images, paths, or tensors that are ready.
        names: one for each image; those of files, or ``"0"``, ``"1"``, ... if left out.
        settings: of :func:`interactions.explain`, such as ``players``, ``pairs`` and ``fill``.

    Raises:
        ImportError: without ipywidgets.
        ValueError: as :func:`interactions.explain`.
    """
    several = list(images) if isinstance(images, list | tuple) or _is_batch(images) else [images]
    names = names_of(names, images if is_path(images) else several, len(several))
    settings = {"progress": True, **settings}
    made = [
        partial(explain, model, image, name=name, **settings)
        for image, name in zip(several, names, strict=True)
    ]
    return Explorer(made, names)


def _is_batch(images: Any) -> bool:
    return getattr(images, "ndim", 0) == 4


class Explorer:
    """What :func:`explore` returns; ``Explorer([explanation])`` shows what has been measured.

    Args:
        explanations: explanations, or functions that make them when they are chosen.
        names: one for each; those of the explanations if left out.

    Attributes:
        explanation: the one that is shown.
        patch: the patch that was chosen.
        widget: what is shown in a notebook.

    Raises:
        ImportError: without ipywidgets.
        ValueError: without an explanation.
    """

    def __init__(
        self,
        explanations: Sequence[Explanation | Callable[[], Explanation]],
        names: Sequence[str] | None = None,
    ) -> None:
        widgets = _widgets()
        if not explanations:
            raise ValueError("expected at least one explanation, got none")
        self._made = list(explanations)
        if names is None:
            names = [made.image for made in self._made if isinstance(made, Explanation)]
        self._choice = widgets.Dropdown(
            options=[(name, k) for k, name in enumerate(names_of(names, None, len(self._made)))],
            description="image",
        )
        self._number = widgets.BoundedIntText(description="patch", layout={"width": "160px"})
        self._over = widgets.VBox()
        self._picture = widgets.Image(
            format="png",
            layout={"width": f"{WIDTH}px", "max_width": "100%", "object_fit": "contain"},
        )
        self._partners = widgets.HTML()
        self._said = widgets.HTML()
        self._buttons: list[Any] = []
        self._choice.observe(lambda change: self.show(change["new"]), "value")
        self._number.observe(lambda change: self.choose(change["new"]), "value")
        self.widget = widgets.VBox(
            [
                widgets.HBox([self._choice, self._number, self._said]),
                widgets.HBox(
                    [self._over, widgets.VBox([self._picture, self._partners])],
                    layout={"flex_flow": "row wrap", "align_items": "flex-start"},
                ),
            ]
        )
        self.explanation: Explanation
        self.patch = 0
        self.show(0)

    def show(self, image: int) -> None:
        """Choose an image by its number; it is explained if that has not been done."""
        made = self._made[image]
        if not isinstance(made, Explanation):
            self._said.value = "measuring ..."
            try:
                made = made()
            finally:
                self._said.value = ""
            self._made[image] = made
        self.explanation = made
        self._choice.value = image
        self._number.max = made.record.n - 1
        self._over.children = self._clickable()
        largest = made.strongest(1, made.bands[len(made.bands) // 2])
        self.choose(int(largest["i"].iloc[0]))

    def choose(self, patch: int) -> None:
        """Choose a patch by its number, row by row from the upper left.

        Raises:
            ValueError: for a patch that was measured in no pair.
        """
        table = self.explanation.partners(patch)
        self.patch = patch
        for k, button in enumerate(self._buttons):
            button.layout.border = f"2px solid {'#b23a05' if k == patch else 'transparent'}"
        self._number.value = patch
        self._picture.value = _png(self.explanation.plot_patch(patch))
        by_size = table["interaction"].abs().sort_values(ascending=False, kind="stable").index
        strongest = table.loc[by_size].groupby("band", sort=False).head(TABLE)
        shown = []
        for band in self.explanation.bands:
            part = strongest[strongest["band"] == band].drop(columns=["band", "se"])
            text = part.to_html(index=False, border=0, float_format="{:.3g}".format)
            style = "display:inline-block;margin-right:2em;line-height:1.4"
            shown.append(f"<div style='{style}'><b>{band} orders</b>{text}</div>")
        self._partners.value = "".join(shown)

    def _clickable(self) -> list[Any]:
        """The image below a grid of buttons; just the image for players that form no grid."""
        widgets = _widgets()
        explanation = self.explanation
        H, W = explanation.picture_HWC.shape[:2]
        height = round(SIDE * H / W)
        picture = _png_of_pixels(explanation.picture_HWC)
        players, self._buttons = explanation.players, []
        if not isinstance(players, PatchGrid):
            return [widgets.Image(value=picture, format="png", width=SIDE, height=height)]
        measured = set(explanation.record.pairs_P2.ravel().tolist())
        for k in range(players.n):
            place = f"patch {k}: row {k // players.cols}, column {k % players.cols}"
            button = widgets.Button(
                tooltip=place,
                disabled=k not in measured,
                layout={"width": "100%", "height": "100%", "margin": "0", "padding": "0"},
            )
            button.style.button_color = "transparent"
            button.on_click(partial(self._clicked, k))
            self._buttons.append(button)
        grid = widgets.GridBox(
            self._buttons,
            layout={
                "width": f"{SIDE}px",
                "height": f"{height}px",
                "grid_template_columns": f"repeat({players.cols}, 1fr)",
                "grid_template_rows": f"repeat({players.rows}, 1fr)",
                "grid_gap": "0",
                "overflow": "hidden",
            },
        )
        name = f"explorer-{id(self):x}"
        grid.add_class(name)
        encoded = base64.b64encode(picture).decode()
        style = widgets.HTML(
            f"<style>.{name} {{background: url(data:image/png;base64,{encoded}) 0 0 / 100% 100%; "
            f"image-rendering: pixelated}} .{name} button {{opacity: 0.95}} "
            f".{name} button:hover {{background: #ffffff55 !important}}</style>"
            "<small>click on a patch</small>"
        )
        return [grid, style]

    def _clicked(self, patch: int, button: object) -> None:
        self.choose(patch)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The widget; where it is not shown, as on a page, the picture of the chosen patch."""
        shown = dict(self.widget._repr_mimebundle_(**options))
        picture = base64.b64encode(self._picture.value).decode()
        return shown | {"text/plain": repr(self), "image/png": picture}

    def __repr__(self) -> str:
        return f"Explorer({len(self._made)} images, {self.explanation.image!r}, patch {self.patch})"


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "the explorer needs ipywidgets: pip install 'a2mim[notebook]'; without it "
            "ix.explain(...).plot_patch(patch) draws the same"
        ) from error
    return ipywidgets


def _png(figure: Figure) -> bytes:
    written = BytesIO()
    figure.savefig(written, format="png", dpi=100)
    return written.getvalue()


def _png_of_pixels(picture_HWC: np.ndarray) -> bytes:
    from PIL import Image

    written = BytesIO()
    levels = (np.clip(picture_HWC, 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(levels).save(written, format="png")
    return written.getvalue()
