import pandas as pd
from matplotlib.colors import to_hex

from experiments.cifar10 import figures
from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import TINY

PLAN = Plan(TINY, {}, "3", 180.0, "cpu", "images")


def means(low=0.9):
    return pd.DataFrame(
        [
            {
                **{"measure": "J", "setting": "fine-tuned", "arch": "vit", "arm": arm, "at": at},
                **{"estimate": 1.0 + at, "low": low, "high": 2.1},
            }
            for arm in ("scratch", "a2mim")
            for at in (0.0, 0.5, 1.0)
        ]
    )


def test_curves_are_named_where_they_end_in_their_colours():
    ax = figures.orders(means(), PLAN).axes[0]
    said = {text.get_text(): to_hex(text.get_color()) for text in ax.texts}
    assert said == {arm: figures.COLOURS[arm] for arm in ("scratch", "a2mim")}
    assert len(ax.collections) == 2  # bands


def test_one_seed_has_no_band():
    assert not figures.orders(means(float("nan")), PLAN).axes[0].collections


def test_the_caption_says_what_was_measured():
    figure = figures.orders(means(), PLAN)
    said = figure._supxlabel.get_text()
    for words in ("4 test images", "2 pairs x 2 contexts", "1 training seeds", "unbiased energies"):
        assert words in said


def test_what_was_not_measured_is_said():
    ax = figures.orders(means(), PLAN).axes[1]
    assert [text.get_text() for text in ax.texts] == ["not measured"]


def test_ablations_have_a_row_each_and_a_panel_for_each_measure():
    one = {"estimate": 0.1, "low": 0.05, "high": 0.15, "p": 0.01, "p_holm": 0.1, "images": 48}
    table = pd.DataFrame(
        [
            one | {"measure": measure, "arm": arm}
            for measure in ("accuracy", "J middle")
            for arm in ("fill-zero", "ratio-0.4")
        ]
    )
    left, right = figures.ablations(table, PLAN).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["ratio-0.4", "fill-zero"]
    for ax in (left, right):
        assert len(ax.get_lines()) == 5  # intervals, points and 0
