"""Who may import whom, and that tests mirror modules."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("interactions", "a2mim", "experiments")

# The ground floor of interactions, which training stands on as well.
GROUND = tuple(f"interactions.{name}" for name in ("patches", "fills", "keys", "stats"))
TRAINING = tuple(
    f"a2mim.{name}"
    for name in (
        *("messages", "files", "processes"),
        *("methods", "backbones", "data", "training", "checkpoints", "probes"),
    )
)
ALLOWED = {
    "interactions": ("interactions",),
    **{name: (*TRAINING, *GROUND) for name in TRAINING},
    "a2mim": ("a2mim", "interactions"),
    "experiments": PACKAGES,
    "notebooks": PACKAGES,
}
MODULES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)


def name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported(path: Path) -> list[str]:
    """Modules of ours that a file imports, those for types and within functions included."""
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # "from interactions import fills" imports the module interactions.fills
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in NAMES else str(node.module) for name in whole]
    return [name for name in names if name.split(".")[0] in PACKAGES]


def arrows_of(path: Path) -> tuple[str, ...]:
    """What a file may import: the rule of its longest beginning."""
    name = name_of(path)
    rules = [rule for rule in ALLOWED if name == rule or name.startswith(rule + ".")]
    return ALLOWED[max(rules, key=len)]


@pytest.mark.parametrize(
    "path", [*MODULES, *(p.relative_to(ROOT) for p in (ROOT / "notebooks").glob("*.py"))], ids=str
)
def test_imports_follow_the_arrows(path):
    if path == Path("a2mim/__init__.py"):  # it says where names are, and imports none of them
        return
    for name in imported(path):
        assert any(name == a or name.startswith(a + ".") for a in arrows_of(path)), (
            f"{path} may not import {name}"
        )


def test_no_two_files_import_each_other_in_a_circle():
    """A file may import its package's ``__init__`` for the names that it brings together."""
    arrows = {
        name: {to for to in imported(path) if NAMES[to].name != "__init__.py"}
        for name, path in NAMES.items()
        if path.name != "__init__.py"
    }
    while True:  # leave out what imports nothing that is left, and what nothing left imports
        used = set().union(*arrows.values())
        free = [name for name, to in arrows.items() if not to & arrows.keys() or name not in used]
        if not free:
            break
        for name in free:
            del arrows[name]
    assert not arrows, sorted(arrows)


@pytest.mark.parametrize("path", [p for p in MODULES if not p.name.startswith("__")], ids=str)
def test_every_module_has_its_test_file(path):
    assert (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()


@pytest.mark.parametrize("path", [p for p in MODULES if not p.name.startswith("__")], ids=str)
def test_every_module_has_a_quick_test(path):
    tree = ast.parse((ROOT / "tests" / path.parent / f"test_{path.name}").read_text())
    tests = [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)]
    marks = [
        [ast.unparse(decorator) for decorator in test.decorator_list]
        for test in tests
        if test.name.startswith("test_")
    ]
    long = {f"pytest.mark.{name}" for name in ("integration", "slow", "gpu")}
    assert any(not long.intersection(of_test) for of_test in marks)


def test_libraries_do_not_touch_the_outside():
    """Options, printing and global seeds belong to commands."""
    for path in MODULES:
        name = name_of(path)
        if not name.startswith(("interactions", *TRAINING)):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "torch.manual_seed", "np.random.seed"), path


def test_tests_have_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))
