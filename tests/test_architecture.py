"""The layers of the package: imports point downward, and heavy ones are late."""

import ast
import pathlib
import subprocess
import sys

import pytest

import calojax

ROOT = pathlib.Path(calojax.__file__).parent
# From the bottom up; a module imports only from the levels below its own, and from its own package.
LEVELS = (
    ("errors",),
    ("rng", "progress"),
    ("files", "geometry", "mesh", "processes"),
    ("data", "nn"),
    ("models", "evaluate"),
    ("checkpoint", "plot"),
    ("training", "generation", "incident", "report"),
    ("presets",),
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
        if isinstance(node, ast.ImportFrom) and node.module == "calojax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("calojax."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("calojax.")]
            found |= {name.split(".")[1] for name in names}
    return found - {part(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    for name in imported(path):
        assert LEVEL[name] < LEVEL[part(path)], f"{path.name} imports {name}"


def test_training_checkpoint_and_generation_know_no_concrete_model():
    for path in MODULES:
        if part(path) in ("training", "generation", "checkpoint"):
            text = path.read_text()
            assert "models.calovq" not in text
            assert "CaloVQ" not in text


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
