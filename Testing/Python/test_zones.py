"""The wall between Slicer's process and the worker's, proven in fresh interpreters. See ARCHITECTURE.md."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "SemiSupSegLib"
ENGINE = {"torch", "monai", "skimage", "safetensors"}
DESK = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PythonQt"}
STOCK = {"numpy", "scipy", "SimpleITK"}
"""Packages that every Slicer ships; others may ride along with them (numpy, say, looks for charset_normalizer)."""

# Refuses the blocked packages, imports the modules, and says which top-level packages came in.
_IMPORT = """
import importlib, json, sys
blocked, modules = map(json.loads, sys.argv[1:])

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Wall())
for module in modules:
    importlib.import_module(module)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_of(folder: Path) -> list[str]:
    """Every module on disk under a folder of the library, by its dotted name."""
    names = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


ENGINE_MODULES = modules_of(LIBRARY / "learning")
BRIDGE_MODULES = modules_of(LIBRARY / "slicer_bridge")
HALL_MODULES = [name for name in modules_of(LIBRARY) if name not in {*ENGINE_MODULES, *BRIDGE_MODULES}]


@pytest.fixture(scope="module")
def packages_after(run_python):
    """Imports modules in a fresh interpreter with some packages blocked; the packages that came in."""

    def packages_after(modules: list[str], blocked: set[str]) -> set[str]:
        result = run_python("-c", _IMPORT, json.dumps(sorted(blocked)), json.dumps(modules), path=ROOT)
        assert result.returncode == 0, result.stderr
        return set(json.loads(result.stdout.splitlines()[-1]))

    return packages_after


def test_discovery_sees_all_three_zones():
    assert {"SemiSupSegLib", "SemiSupSegLib.labels", "SemiSupSegLib.command_line"} <= set(HALL_MODULES)
    assert "SemiSupSegLib.learning.networks" in ENGINE_MODULES
    assert "SemiSupSegLib.slicer_bridge" in BRIDGE_MODULES


def test_the_package_alone_brings_in_the_standard_library_only(packages_after):
    came_in = packages_after(["SemiSupSegLib"], blocked=set())
    assert came_in <= {*sys.stdlib_module_names, "SemiSupSegLib", "__main__", "_virtualenv", "_distutils_hack"}


def test_the_hall_needs_what_a_stock_slicer_ships(packages_after):
    came_in = packages_after(HALL_MODULES, blocked=ENGINE | DESK)
    assert not came_in & (ENGINE | DESK)
    assert STOCK & came_in  # the modules were really imported


def test_the_hall_leaves_the_engine_out_where_it_is_installed(packages_after):
    assert not packages_after(HALL_MODULES, blocked=set()) & (ENGINE | DESK)


def test_the_bridge_needs_no_qt_and_no_engine(packages_after):
    assert not packages_after(BRIDGE_MODULES, blocked=ENGINE | {"qt", "ctk", "PythonQt"}) & ENGINE


def test_the_engine_leaves_slicer_and_qt_out(packages_after):
    assert not packages_after(["SemiSupSegLib.learning"], blocked=set()) & DESK
    assert not packages_after(ENGINE_MODULES, blocked={"slicer", "qt", "ctk", "PythonQt"}) & {"slicer", "qt", "ctk"}


def test_a_wall_with_a_hole_is_noticed(packages_after):
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        packages_after(["SemiSupSegLib.learning.networks"], blocked={"torch"})


@pytest.mark.parametrize("file", sorted((ROOT / "SemiSupSeg").rglob("*.py")), ids=lambda file: file.stem)
def test_the_module_never_imports_the_engine_not_even_late(file):
    for name in imported_anywhere(file):
        assert name.partition(".")[0] not in ENGINE, name
        assert not name.startswith("SemiSupSegLib.learning"), name


@pytest.mark.parametrize("module", HALL_MODULES + BRIDGE_MODULES)
def test_the_library_imports_engine_packages_in_the_engine_only(module):
    for name in imported_anywhere(source_of(module)):
        assert name.partition(".")[0] not in {*ENGINE, "qt", "ctk"}, name


def source_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported_anywhere(file: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
