"""The module's logic: every panel's work in one call, for the panels and for the Python console.

A thin wrapper of `SemiSupSegLib.slicer_bridge.project.Project`, whose docstrings say what parameters mean, what is
returned and what is raised: always a `SemiSupSegError`, whose ``message`` and ``remedy`` are for people.
"""

from collections.abc import Callable
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

import SemiSupSegLib
from SemiSupSegLib.cohort_lint import Finding
from SemiSupSegLib.errors import CohortError, ErrorCode
from SemiSupSegLib.events import Event
from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import State
from SemiSupSegLib.settings import SettingDescription
from SemiSupSegLib.slicer_bridge.added_scene import AddedScene
from SemiSupSegLib.slicer_bridge.case_table import CaseRow
from SemiSupSegLib.slicer_bridge.cohort_scene import CaseNodes
from SemiSupSegLib.slicer_bridge.compute import Compute
from SemiSupSegLib.slicer_bridge.jobs import Job
from SemiSupSegLib.slicer_bridge.predictions import PredictionNodes
from SemiSupSegLib.slicer_bridge.project import Project
from SemiSupSegLib.slicer_bridge.segments import schema_from_segmentation
from SemiSupSegLib.slicer_bridge.shelf import Card
from SemiSupSegLib.training_settings import METHODS, PredictionSettings, TrainingSettings

from .parameters import (
    SemiSupSegParameterNode,
    parameterTexts,
    rememberCohort,
    rememberedCohort,
    setParameterTexts,
)


