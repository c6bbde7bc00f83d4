"""An open project, a scan and strokes on it; a test module gets them by ``pytest_plugins``, after `slicer_fixture`."""

from __future__ import annotations

import numpy as np
import pytest
from scene_building import SHAPE, SHEARED, TERMINOLOGY, add_segmentation, add_volume, boxes

from SemiSupSegLib.slicer_bridge.project import Project


@pytest.fixture
def project(scene, tmp_path) -> Project:
    project = Project(tmp_path / "Kohorte für Ute", scene)
    yield project
    project.close()


@pytest.fixture
def volume_node(scene):
    return add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), SHEARED)


@pytest.fixture
def strokes(volume_node):
    liver, background = boxes(SHAPE, (2, 3, 4), (8, 9, 10))
    return add_segmentation(
        {"liver": liver, "background": background},
        volume_node,
        ids={"liver": "L"},
        colors={"liver": (0.25, 0.5, 0.75)},
        terminology={"liver": TERMINOLOGY},
    )
