import pytest

from a2mim.data.limits import TOLERANCE, Tolerance


def test_a_share_is_a_share():
    assert Tolerance(10, 0.01) == TOLERANCE
    for wrong in ({"share": 1.5}, {"share": -0.1}, {"least": -1}):
        with pytest.raises(ValueError, match="a share in"):
            Tolerance(**wrong)


def test_the_advice_names_the_option():
    assert "--unreadable 0.05" in Tolerance(share=0.05).advice()
