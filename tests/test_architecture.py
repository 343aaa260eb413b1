"""Who may import whom, and that every module has its test file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("interactions", "a2mim", "experiments")
ALLOWED = {
    "interactions": ("interactions",),
    "a2mim": ("a2mim", *(f"interactions.{name}" for name in ("patches", "fills", "keys", "stats"))),
    "experiments": ("experiments", "a2mim", "interactions"),
    "notebooks": PACKAGES,
}
MODULES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            # "from interactions import fills" imports the module interactions.fills
            is_package = (ROOT / str(node.module).replace(".", "/")).is_dir()
            names += submodules if is_package else [str(node.module)]
    return [name for name in names if name.split(".")[0] in PACKAGES]


@pytest.mark.parametrize(
    "path", [*MODULES, *(p.relative_to(ROOT) for p in (ROOT / "notebooks").glob("*.py"))], ids=str
)
def test_imports_follow_the_arrows(path):
    for name in imported(ROOT / path):
        assert any(name == a or name.startswith(a + ".") for a in ALLOWED[path.parts[0]]), (
            f"{path} may not import {name}"
        )


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=str)
def test_every_module_has_its_test_file(path):
    assert (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()


def test_libraries_do_not_touch_the_outside():
    """Options, printing and global seeds belong to experiments."""
    for path in MODULES:
        if path.parts[0] == "experiments":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "torch.manual_seed", "np.random.seed"), path


def test_tests_have_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))
