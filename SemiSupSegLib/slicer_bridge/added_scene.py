"""A scene that is added to one in which a cohort is at work: the work goes on, and no case is shown twice."""

from __future__ import annotations

import slicer

from .cohort_nodes import hide, tagged_nodes
from .cohort_scene import LOADED_ATTRIBUTE, CohortScene
from .nodes import CASE_ATTRIBUTE, COHORT_ATTRIBUTE, KIND_ATTRIBUTE


class AddedScene:
    """What comes into a scene after this was made.

    Parameters
    ----------
    project : CohortScene
        The cohort at work.
    """

    def __init__(self, project: CohortScene):
        self._project = project
        # Of any cohort: where none is shown, the scene comes in place of another, though a job may be running.
        self._before = {node.GetID() for node in tagged_nodes(project.scene)}

    @property
    def is_alone(self) -> bool:
        """Whether nothing of any cohort was there before."""
        return not self._before

    def conflicts(self) -> list[slicer.vtkMRMLSegmentationNode]:
        """Annotations that came and differ from the cohort's files; for `CohortScene.resolve`, before `put_away`."""
        return [
            node
            for node in self._nodes()
            if self._is_ours(node)
            and node.GetAttribute(KIND_ATTRIBUTE) in ("scribble", "label")
            and self._project.differs(node)
        ]

    def put_away(self) -> None:
        """Take out what was loaded to show cases, since the cohort's files hold the same.

        A person's own nodes, and those of other cohorts, become plain ones; segmentations among them are hidden. A
        scene that came alone stays as it is, for whoever opens its cohort.
        """
        if self.is_alone:
            return
        for node in self._nodes():
            if self._is_ours(node) and node.GetAttribute(LOADED_ATTRIBUTE):
                self._project.take_out(node)
            else:
                self._project.make_plain(node)
                hide(node)

    def _nodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in tagged_nodes(self._project.scene) if node.GetID() not in self._before]

    def _is_ours(self, node: slicer.vtkMRMLNode) -> bool:
        cases = {case.id for case in self._project.cohort.cases}
        is_of_cohort = node.GetAttribute(COHORT_ATTRIBUTE) == str(self._project.path)
        return is_of_cohort and node.GetAttribute(CASE_ATTRIBUTE) in cases
