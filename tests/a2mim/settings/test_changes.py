from dataclasses import dataclass, field
from typing import Literal

import pytest

from a2mim.messages import UsageError
from a2mim.settings.changes import changed, chosen, list_recipes


@dataclass(frozen=True)
class Settings:
    count: int = 3
    rate: float = 0.1
    limit: float | None = None
    name: str = "a"
    on: bool = False
    kind: Literal["soft", "hard"] = "soft"
    range: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ("a",)
    options: dict[str, object] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("count=5", 5),
        ("rate=1", 1),
        ("limit=2.5", 2.5),
        ("limit=None", None),
        ("name=b=c", "b=c"),
        ("on=True", True),
        ("kind=hard", "hard"),
        ("range=0.5,1", (0.5, 1)),
        ("names=b", ("b",)),
        ("names=b,c", ("b", "c")),
        ("names=('b', 'c')", ("b", "c")),
        ("names=b, c,", ("b", "c")),
        ("names=", ()),
        ("options={'depth': 2}", {"depth": 2}),
    ],
)
def test_values_of_every_type(change, value):
    assert getattr(changed(Settings(), [change]), change.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cuont=1", "did you mean count?"),
        ("xyz=1", "settings: count, rate"),
        ("count", "expected --set KEY=VALUE"),
        ("count=True", "expected count as a whole number, got True"),
        ("rate=fast", "expected rate as a number, got 'fast'"),
        ("limit=soft", "expected limit as float or NoneType, got 'soft'"),
        ("name=1", "expected name as text, got 1"),
        ("on=1", "expected on as bool, got 1"),
        ("kind=mild", "expected kind as soft or hard, got 'mild'"),
        ("range=1", "expected range as several values"),
        ("options=1", "expected options as options"),
    ],
)
def test_values_that_do_not_fit(change, message):
    with pytest.raises(UsageError) as caught:
        changed(Settings(), [change])
    assert message in str(caught.value)


def test_recipes_by_name():
    assert chosen("b", {"a": 1, "b": 2}) == 2
    with pytest.raises(UsageError, match=r"got 'alphaa'; did you mean alpha\?"):
        chosen("alphaa", {"alpha": 1})


def test_every_recipe_is_listed_with_its_first_line():
    def quick():
        """In minutes.

        And more.
        """

    text = list_recipes({"a": {"quick": quick, "long-name": 3}, "b": {"x": quick}})
    assert text.splitlines() == [
        "a:",
        "  quick      In minutes.",
        "  long-name  3",
        "b:",
        "  x          In minutes.",
    ]
