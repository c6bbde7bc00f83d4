"""The names of Slicer, CTK, Qt and VTK that the module's code uses, and whether Slicer has them.

Tests compare what the code uses (`uses`) with a table, ``Testing/Python/slicer_api.json``. A name that isn't in it is
misspelt, or new: then a real Slicer writes the table again, ::

    Slicer --no-splash --no-main-window --python-script Testing/slicer_api.py [folders of Slicer's and VTK's sources]

and names that it doesn't have, or whose sources don't mention them, are printed and left out. PythonQt says nothing
when a property is called or a method is set, before that line runs: so the table knows which is which.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import unittest
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "Testing" / "Python" / "slicer_api.json"
FOLDERS = ("SemiSupSeg", "SemiSupSegLib/slicer_bridge")
NAMESPACES = ("qt", "ctk", "vtk", "slicer", "slicer.util", "slicer.app")

_SPELLING = re.compile("[A-Z]|[a-z]+[A-Z]")
"""As Qt and VTK write methods, and Python doesn't."""

_CONSTRUCTOR = re.compile(r"(?:\w+PythonQt|qt|ctk|vtk|slicer)\.((?:q|Q|ctk|vtk)\w+)")


@dataclass
class Uses:
    """What code uses.

    Attributes
    ----------
    names : dict of str to set of str
        By namespace (``qt``, ``slicer.util``, …), the names that are taken from it.
    members : dict of str to dict of str to set of str
        By class and attribute how it is used where the class is known: "call", "set" or "get".
    methods : set of str
        Methods in the spelling of Qt and VTK that are called on objects of whatever class.
    signals : set of str
        What is connected, with the types of its arguments.
    """

    names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    members: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    methods: set[str] = field(default_factory=set)
    signals: set[str] = field(default_factory=set)


def uses() -> Uses:
    """What the module, its panels, its effect and the bridge use."""
    found = Uses()
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _files()}
    own = {
        each.name
        for tree in trees.values()
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.ClassDef)
    }
    own |= {
        each.attr
        for tree in trees.values()
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
    }
    for path, tree in trees.items():
        _collect(tree, _widgets_of(path), own, found)
    return found


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _widgets_of(path: Path) -> dict[str, str]:
    """Classes of the widgets of a file's ``.ui`` file, by the expressions that stand for them."""
    ui = ROOT / "SemiSupSeg" / "Resources" / "UI" / f"{path.stem}.ui"
    widgets = ElementTree.parse(ui).getroot().iter("widget") if ui.is_file() else ()
    return {f"{before}.{each.get('name')}": each.get("class") for each in widgets for before in ("ui", "self.ui")}


