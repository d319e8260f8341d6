"""The layers of the package: imports point downward, and heavy ones are late."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import calojax

ROOT = pathlib.Path(calojax.__file__).parent
# From the bottom up; a module imports only from the levels below its own, and from its own package.
LEVELS = (
    ("errors",),
    ("rng", "progress"),
    ("files", "geometry", "distributed"),
    ("io", "nn"),
    ("models", "evaluation"),
    ("checkpoint", "plot"),
    ("training", "sampling", "report"),
    ("presets",),
    ("api",),
    ("export", "generator"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: pathlib.Path) -> set[str]:
    """Parts of calojax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"calojax(\.\w+)+", str(node.value)):
            # For `importlib.import_module`.
            found.add(node.value)
    names = {name.split(".")[1] for name in found if name.startswith("calojax.")}
    return names & LEVEL.keys() - {part(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    for name in imported(path):
        assert LEVEL[name] < LEVEL[part(path)], f"{path.name} imports {name}"


FAMILIES = {path.parent.name for path in ROOT.glob("models/*/__init__.py")}


def test_training_checkpoint_and_generation_know_no_family_of_models():
    general = [path for path in MODULES if part(path) in ("training", "sampling", "checkpoint")]
    assert len(general) > 10
    for path in general:
        assert not FAMILIES & set(re.findall(r"\w+", path.read_text())), path


def test_layers_see_shapes_only():
    for path in (ROOT / "nn").rglob("*.py"):
        assert imported(path) <= {"errors", "rng"}, path


def test_no_drawers_for_odds_and_ends():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_only_one_module_writes_checkpoints_and_one_package_draws():
    for path in MODULES:
        text = path.read_text()
        assert ("orbax" in text) <= (part(path) == "checkpoint"), path
        assert ("import matplotlib" in text) <= (part(path) == "plot"), path


def test_files_are_checked_without_waiting_for_jax():
    code = "import sys, calojax.cli.check; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
