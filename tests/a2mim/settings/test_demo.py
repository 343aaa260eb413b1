from dataclasses import replace

import pytest

from a2mim.messages import UsageError
from a2mim.settings.demo import DemoConfig
from a2mim.settings.numbers import check_numbers


def test_defaults_can_be_run():
    check_numbers(DemoConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "--seeds of at least 2, got 1"),
        ({"count": 1}, "--count of at least 2, got 1"),
        ({"effort": 1.5}, "--effort above 0 and at most 1, got 1.5"),
    ],
)
def test_what_gives_no_interval_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        check_numbers(replace(DemoConfig(), **change))