class SemiSupSegLogic(ScriptedLoadableModuleLogic):
    """What the panels do, without the panels.

    Examples
    --------
    ::

        logic = slicer.util.getModuleLogic("SemiSupSeg")
        logic.openCohort("~/cohort")
        case = logic.addCase(volumeNode, scribbleNode)
        logic.train(minutes=5, blocking=True)
        logic.predict(blocking=True)
        nodes = logic.results(case)
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleLogic.__init__(self, parent)
        self._project: Project | None = None
        self._compute = Compute()
        self._parameters: SemiSupSegParameterNode | None = None
        self._added: tuple[AddedScene, dict[str, str]] | None = None

    @property
    def version(self) -> str:
        """Version of the extension."""
        return SemiSupSegLib.__version__

    def getParameterNode(self) -> SemiSupSegParameterNode:
        """What the scene remembers of the module."""
        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = SemiSupSegParameterNode(node)
        return self._parameters

    def setComputePython(self, python: str = "") -> None:
        """Let another interpreter compute, from the next job on; Slicer's own if empty."""
        self._compute = Compute(python)
        if self._project is not None:
            self._project.compute = self._compute

    # Cohort ----------------------------------------------------------------------------------------------------------

    @property
    def project(self) -> Project:
        """The open cohort; raises `CohortError` if none is open."""
        if self._project is None:
            raise CohortError("No cohort is open.", "Open one, or choose a folder for a new one.")
        return self._project

    @property
    def isOpen(self) -> bool:
        """Whether a cohort is open."""
        return self._project is not None

    def openCohort(self, path: Path | str, classes: LabelSchema | None = None, keepRunning: bool = True) -> Project:
        """Open the cohort of a folder or ``cohort.json``, or begin a new one; finds trainings that still run.

        What runs for the cohort that was open goes on alone, or with ``keepRunning=False`` ends with a checkpoint.
        """
        if self._project is not None:
            self._project.save_edits()  # before the file is read: it may be this very cohort that is opened again
        project = Project(path, slicer.mrmlScene, classes=classes, compute=self._compute)
        if not project.path.is_file():
            project.save()  # a folder that takes no file takes no cohort, and the one that is open stays open
        self.closeCohort(keepRunning=keepRunning)
        self._project = project
        project.reattach()
        rememberCohort(self.getParameterNode(), project.path)
        return project

    def openCohortOfScene(self) -> Project | None:
        """Open the cohort that a loaded scene names; None if it names none.

        Ask `conflicts` afterwards, since the scene's nodes may differ from the cohort's files.
        """
        parameterNode = self.getParameterNode()
        if not parameterNode.cohortPath:
            return None
        path = rememberedCohort(parameterNode)
        if path is None:
            raise CohortError(
                f"The scene's cohort '{parameterNode.cohortPath}' isn't there.",
                "Open it where it is now.",
                code=ErrorCode.MISSING_FILE,
            )
        former = parameterNode.cohortPath
        if self._project is None or self._project.path != path:
            self.openCohort(path)
        self._project.adopt_nodes(former)
        return self._project

    def saveCohort(self) -> None:
        """Write what is painted and the cohort's file."""
        self.project.save()
        rememberCohort(self.getParameterNode(), self.project.path)

    def closeCohort(self, keepRunning: bool = False) -> None:
        """Write what is painted and let go of the jobs: they save a checkpoint and end, or go on alone."""
        if self._project is not None:
            self._project.close(keep_running=keepRunning)
            self._project = self._added = None

    def lintCohort(self, onProgress: Callable[[float, str], None] = lambda fraction, text: None) -> list[Finding]:
        """What is wrong with the cohort, errors first; reads every file."""
        return self.project.lint(onProgress)

    def onSceneStartImport(self) -> None:
        """Write what is painted, and note what is there: a scene that is added to it isn't to end the work."""
        isAtWork = self._project is not None and (self._project.is_busy or self._project.is_shown)
        if isAtWork and self._added is None:  # of two scenes at once, the first
            self._added = AddedScene(self._project), parameterTexts(self.getParameterNode())
            self._project.save_edits()

    def takeAddedScene(self) -> tuple[AddedScene, str] | None:
        """After a scene was added to a cohort at work: what came, and the case that was shown in it, empty if none was.

        Its `conflicts` are to be resolved, and the rest is to be `put_away`. None if no cohort was at work, or only a
        job of the one that the scene shows: then the scene's own is to be opened (`openCohortOfScene`).
        """
        if self._added is None:
            return None
        (added, texts), self._added = self._added, None
        parameterNode = self.getParameterNode()
        shown = ""
        isOfCohort = rememberedCohort(parameterNode) == self.project.path
        if isOfCohort and added.is_alone:
            return None
        if isOfCohort:
            self.project.adopt_nodes(parameterNode.cohortPath)
            known = {case.id for case in self.project.cohort.cases}
            shown = parameterNode.currentCase if parameterNode.currentCase in known else ""
        setParameterTexts(parameterNode, texts)
        return added, shown

    def onSceneStartClose(self) -> None:
        """Write what is painted while the nodes are still there; jobs go on."""
        self._added = None
        if self._project is not None:
            try:
                self._project.save_edits()
            finally:
                self._project.forget_scene()

    # Cases -----------------------------------------------------------------------------------------------------------

    def caseRows(self) -> list[CaseRow]:
        """A row of the case table for each case."""
        return self.project.case_rows()

    def addCase(
        self, volumeNode, scribbleSegmentationNode=None, labelSegmentationNode=None, caseID=None, role="train"
    ) -> str:
        """Copy a scan and its annotations from the scene into the cohort; the case's ID."""
        return self.project.add_case(
            volumeNode, scribbleSegmentationNode, labelSegmentationNode, case_id=caseID, role=role
        )

    def addFiles(self, images, labels=None, scribbles=None, **options) -> list[str]:
        """Take scans from files, annotations paired with them by name; IDs of the new cases."""
        return self.project.add_files(images, labels, scribbles, **options)

    def removeCase(self, caseID: str) -> None:
        """Take a case out of the cohort; its files stay."""
        self.project.remove_case(caseID)

    def setCaseRole(self, caseID: str, role: str) -> None:
        """Use a case to ``train``, for ``validation`` or as ``test``."""
        self.project.change_case(caseID, role=role)

    def setCaseLabeled(self, caseID: str, labeled: bool) -> None:
        """Whether a case's annotations train, or are kept for evaluation."""
        self.project.change_case(caseID, labeled=labeled)

    def showCase(self, caseID: str, kind: str | None = None) -> CaseNodes:
        """Show a case to be painted on, in place of the current one."""
        parameterNode = self.getParameterNode()
        if parameterNode.currentCase != caseID:
            self.hideCurrentCase()
        nodes = self.project.show_case(caseID, kind)
        parameterNode.currentCase = caseID
        return nodes

    def hideCurrentCase(self) -> None:
        """Write what is painted on the current case and take the nodes that were loaded for it out of the scene."""
        parameterNode = self.getParameterNode()
        if parameterNode.currentCase:
            self.project.hide_case(parameterNode.currentCase)
            parameterNode.currentCase = ""

    # Classes and annotations -----------------------------------------------------------------------------------------

    @property
    def classes(self) -> LabelSchema:
        """What is to be segmented, and the background."""
        return self.project.cohort.schema

    def setClasses(self, classes: LabelSchema) -> None:
        """Say what is to be segmented."""
        self.project.set_classes(classes)

    def classesFromSegmentation(self, *segmentationNodes) -> LabelSchema:
        """The classes that segmentation nodes define, with IDs, names, colors and terminology."""
        return schema_from_segmentation(segmentationNodes)

    def annotate(self, caseID: str, array, kind: str = "scribble") -> None:
        """Give a case its annotation from an array (k, j, i): class indices, 255 where nobody annotated."""
        self.project.annotate(caseID, array, kind)

    def saveEdits(self) -> list[str]:
        """Write what was painted; the cases that changed on disk."""
        return self.project.save_edits()

    def conflicts(self) -> list:
        """Annotation nodes of a loaded scene that differ from the cohort's files."""
        return self.project.conflicts()

    def resolveConflict(self, segmentationNode, keep: str) -> None:
        """End a conflict by keeping what the ``scene`` or what the ``cohort`` says, or ``both``."""
        self.project.resolve(segmentationNode, keep)

    # Training --------------------------------------------------------------------------------------------------------

    @staticmethod
    def methods() -> tuple[str, ...]:
        """Training methods, the recommended one first."""
        return METHODS

    @staticmethod
    def trainingSettings() -> list[SettingDescription]:
        """Every setting of a training with its meaning, default and range: what the *Advanced* form is made of."""
        return list(TrainingSettings.describe())

    @staticmethod
    def predictionSettings() -> list[SettingDescription]:
        """The same of a prediction."""
        return list(PredictionSettings.describe())

    def train(
        self,
        method: str = "sp3",
        minutes: float | None = None,
        iterations: int | None = None,
        settings=(),
        warmStart=None,
        name: str = "",
        keepRunning: bool = False,
        onEvent: Callable[[Event], None] | None = None,
        blocking: bool = False,
    ) -> Job:
        """Train in a process of its own; without `blocking`, `poll` has to be called until it is over."""
        return self.project.train(
            method,
            minutes=minutes,
            iterations=iterations,
            settings=settings,
            warm_start=warmStart,
            name=name,
            keep_running=keepRunning,
            on_event=onEvent,
            blocking=blocking,
        )

    def resumeTraining(self, run, onEvent=None, blocking: bool = False) -> Job:
        """Go on with a training that was cancelled or lost, from its last checkpoint."""
        return self.project.resume_training(run, on_event=onEvent, blocking=blocking)

    @property
    def training(self) -> Job | None:
        """The training that is running: ``pause``, ``resume``, ``cancel``, ``request_preview``, ``progress``."""
        return self.project.training if self._project is not None else None

    @property
    def prediction(self) -> Job | None:
        """The prediction that is running: ``cancel``, ``progress``."""
        return self.project.prediction if self._project is not None else None

    def pause(self) -> None:
        """Let the training leave the device to others."""
        if self.training is not None:
            self.training.pause()

    def resume(self) -> None:
        """Let a paused training go on."""
        if self.training is not None:
            self.training.resume()

    def cancel(self) -> None:
        """Let every job save a checkpoint and end."""
        self.project.cancel()

    def requestPreview(self, caseID: str) -> None:
        """Ask the training for a prediction of a case as the network is now; it comes as a ``preview`` event."""
        if self.training is not None:
            self.training.request_preview(caseID)

    def showPreview(self, caseID: str) -> PredictionNodes:
        """Show the last preview of a case."""
        return self.project.show_preview(caseID)

    def previewSteps(self, caseID: str):
        """The same in steps of milliseconds, for a window's timer: a generator that returns the nodes."""
        return self.project.preview_steps(caseID)

    @property
    def plotCharts(self) -> tuple:
        """Chart nodes of the training: losses, and what lies between 0 and 1; () before the first number."""
        curves = self.project.curves if self._project is not None else None
        return () if curves is None else curves.plot.charts

    def poll(self, budgetMs: float = 20.0) -> list[Event]:
        """What happened since the last call; for a timer of 50 to 100 ms. Never blocks."""
        return self.project.poll(budgetMs) if self._project is not None else []

    def wait(self, job: Job | None = None, timeout: float | None = None) -> State | None:
        """Poll until a job, or every job, is over; for scripts."""
        return self.project.wait(job, timeout)

    # Runs and models -------------------------------------------------------------------------------------------------

    def cards(self) -> list[Card]:
        """Training runs, the newest first, then imported models."""
        return self.project.shelf.cards()

    def renameModel(self, path, name: str) -> Model:
        """Give the model of a run or a model folder another name."""
        return self.project.shelf.rename(path, name)

    def exportModel(self, path, zipPath) -> Path:
        """Write the model of a run or a model folder as one zip file, without images and file names."""
        return Model.load(path).export_zip(zipPath)

    def importModel(self, zipPath) -> Model:
        """Take an exported model into the cohort's folder."""
        return self.project.shelf.import_model(zipPath)

    def deleteRun(self, path) -> None:
        """Delete a run or an imported model with all its files."""
        self.project.shelf.delete(path)

    # Results ---------------------------------------------------------------------------------------------------------

    def predict(
        self,
        cases=None,
        volumes=(),
        model=None,
        probability: bool = False,
        uncertainty: bool = True,
        settings=(),
        onEvent: Callable[[Event], None] | None = None,
        blocking: bool = False,
    ) -> Job:
        """Segment cases (all if none are named) or volumes outside the cohort, in a process of its own."""
        return self.project.predict(
            cases,
            volumes=volumes,
            model=model,
            probability=probability,
            uncertainty=uncertainty,
            settings=settings,
            on_event=onEvent,
            blocking=blocking,
        )

    def results(self, caseOrVolumeNode) -> PredictionNodes:
        """Show the newest prediction of a case or volume node: segmentation, probabilities, uncertainty."""
        return self.project.results(caseOrVolumeNode)

    def resultsSteps(self, caseOrVolumeNode):
        """The same in steps of milliseconds, for a window's timer: a generator that returns the nodes."""
        return self.project.results_steps(caseOrVolumeNode)

    def ranking(self) -> list[tuple[str, float]]:
        """Where to look next: predicted cases with their uncertainty 0..1, the most uncertain first."""
        return self.project.ranking()

    def uncertainSlices(self, caseID: str, count: int = 5) -> list[tuple[int, float]]:
        """Slices (index k, uncertain voxels) of a case where a look pays most."""
        return self.project.uncertain_slices(caseID, count)

    def startCorrection(self, caseID: str) -> CaseNodes:
        """Make a case's prediction its annotation, to be corrected."""
        nodes = self.project.start_correction(caseID)
        self.getParameterNode().currentCase = caseID
        return nodes
