"""Predictions of a cohort's cases in a scene: shown, ranked, and made the beginning of an annotation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer

from ..errors import CohortError
from ..labels import IGNORE, LabelSchema
from ..slice_ranking import uncertain_slices
from ..volume import Volume
from .accepted_proposals import forget_accepted
from .case_table import CaseRow, CaseTable
from .cohort_nodes import hide, tag, tagged_nodes
from .cohort_scene import LOADED_ATTRIBUTE, CaseNodes, CohortScene
from .nodes import CASE_ATTRIBUTE, KIND_ATTRIBUTE, geometry_of
from .predictions import Prediction, PredictionNodes, PredictionStore
from .results import update_segmentation
from .showing import Steps, at_once, prediction_steps

RESULT_OF_ATTRIBUTE = "SemiSupSeg.ResultOf"
"""Attribute of nodes that show a prediction: the ID of the case, or of the volume node outside the cohort."""


class PredictionScene(CohortScene):
    """A cohort in a scene, with the predictions that there are of its cases.

    Parameters
    ----------
    path, scene, classes
        As in `CohortScene`.

    Attributes
    ----------
    predictions : PredictionStore
        The newest prediction of each case.
    previews : dict of str to Prediction
        By case, what a network in training said of it when it was last asked.
    """

    def __init__(
        self, path: Path | str, scene: slicer.vtkMRMLScene | None = None, *, classes: LabelSchema | None = None
    ):
        super().__init__(path, scene, classes=classes)
        self.predictions = PredictionStore(self.folder / "predictions")
        self.previews: dict[str, Prediction] = {}
        self._outside: dict[str, Prediction] = {}
        self._table = CaseTable()

    def case_rows(self) -> list[CaseRow]:
        """The case table: a row for each case."""
        return self._table.rows(self.cohort, self.predictions)

    def results(self, of: str | slicer.vtkMRMLScalarVolumeNode) -> PredictionNodes:
        """Show the newest prediction of a case, or of a volume outside the cohort.

        Nodes that show an earlier prediction are updated, unless somebody edited them; else new ones are made.

        Parameters
        ----------
        of : str or vtkMRMLScalarVolumeNode
            A case's ID, or the volume node that was predicted.

        Raises
        ------
        CohortError
            If there is no prediction yet.
        """
        return at_once(self.results_steps(of))

    def results_steps(self, of: str | slicer.vtkMRMLScalarVolumeNode) -> Steps[PredictionNodes]:
        """The same as `results` in steps of milliseconds, for a window's timer."""
        case_id = of if isinstance(of, str) else of.GetAttribute(CASE_ATTRIBUTE)
        outside = None if isinstance(of, str) else self._outside.get(of.GetID())
        # A volume may have become a case after it was predicted.
        if case_id and (outside is None or self.predictions.get(case_id) is not None):
            return self._show(self._prediction(case_id), self.image_node(case_id), case_id)
        if outside is None:
            raise _not_predicted(of.GetName())
        return self._show(outside, of, of.GetID())

    def show_preview(self, case_id: str) -> PredictionNodes:
        """Show what the training network said of a case when it was last asked (`Job.request_preview`)."""
        return at_once(self.preview_steps(case_id))

    def preview_steps(self, case_id: str) -> Steps[PredictionNodes]:
        """The same as `show_preview` in steps of milliseconds, for a window's timer."""
        if case_id not in self.previews:
            raise CohortError(f"There is no preview of '{case_id}' yet.", "Ask the training for one.")
        return self._show(self.previews[case_id], self.image_node(case_id), case_id)

    def ranking(self) -> list[tuple[str, float]]:
        """Where to look next: predicted cases with their uncertainty 0..1, the most uncertain first."""
        known = {case.id for case in self.cohort.cases}
        return [(each.case_id, each.score) for each in self.predictions.ranking() if each.case_id in known]

    def uncertain_slices(self, case_id: str, count: int = 5) -> list[tuple[int, float]]:
        """Slices of a case where a look pays most: index k and uncertain voxels, most first."""
        uncertainty = self._prediction(case_id).uncertainty()
        return uncertain_slices(uncertainty.sum(axis=(1, 2), dtype=np.float64), count)

    def start_correction(self, case_id: str) -> CaseNodes:
        """Make a case's prediction its annotation, to be corrected: a segmentation that counts as dense label.

        Strokes that the case has win over the prediction, and are in the label from now on. Their file stays, but no
        longer trains; nodes that show them go, those of the person become plain, hidden nodes. A label that the case
        has is replaced in the cohort, and its file stays. Whoever asks for this saves the undo state before.
        """
        self.save_edits()
        case = self.cohort.case(case_id)
        labels, schema = self._prediction(case_id).labels()
        if schema.names != self.cohort.schema.names:
            raise CohortError(
                f"The prediction of '{case_id}' has the classes {', '.join(schema.names)}, and the cohort has "
                f"{', '.join(self.cohort.schema.names)}.",
                "Predict it with a model of this cohort.",
            )
        if case.scribble is not None:
            strokes = self.cohort.read_scribble(case)
            labels = np.where(strokes == IGNORE, labels, strokes)
        grid = geometry_of(self.image_node(case_id))
        case = self.files.written(case, Volume(labels, grid), "label", self.cohort.schema, in_new_file=True)
        self._keep(self.cohort.with_case(replace(case, scribble=None, proposals=None, labeled=True)))
        self._let_go_of_strokes(case_id)
        for node in tagged_nodes(self.scene, self.path, case_id, "label"):
            update_segmentation(node, labels, self.image_node(case_id), self.cohort.schema, overwrite=True)
            self.edits.watch(node)
        return self.show_case(case_id, "label")

    def _let_go_of_strokes(self, case_id: str) -> None:
        """What is painted in the nodes that showed a case's strokes no longer counts."""
        for node in tagged_nodes(self.scene, self.path, case_id, "scribble"):
            if node.GetAttribute(LOADED_ATTRIBUTE):
                self.take_out(node)
            else:
                forget_accepted(node)
                self.make_plain(node)
                hide(node)

    def _prediction(self, case_id: str) -> Prediction:
        prediction = self.predictions.get(self.cohort.case(case_id).id)
        if prediction is None:
            raise _not_predicted(case_id)
        return prediction

    def _show(
        self, prediction: Prediction, volume_node: slicer.vtkMRMLScalarVolumeNode, key: str
    ) -> Steps[PredictionNodes]:
        shown = [node for node in tagged_nodes(self.scene, self.path) if node.GetAttribute(RESULT_OF_ATTRIBUTE) == key]

        def own(node: slicer.vtkMRMLNode) -> None:
            tag(node, self.path, volume_node.GetAttribute(CASE_ATTRIBUTE) or "", node.GetAttribute(KIND_ATTRIBUTE))
            node.SetAttribute(RESULT_OF_ATTRIBUTE, key)
            if volume_node.GetAttribute(LOADED_ATTRIBUTE):
                node.SetAttribute(LOADED_ATTRIBUTE, "1")

        return (yield from prediction_steps(prediction, volume_node, shown, self.cohort.schema, own))


def _not_predicted(name: str) -> CohortError:
    return CohortError(f"There is no prediction of '{name}' yet.", "Predict it first.")
