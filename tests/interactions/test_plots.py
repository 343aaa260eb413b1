import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import interactions as ix
from interactions import plots
from interactions.stats import Interval


@pytest.fixture
def ax():
    with mpl.rc_context(plots.STYLE):
        yield Figure().subplots()


def test_curve_draws_the_estimates_and_the_band(ax):
    intervals = [Interval(1.0, 0.1, 0.8, 1.2), Interval(2.0, 0.1, 1.5, 2.5)]
    plots.curve(ax, [0, 1], intervals, label="one")
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1, 2])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (0.8, 2.5)
    assert line.get_label() == "one"


HOSTILE = ["_a$b$c", r"$\frac{", "a\x1b[2J\u202e\udcff<b>", "a\\$b$"]


def test_names_are_shown_letter_by_letter(ax):
    """No formula, no name that a legend leaves out, nothing that a file of XML cannot hold."""
    import io
    from xml.etree import ElementTree

    for name in HOSTILE:
        plots.curve(ax, [0, 1], [Interval(1.0, 0.1, 0.8, 1.2)] * 2, label=plots.literal(name))
    legend = ax.legend()
    drawn = [text._preprocess_math(text.get_text()) for text in legend.get_texts()]
    assert drawn == [
        (" _a$b$c", False),
        (r"$\frac{", False),
        (r"a\x1b[2J\u202e\udcff<b>", False),
        (r"a\$b$", False),
    ]
    file = io.BytesIO()
    ax.figure.savefig(file, format="svg")
    assert ElementTree.fromstring(file.getvalue()).tag.endswith("svg")


def test_strength_and_occlusion_curves_draw_their_numbers(ax):
    games = [
        ix.toy.DividendGame(9, {frozenset({0, 1, k}): 1.0 for k in range(2, 9)}, image=str(s))
        for s in range(4)
    ]
    strength = ix.strength(ix.measure(games, ix.Design(ix.RandomPairs(8))))
    strength.plot(ax)
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), strength.J)
    other = Figure().subplots()
    curve = ix.OcclusionCurve(("a", "b"), np.array([0, 0.5]), np.array([[1.0, 0], [1, 1]]))
    curve.plot(other)
    np.testing.assert_allclose(other.get_lines()[0].get_ydata(), [1, 0.5])


def test_images_are_shown_as_they_are(ax):
    image = torch.tensor([0.0, 0.5, 2.0]).reshape(3, 1, 1).expand(3, 2, 2)
    plots.show_image(ax, image, "title")
    shown = ax.get_images()[0].get_array()
    np.testing.assert_allclose(shown[0, 0], [0, 0.5, 1])
    assert ax.get_title(loc="left") == "title"


def test_the_published_strength_is_drawn_with_its_bracket(ax):
    replicates_PRO = np.random.default_rng(0).normal(2, 1, size=(9, 5, 8, 3))
    replicates_PRO[:, :, :, [0, 2]] = replicates_PRO[:, :, :1, [0, 2]]  # one context at the ends
    pairs = np.zeros((5, 2), dtype=np.int64)
    records = [
        ix.Interactions(str(k), 9, pairs, np.array([0, 3, 7]), x, 1, 0)
        for k, x in enumerate(replicates_PRO)
    ]
    published = ix.strength(records, "plug_in")
    published.plot(ax)
    estimate, unresolved, low, high, _one = (line.get_ydata() for line in ax.get_lines())
    np.testing.assert_array_equal(estimate, published.J)
    np.testing.assert_array_equal(unresolved, published.J[published.unresolved_O])
    np.testing.assert_array_equal([low, high], published.bracket)
    assert (low <= estimate).all()
    assert (estimate <= high).all()


def test_bands_of_strengths_stop_at_0(ax):
    plots.strength_curve(ax, [0, 0.5, 1], [Interval(x, 1.0, x - 2, x + 2) for x in (1.0, 1.5, 3.0)])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (0, 5)
    assert ax.get_ylim()[0] == 0


def test_one_high_end_does_not_flatten_the_rest(ax):
    x_O = np.array([0, 0.25, 0.5, 0.75, 1])
    high = [Interval(y, 0.1, y - 0.1, y + 0.1) for y in (0.5, 0.6, 0.8, 0.7, 9.0)]
    plots.strength_curve(ax, x_O, high, scale="broken")
    place = [ax.transData.transform((0, y))[1] for y in (0, 0.8, 9.1)]
    assert (place[1] - place[0]) / (place[2] - place[0]) > 0.5  # not 0.09
    there_and_back = ax.transData.inverted().transform(ax.transData.transform((1, 9.0)))
    np.testing.assert_allclose(there_and_back, (1, 9.0))
    ticks = ax.get_yticks()
    assert (np.diff(ticks) > 0).all()
    assert min(ticks) < 0.8 < max(ticks)
    plots.strength_curve(ax, x_O, high, scale="broken")  # a second curve: one break
    assert sum(line.get_gid() == "break" for line in ax.lines) == 3

    even = Figure().subplots()
    plots.strength_curve(even, x_O, [Interval(1.0, 0.1, 0.9, 1.1)] * 5, scale="broken")
    assert even.get_yscale() == "linear"  # nothing to break
    plots.rescale(even, "log")
    assert even.get_yscale() == "log"
    with pytest.raises(ValueError, match="linear, log or broken, got 'cubic'"):
        plots.rescale(even, "cubic")


def test_numbers_at_a_break_do_not_run_into_each_other():
    for middle in np.linspace(0.5, 3, 11):
        for top in (5, 7, 9, 16):
            ax = Figure().subplots()
            ax.plot([0, 0.5, 1], [top, middle, middle], "o-")
            plots.rescale(ax, "broken")
            places = ax.transData.transform([(0, tick) for tick in ax.get_yticks()])[:, 1]
            low, high = ax.transAxes.transform([(0, 0), (0, 1)])[:, 1]
            assert np.diff(places).min() > 0.05 * (high - low), (middle, top)


def test_orders_stand_above_their_shares(ax):
    plots.orders_axis(ax, 16)
    plots.orders_axis(ax, 16)
    (above,) = ax.child_axes
    ax.set_xlim(0, 1)
    ax.figure.draw_without_rendering()
    assert above.get_xlim() == (0, 14)
    assert above.get_xlabel() == "order m, 16 patches"
    plots.orders_axis(ax, 64)  # one axis cannot serve both
    assert not above.get_visible()


def test_names_at_the_ends_of_curves_stand_apart(ax):
    for k, height in enumerate((0.5, 0.51, 0.99, 1.0)):
        ax.plot([0, 1], [0.2, height], label=f"net {k}")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    plots.label_curves(ax)
    at = {text.get_text(): text.xyann[1] for text in ax.texts}
    heights = [at[f"net {k}"] for k in range(4)]
    assert heights == sorted(heights)
    assert np.diff(heights).min() >= 0.074
    assert max(heights) <= 1
    for text in ax.texts:
        assert text.xy[1] == pytest.approx([0.5, 0.51, 0.99, 1.0][int(text.get_text()[-1])])
    assert plots.can_be_labelled(["net"] * 6)
    assert not plots.can_be_labelled(["net"] * 7)
    assert not plots.can_be_labelled(["a name that is too long to stand beside a curve"])


def test_a_caption_goes_below_a_title():
    figure = Figure()
    ax = figure.subplots()
    plots.caption(ax, "12 images")
    assert figure.get_suptitle() == "12 images"
    titled = Figure()
    titled.suptitle("Net")
    plots.caption(titled.subplots(), "12 images")
    assert titled.get_suptitle() == "Net\n12 images"
