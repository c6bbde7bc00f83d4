"""What slicer-core lacks of the application: a scene, modules with logics, an application, and the module's base class.

slicer-core is Slicer's own MRML, segmentations and file formats without Qt. Real objects stand wherever there are some;
only Qt's part is played, and no more of it than the bridge and the module's logic ask for. A test module gets the
fixtures by ``pytest_plugins = ["slicer_fixture"]``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import slicer

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "SemiSupSeg"


@contextlib.contextmanager
def application() -> Iterator[slicer.vtkMRMLScene]:
    """Inside, there is a fresh ``slicer.mrmlScene`` with colors, module logics and an application."""
    scene = slicer.vtkMRMLScene()
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    application_logic.SetColorLogic(colors)
    application_logic.SetModuleLogic("Colors", colors)
    logics = {
        "volumes": slicer.vtkSlicerVolumesLogic(),
        "segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
        "sequences": slicer.vtkSlicerSequencesLogic(),
    }
    for logic in logics.values():
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
    modules = {name: types.SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in logics.items()}
    app = types.SimpleNamespace(startupEnvironment=_StartupEnvironment, applicationLogic=lambda: application_logic)
    slicer.mrmlScene, slicer.modules, slicer.app = scene, types.SimpleNamespace(**modules), app
    try:
        yield scene
    finally:
        scene.Clear(1)
        del slicer.mrmlScene, slicer.modules, slicer.app


@pytest.fixture
def scene() -> Iterator[slicer.vtkMRMLScene]:
    """A fresh ``slicer.mrmlScene``; see `application`."""
    with application() as scene:
        yield scene


@pytest.fixture
def logic(scene, monkeypatch):
    """The module's logic, on the base class and the parameter node of a stand-in for Qt's part of Slicer."""
    loadable = types.ModuleType("slicer.ScriptedLoadableModule")
    loadable.ScriptedLoadableModuleLogic = _ScriptedLoadableModuleLogic
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = _parameter_node_wrapper
    for module in (loadable, wrapper):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [name for name in sys.modules if name.startswith("SemiSupSegModuleLib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(MODULE_FOLDER)
    from SemiSupSegModuleLib.logic import SemiSupSegLogic

    logic = SemiSupSegLogic()
    yield logic
    logic.closeCohort()


@pytest.fixture
def desk(logic, monkeypatch):
    """What the panels share, where nobody is there to answer questions; Qt's widgets and timers do nothing."""
    qt, i18n = MagicMock(), types.ModuleType("slicer.i18n")
    qt.QObject = object
    i18n.tr = lambda text: text
    monkeypatch.setitem(sys.modules, "qt", qt)
    monkeypatch.setitem(sys.modules, "qSlicerSegmentationsModuleWidgetsPythonQt", MagicMock())
    monkeypatch.setitem(sys.modules, "slicer.i18n", i18n)
    for name in [name for name in sys.modules if name.startswith("SemiSupSegWidgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("SEMISUPSEG_PYTHON", sys.executable)
    for name in ("loadUI", "childWidgetVariables", "setSliceViewerLayers", "resetSliceViews"):
        monkeypatch.setattr(slicer.util, name, MagicMock())
    monkeypatch.setattr(slicer, "qSlicerSegmentEditorEffectFactory", MagicMock(), raising=False)
    slicer.app.testingEnabled = lambda: True
    slicer.app.setOverrideCursor = slicer.app.restoreOverrideCursor = lambda *arguments: None
    from SemiSupSegWidgets.Desk import Desk

    return Desk(logic)


class _StartupEnvironment:
    """As much of QProcessEnvironment as `slicer.util.startupEnvironment` uses."""

    def keys(self) -> list[str]:
        return list(os.environ)

    def value(self, name: str) -> str:
        return os.environ[name]


class _ScriptedLoadableModuleLogic:
    """Slicer's class, as far as parameter nodes go (Base/Python/slicer/ScriptedLoadableModule.py)."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


def _parameter_node_wrapper(wrapped: type) -> type:
    """The decorator of Slicer for simple types: values live in the node's parameters, as text."""

    class Wrapper(wrapped):
        def __init__(self, node):
            self.parameterNode = node

    for name, kind in typing.get_type_hints(wrapped).items():
        default = getattr(wrapped, name, (typing.get_origin(kind) or kind)())

        def read(self, name=name, default=default):
            text = self.parameterNode.GetParameter(name)
            return json.loads(text) if text else default

        def write(self, value, name=name):
            self.parameterNode.SetParameter(name, json.dumps(value))

        setattr(Wrapper, name, property(read, write))
    return Wrapper
