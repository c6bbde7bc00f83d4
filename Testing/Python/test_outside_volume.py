"""A volume that is no case of the cohort is segmented, and what the panels do then."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import slicer
from scene_building import SHAPE, add_volume

from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.slicer_bridge.nodes import geometry_of
from SemiSupSegLib.slicer_bridge.predictions import Prediction, PredictionNodes

pytest_plugins = ["slicer_fixture"]


@pytest.fixture
def panels(desk, tmp_path):
    """The panels of a cohort of one case, which is shown, and of a volume outside that is segmented."""
    from SemiSupSegWidgets.AnnotatePanel import AnnotatePanel
    from SemiSupSegWidgets.CohortPanel import CohortPanel
    from SemiSupSegWidgets.ResultsPanel import ResultsPanel

    logic = desk.logic
    logic.openCohort(tmp_path / "cohort", LabelSchema.from_names(["liver"]))
    for name in ("inside", "outside"):
        volume_node = add_volume(np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16), name=name)
        if name == "inside":
            logic.addCase(volume_node)
    desk.panels = [CohortPanel(desk), AnnotatePanel(desk), ResultsPanel(desk)]
    desk.panel("AnnotatePanel").showCase("inside")
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 3:6, 3:6] = 1
    file = tmp_path / "outside.seg.nrrd"
    write_segmentation(file, labels, geometry_of(volume_node), logic.classes, kind="label")
    logic.project._outside[volume_node.GetID()] = Prediction("outside", {"segmentation": file})
    results = desk.panel("ResultsPanel")
    results.ui.overlayComboBox = MagicMock(currentText="", findText=lambda text: 0)
    results._volumeToShow = volume_node
    over = MagicMock(task="predict", state="finished")
    return SimpleNamespace(
        desk=desk, cohort=desk.panels[0], results=results, volume=volume_node, end=lambda: results.onJobOver(over)
    )


def visible(name: str) -> bool:
    return bool(slicer.util.getNode(name).GetDisplayNode().GetVisibility())


def test_volume_whose_result_is_seen_is_the_shown_case_once_it_is_added(panels, caplog):
    panels.end()
    assert panels.desk.situation().outside == "outside"
    assert not visible("inside scribble")
    panels.cohort.addNodes([panels.volume])
    assert panels.desk.situation().outside == ""
    assert panels.desk.shown == "outside"
    assert caplog.text == ""


def test_volume_that_became_a_case_while_it_was_segmented_is_shown_as_one_with_its_result(panels, caplog):
    panels.cohort.addNodes([panels.volume])
    assert panels.desk.shown == "inside"
    panels.end()
    assert panels.desk.situation().outside == ""
    assert panels.desk.shown == "outside"
    assert visible("outside segmentation")
    assert caplog.text == ""


def test_result_of_a_volume_outside_is_hidden_when_a_cases_is_shown_though_its_nodes_are_gone(panels):
    panels.end()
    annotate = panels.desk.panel("AnnotatePanel")
    annotation = annotate.nodes.annotation
    annotate.nodes = SimpleNamespace(volume=slicer.vtkMRMLScalarVolumeNode())
    panels.results._onResultShown(PredictionNodes(annotation))
    assert panels.desk.outside is None
    assert not visible("outside segmentation")


@pytest.mark.parametrize("is_attached", [True, False])
def test_a_training_that_goes_on_by_itself_does_not_hide_a_prediction_that_would_end(desk, is_attached):
    from SemiSupSegWidgets.CloseGuard import askAboutRuns

    training = SimpleNamespace(task="train", is_attached=False, is_of_cohort=True)
    prediction = SimpleNamespace(task="predict", is_attached=is_attached, is_of_cohort=True)
    asked = askAboutRuns(SimpleNamespace(training=training, prediction=prediction), "Stay", inTests="stop")
    assert asked == ("stop" if is_attached else "keep")
