from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro

from a2mim.messages import UsageError
from a2mim.settings.numbers import Within, check_numbers


@dataclass(frozen=True)
class Inner:
    std: Annotated[tuple[float, ...], Within(0, above=True)] = ()


@dataclass(frozen=True)
class Outer:
    seed: int = 0
    crop_pct: Annotated[float | None, Within(0, 2, above=True)] = None
    name: str = "a"
    tuned: Inner = field(default_factory=Inner)
    kind: Literal["", "one", "two"] = ""
    kinds: tuple[Literal["one", "two"], ...] | None = None
    count: Annotated[Annotated[int, Within(0)], Within(2)] = 2
    inner: tyro.conf.OmitArgPrefixes[Inner] = field(default_factory=Inner)


@pytest.mark.parametrize(
    "config",
    [
        Outer(),
        Outer(seed=2**63 - 1, crop_pct=2.0, inner=Inner((0.1, 3.0))),
        Outer(seed=-3, crop_pct=1e-9, kind="one", kinds=("two", "one")),
    ],
)
def test_numbers_within_their_limits(config):
    check_numbers(config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Outer(seed=2**63), f"--seed finite, in 64 bits, got {2**63}"),
        (Outer(crop_pct=0.0), "--crop-pct above 0 and at most 2, got 0"),
        (Outer(crop_pct=float("nan")), "--crop-pct above .* got nan"),
        (Outer(crop_pct=-1.0), "--crop-pct above .* got -1"),
        (Outer(inner=Inner((0.5, float("inf")))), "--std above 0, got inf"),
        (Outer(inner=Inner((0.0,))), "--std above 0, got 0"),
        (Outer(tuned=Inner((0.0,))), "--tuned.std above 0, got 0"),
        (Outer(count=1), "--count of at least 2, got 1"),
        (Outer(kind="three"), "--kind one, two, got 'three'"),
        (Outer(kinds=("one", "")), "--kinds one, two, got ''"),
    ],
)
def test_what_cannot_be_is_named(config, said):
    with pytest.raises(UsageError, match=said):
        check_numbers(config)
