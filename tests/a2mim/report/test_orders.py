import pytest

from a2mim.report.figures import of
from a2mim.report.orders import order_lines, plain
from a2mim.runs.table import RHO, RHO_BOUND, strength_from
from interactions.stats import Interval


def test_orders_show_what_the_library_measures(one_seed):
    mine = of(one_seed, "vit", "scratch")
    strength, published = strength_from(mine), strength_from(mine, "plug_in")
    lines = order_lines(mine)
    assert [line[0].text for line in lines] == [str(order) for order in strength.orders_O]
    for o, (line, interval) in enumerate(zip(lines, strength.intervals(), strict=True)):
        assert line[1].text == plain(interval)
        assert line[2].text == f"{published.J[o]:.3f}"
        low, high = (end_O[o] for end_O in published.bracket)
        assert line[3].text.startswith(f"{low:.3f} to {high:.3f}")
        assert line[3].text.endswith(" unresolved") == (high - low > 0.1 * published.J[o])
        assert line[4].text == strength.rho_said()[o]


@pytest.mark.parametrize(("measure", "said"), [(RHO, "7.12"), (RHO_BOUND, "> 7.1")])
def test_noise_that_hides_interactions_is_a_lower_bound(one_seed, measure, said):
    mine = of(one_seed, "vit", "scratch")
    rho = mine["measure"] == RHO
    loud = mine.assign(
        measure=mine["measure"].mask(rho, measure), value=mine["value"].mask(rho, 7.12)
    )
    assert [line[4].text for line in order_lines(loud)] == [said] * 13


def test_what_has_no_interval_has_a_dash():
    assert plain(Interval(1.0, float("nan"), float("nan"), float("nan"))) == "1.000 [–]"