def _constructed(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Classes of what is assigned from constructors; not of names that other things are assigned to as well."""
    classes: dict[str, set[str]] = defaultdict(set)
    for each in nodes:
        if isinstance(each, ast.Name | ast.Attribute) and isinstance(each.ctx, ast.Store):
            classes[ast.unparse(each)] |= set()
        if isinstance(each, ast.Assign):
            constructor = _CONSTRUCTOR.fullmatch(ast.unparse(getattr(each.value, "func", each.value)))
            is_call = constructor and isinstance(each.value, ast.Call)
            for target in each.targets:
                classes[ast.unparse(target)].add(constructor[1] if is_call else "")
    return {expression: min(found) for expression, found in classes.items() if len(found) == 1 and "" not in found}


def _collect(tree: ast.Module, widgets: dict[str, str], own: set[str], found: Uses) -> None:
    everything = list(ast.walk(tree))
    called = {id(each.func) for each in everything if isinstance(each, ast.Call)}
    modules = {name.asname or name.name for each in everything if isinstance(each, ast.Import | ast.ImportFrom)
               for name in each.names}  # fmt: skip
    attributes = {name: kind for name, kind in _constructed(everything).items() if "." in name}
    for scope in [each for each in everything if isinstance(each, ast.Module | ast.FunctionDef)]:
        nodes = list(ast.walk(scope))
        classes = {**widgets, **attributes, **(_constructed(nodes) if scope is not tree else {})}
        for each in nodes:
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and each.args:
                signal = each.args[0]
                is_connection = each.func.attr in ("connect", "disconnect") and isinstance(signal, ast.Constant)
                if is_connection and "(" in str(signal.value):
                    found.signals.add(signal.value)
            if isinstance(each, ast.Attribute):
                how = "set" if isinstance(each.ctx, ast.Store) else "call" if id(each) in called else "get"
                _note(ast.unparse(each.value), each.attr, how, classes, own | modules, found)


def _note(owner: str, name: str, how: str, classes: dict[str, str], others: set[str], found: Uses) -> None:
    if owner in NAMESPACES:
        found.names[owner].add(name)
    elif owner in classes:
        found.members[classes[owner]][name].add(how)
    elif how == "call" and name not in others and owner not in others and _SPELLING.match(name):
        found.methods.add(name)


# -- inside Slicer ----------------------------------------------------------------------------------------------------


def look(found: Uses, sources: list[Path]) -> dict:
    """The table: of what is used what there is."""
    import ctk
    import qt
    import slicer
    import vtk

    spaces = {"qt": qt, "ctk": ctk, "vtk": vtk, "slicer": slicer, "slicer.util": slicer.util, "slicer.app": slicer.app}
    text = _words(sources)

    def is_known(name: str) -> bool:
        """Whether the sources mention a method of VTK's, perhaps within a macro; Qt's own sources aren't looked at."""
        return name[0].islower() or not text or name in text or re.sub("^(Set|Get)|(On|Off)$", "", name) in text

    names = {space: sorted(each for each in found.names[space] if hasattr(spaces[space], each)) for space in NAMESPACES}
    members = {}
    for name, attributes in sorted(found.members.items()):
        kinds = {each: _kind(_example(name, spaces), each) for each in sorted(attributes)}
        members[name] = {each: kind for each, kind in kinds.items() if kind}
    everything = {name for space in (qt, ctk, vtk, slicer) for each in vars(space).values() for name in _dir(each)}
    everything |= {name for example in _examples(slicer) for name in dir(example)}
    everything |= {*dir(slicer.util.VTKObservationMixin), *dir(unittest.TestCase)}
    signals = _signals(spaces, found, slicer)
    table = {
        "slicer": f"{slicer.app.majorVersion}.{slicer.app.minorVersion}",
        "names": names,
        "members": members,
        "methods": sorted(each for each in found.methods if each in everything and is_known(each)),
        "signals": sorted(found.signals & signals),
    }
    return table


def _dir(each: object) -> list[str]:
    return dir(each) if isinstance(each, type) or "PythonQt" in type(each).__name__ else []


def _example(name: str, spaces: dict) -> object:
    import qSlicerSegmentationsModuleWidgetsPythonQt as segmentations

    for space in (*spaces.values(), segmentations):
        if hasattr(space, name):
            kind = getattr(space, name)
            try:
                return kind()
            except Exception:
                return kind
    raise LookupError(name)


def _examples(slicer) -> list[object]:
    """Objects whose classes Python can't name."""
    import qSlicerSegmentationsEditorEffectsPythonQt as effects
    import qSlicerSegmentationsModuleWidgetsPythonQt as segmentations

    manager = slicer.app.layoutManager()
    found = [segmentations.qMRMLSegmentEditorWidget(), effects.qSlicerSegmentEditorScriptedEffect(None)]
    found += [slicer.app, slicer.app.settings(), slicer.app.style(), slicer.app.moduleManager(), slicer.mrmlScene]
    return found + [each for each in (manager, slicer.util.mainWindow()) if each is not None]


def _kind(example: object, name: str) -> str:
    if not hasattr(example, name):
        return ""
    if isinstance(example, type):
        return "method"
    return "method" if callable(getattr(example, name)) else "property"


def _signals(spaces: dict, found: Uses, slicer) -> set[str]:
    """Signals of all objects at hand."""
    examples = [_example(name, spaces) for name in found.members] + _examples(slicer)
    examples += [slicer.qSlicerSegmentEditorEffectFactory.instance(), spaces["qt"].QAction(None)]
    signals = set()
    for example in examples:
        meta = getattr(example, "metaObject", None)
        if meta is not None and not isinstance(example, type):
            meta = meta()
            for index in range(meta.methodCount()):
                signals.add(_text(meta.method(index).methodSignature()))
    return signals


def _text(signature: object) -> str:
    return bytes(signature.data()).decode() if hasattr(signature, "data") else str(signature)


def _words(sources: list[Path]) -> set[str]:
    words: set[str] = set()
    for folder in sources:
        for path in folder.rglob("*"):
            if path.suffix in (".h", ".cxx", ".py", ".txx", ".hxx") and path.is_file():
                words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="replace")))
    return words


def missing(found: Uses, table: dict) -> list[str]:
    """What is used and not in the table, or used as what it isn't."""
    problems = []
    for space, names in found.names.items():
        problems += [f"{space}.{each}" for each in sorted(names - set(table["names"].get(space, ())))]
    for name, attributes in found.members.items():
        for attribute, ways in attributes.items():
            kind = table["members"].get(name, {}).get(attribute)
            if kind is None:
                problems.append(f"{name}.{attribute}")
            elif kind == "property" and "call" in ways:
                problems.append(f"{name}.{attribute} is a property, and called")
            elif kind == "method" and "set" in ways:
                problems.append(f"{name}.{attribute} is a method, and set")
    problems += [f"….{each}()" for each in sorted(found.methods - set(table["methods"]))]
    return problems + [f'"{each}"' for each in sorted(found.signals - set(table["signals"]))]


def main() -> None:
    """Write the table; to be run by Slicer."""
    import slicer

    found = uses()
    table = look(found, [Path(each) for each in sys.argv[1:] if Path(each).is_dir()])
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print("\n".join(["Not found:", *missing(found, table)]), flush=True)
    slicer.util.exit(0)


if __name__ == "__main__" and "slicer" in sys.modules:
    main()
