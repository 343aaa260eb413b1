"""A declared range is a promise, and its lower end is tested: make test-lowest."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = SETTINGS["project"], SETTINGS["tool"]["hatch"]["build"]
EXTRAS = {
    name: [Requirement(text) for text in group]
    for name, group in PROJECT["optional-dependencies"].items()
}
DECLARED = [
    requirement
    for group in ([Requirement(text) for text in PROJECT["dependencies"]], *EXTRAS.values())
    for requirement in group
    if requirement.name != PROJECT["name"]  # an extra that another one includes
]
PAGES = ("furo", "myst-nb", "sphinx", "sphinx-copybutton")
TOOLS = ("build", "mypy", "pandas-stubs", "playwright", "ruff", "twine", *PAGES)
"""Of which the lowest versions are not tested."""


def pins(name):
    """Name -> the versions that a file of constraints pins, one for each marker."""
    lines = (ROOT / name).read_text().splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert exact.operator == "=="
            found.setdefault(canonicalize_name(pin.name), []).append(Version(exact.version))
    return found


LOWEST, TESTED = pins("constraints-lowest.txt"), pins("constraints.txt")


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda r: r.name)
def test_a_lower_bound_is_the_version_that_is_tested(requirement):
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    name = canonicalize_name(requirement.name)
    if name in TOOLS:
        assert LOWEST[name] == TESTED[name]
    else:
        assert LOWEST[name] == [Version(bound.version)]
    for version in TESTED.get(name, []):
        assert version in requirement.specifier


def test_every_direct_dependency_of_the_tests_is_pinned():
    for requirement in DECLARED:
        if requirement not in EXTRAS["s3"]:
            assert canonicalize_name(requirement.name) in TESTED


def test_tests_have_every_extra_but_those_of_a_store_and_of_pages():
    (own,) = [requirement for requirement in EXTRAS["dev"] if requirement.name == PROJECT["name"]]
    assert own.extras == EXTRAS.keys() - {"dev", "docs", "s3"}


def test_the_wheel_holds_two_packages():
    """A test folder, experiments or notebooks of one's own are never hidden by an installed one."""
    assert BUILD["targets"]["wheel"] == {"packages": ["interactions", "a2mim"]}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_constraints_are_names_and_versions(name):
    """No addresses, no hashes, and no name twice but by Python version."""
    lines = [x for x in (ROOT / name).read_text().splitlines() if not x.startswith("#")]
    pin = r'[A-Za-z0-9_.-]+==[A-Za-z0-9.]+(; python_version (<|>=) "3\.\d+")?'
    assert all(re.fullmatch(pin, line) for line in lines)
    assert len({line.split("==")[0] + line.partition(";")[2] for line in lines}) == len(lines)
