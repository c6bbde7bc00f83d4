"""A cohort in a scene that can be trained and predicted: the whole road in a few calls, none of which blocks Slicer."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..cohort import Role
from ..errors import CohortError, ErrorCode, SemiSupSegError
from ..events import Event
from ..labels import LabelSchema
from ..models import Model
from ..runner import Runner
from ..runs import RunFolder, RunRequest, State, list_runs, new_run_path
from ..segmentation_file import AnnotationKind
from ..training_settings import PredictionSettings, TrainingSettings
from .cohort_nodes import free_case_id, write_image
from .cohort_scene import CaseNodes
from .compute import Compute
from .jobs import Job, OnEvent
from .nodes import CASE_ATTRIBUTE, check_scalar_volume
from .prediction_scene import PredictionScene
from .predictions import Prediction
from .run_curves import RunCurves
from .shelf import Shelf

SettingValues = Mapping[str, Any] | Iterable[str]
"""Settings as ``{"optimizer.learning_rate": 0.02}`` or as ``["optimizer.learning_rate=0.02"]``."""

_CURVES_MS = 10.0
"""How long a poll may read the curves of a run from before."""


class Project(PredictionScene):
    """A cohort, the scene that shows it, its runs and its models.

    Whoever owns a project in a program with an event loop calls `poll` from a timer, every 50 to 100 ms; scripts call
    `wait`, or say ``blocking=True``.

    Parameters
    ----------
    path, scene, classes
        As in `cohort_scene.CohortScene`.
    compute : Compute, optional
        Where workers run; Slicer's own Python if not given.

    Attributes
    ----------
    jobs : list of Job
        What was started or attached to in this session, the newest last.
    curves : RunCurves or None
        Those of the newest training; `RunCurves.plot` has the charts.
    problem : SemiSupSegError or None
        Why the last strokes couldn't be written, until they can.

    Examples
    --------
    ::

        project = Project("~/cohort")
        case = project.add_case(volume_node, scribble_node)
        project.train(minutes=5, blocking=True)
        project.predict(blocking=True)
        nodes = project.results(case)
    """

    def __init__(
        self,
        path: Path | str,
        scene: slicer.vtkMRMLScene | None = None,
        *,
        classes: LabelSchema | None = None,
        compute: Compute | None = None,
    ):
        super().__init__(Path(path).expanduser(), scene, classes=classes)
        self.compute = compute or Compute()
        self.shelf = Shelf(self.folder)
        self.jobs: list[Job] = []
        self.curves: RunCurves | None = None
        self.problem: SemiSupSegError | None = None
        self._outside_of_job: dict[int, dict[str, str]] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def training(self) -> Job | None:
        """The training that is running, if one is."""
        return self._running("train")

    @property
    def prediction(self) -> Job | None:
        """The prediction that is running, if one is."""
        return self._running("predict")

    @property
    def is_busy(self) -> bool:
        """Whether any job is running."""
        return any(job.is_running for job in self.jobs)

    # -- annotations --------------------------------------------------------------------------------------------------

    def save_edits(self, *, at_once: bool = True) -> list[str]:
        """See `CohortScene.save_edits`; a running training is told of what changed."""
        saved = super().save_edits(at_once=at_once)
        self._tell_training(saved)
        return saved

    def annotate(self, case_id: str, array: np.ndarray, kind: AnnotationKind = "scribble") -> None:
        """See `CohortScene.annotate`; a running training is told of it."""
        super().annotate(case_id, array, kind)
        self._tell_training([case_id])

    def resolve(self, node: slicer.vtkMRMLSegmentationNode, keep: str) -> None:
        """See `CohortScene.resolve`; a running training is told of what changed on disk."""
        super().resolve(node, keep)
        if keep == "scene":
            self._tell_training([node.GetAttribute(CASE_ATTRIBUTE)])

    def start_correction(self, case_id: str) -> CaseNodes:
        """See `PredictionScene.start_correction`; a running training is told of it."""
        nodes = super().start_correction(case_id)
        self._tell_training([case_id])
        return nodes

    # -- training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        method: str = "sp3",
        *,
        minutes: float | None = None,
        iterations: int | None = None,
        settings: SettingValues = (),
        warm_start: Path | str | None = None,
        name: str = "",
        keep_running: bool = False,
        on_event: OnEvent | None = None,
        blocking: bool = False,
    ) -> Job:
        """Train a model on the cohort in a process of its own.

        Parameters
        ----------
        method : str
            One of `training_settings.METHODS`.
        minutes, iterations : float, int, optional
            How long; 20 minutes if neither is given.
        settings : mapping or list of str
            Any other of `TrainingSettings`, by its key.
        warm_start : path, optional
            A model or run to go on from.
        name : str
            What people will call the model; the run's folder if empty.
        keep_running : bool
            Go on when Slicer closes.
        on_event : callable
            Takes every event, in the thread that polls.
        blocking : bool
            Return when it is over, and raise if it failed.

        Returns
        -------
        Job

        Raises
        ------
        SemiSupSegError
            If a setting is impossible, nothing is annotated, or the worker can't be started.
        """
        given = {"method": method, "minutes": minutes, "iterations": iterations}
        given |= {"warm_start": None if warm_start is None else str(Model.load(warm_start).folder.absolute())}
        chosen = TrainingSettings().with_overrides([*_assignments(settings), *_assignments(given)])
        self.save()
        if not any(case.annotated and case.role == Role.TRAIN for case in self.cohort.cases):
            raise CohortError(
                "Nothing is annotated yet, so there is nothing to learn from.",
                "Scribble on a training case, background included.",
                code=ErrorCode.NO_ANNOTATION,
            )
        path = new_run_path(self.shelf.runs, method)
        request = RunRequest(
            task="train",
            cohort=str(self.path),
            settings=chosen.to_json(),
            attached=not keep_running,
            label=name or path.name,
        )
        return self._start(RunFolder.create(path, request), on_event, blocking)

    def resume_training(self, run: Path | str, *, on_event: OnEvent | None = None, blocking: bool = False) -> Job:
        """Go on with a training that was cancelled or lost, from its last checkpoint."""
        self.save()
        return self._start(RunFolder.open(run), on_event, blocking)

    def reattach(self, on_event: OnEvent | None = None) -> list[Job]:
        """Jobs for runs that went on while Slicer was closed; their events come from the beginning.

        Results of a prediction that ended meanwhile are taken in.
        """
        known = {job.path for job in self.jobs if job.is_running}
        runs = list_runs(self.shelf.runs) if self.shelf.runs.is_dir() else []
        alive = [run for run in runs if run.path not in known and not run.assess().is_over and run.worker_lives()]
        found = [Job(Runner.attach(run), on_event) for run in alive]
        self.jobs += found
        self._take_missed(run for run in runs if run.path not in known)
        return found

    # -- predicting ---------------------------------------------------------------------------------------------------

    def predict(
        self,
        cases: Iterable[str] | None = None,
        *,
        volumes: Iterable[slicer.vtkMRMLScalarVolumeNode] = (),
        model: Path | str | None = None,
        probability: bool = False,
        uncertainty: bool = True,
        settings: SettingValues = (),
        on_event: OnEvent | None = None,
        blocking: bool = False,
    ) -> Job:
        """Segment cases of the cohort, or volumes that are in the scene only, in a process of its own.

        Parameters
        ----------
        cases : iterable of str, optional
            IDs; all cases if neither these nor `volumes` are given.
        volumes : iterable of vtkMRMLScalarVolumeNode
            Instead of cases. Copies are written for the worker and deleted when it is done.
        model : path, optional
            A model or run; the newest one if not given.
        probability, uncertainty : bool
            Compute a probability for each class, and an uncertainty.
        settings : mapping or list of str
            Any other of `PredictionSettings`.
        on_event, blocking
            As in `train`.

        Returns
        -------
        Job
            Its results come one by one; see `results`.

        Raises
        ------
        SemiSupSegError
            If there is no model, a setting is impossible, or the worker can't be started.
        """
        volumes, cases = list(volumes), None if cases is None else list(cases)
        if volumes and cases:
            raise CohortError("Cases and volumes can't be predicted at once.", "Predict one after the other.")
        for case_id in cases or ():
            self.cohort.case(case_id)
        for node in volumes:
            check_scalar_volume(node)
        chosen = PredictionSettings().with_overrides(
            [*_assignments(settings), *_assignments({"probability": probability, "uncertainty": uncertainty})]
        )
        found = self.shelf.newest_model() if model is None else Model.load(model)
        path = new_run_path(self.shelf.runs, "predict")
        written = self._write_volumes(volumes, path / "inputs")
        request = RunRequest(
            task="predict",
            cohort=None if volumes else str(self.path),
            images=tuple(str(path / "inputs" / f"{name}.nrrd") for name in written),
            model=str(found.folder.absolute()),
            settings={
                "prediction": chosen.to_json(),
                "cases": cases or [],
                "out": str(path / "predictions" if volumes else self.predictions.folder),
            },
            label=found.name,
        )
        if not volumes:
            self.save()
        return self._start(RunFolder.create(path, request), on_event, blocking, written)

    # -- while it runs ------------------------------------------------------------------------------------------------

    def poll(self, budget_ms: float = 20.0) -> list[Event]:
        """What happened since the last call; to be called from a timer; never blocks, reads for `budget_ms` at most.

        Takes results in, extends the curves, writes strokes when nobody has painted for two seconds, and tells a
        running training of them.
        """
        events = []
        running = [job for job in self.jobs if job.is_running]
        for job in running:
            try:
                for event in job.poll(budget_ms / len(running)):
                    self._take(job, event)
                    events.append(event)
            finally:
                if not job.is_running:
                    self._clean_up(job)
        if self.curves is not None:
            self.curves.show(_CURVES_MS)
        self._save_quietly()
        return events

    def wait(self, job: Job | None = None, timeout: float | None = None) -> State | None:
        """Poll until a job, or every job, is over; for scripts.

        Returns
        -------
        State or None
            How the job ended; None after the timeout, and for all jobs.
        """
        jobs = self.jobs if job is None else [job]
        deadline = None if timeout is None else time.monotonic() + timeout
        while any(each.is_running for each in jobs) and (deadline is None or time.monotonic() < deadline):
            if not self.poll():
                time.sleep(0.02)
        if self.curves is not None:
            self.curves.show()
        return None if job is None or job.is_running else job.state

    def cancel(self) -> None:
        """Ask every job to save a checkpoint and end."""
        for job in self.jobs:
            job.cancel()

    def close(self, *, keep_running: bool = False) -> None:
        """Write what is painted and let go of the jobs: attached ones save a checkpoint and end, or go on alone.

        Parameters
        ----------
        keep_running : bool
            Detach trainings, and predictions of cases, so that they go on when Slicer closes.
        """
        try:
            self.save_edits()
        finally:
            for job in self.jobs:
                if job.is_running and keep_running and job.is_of_cohort:
                    job.detach()
                job.runner.close()
            self.jobs = []
            if self.curves is not None:
                self.curves.plot.remove()
            self.forget_scene()

    def forget_scene(self) -> None:
        """After the scene was closed: its nodes are gone; runs go on, and curves are made anew from their folders."""
        self.curves = None
        self.edits.forget_all()
        for ids in (self._outside, *self._outside_of_job.values()):
            ids.clear()  # those of nodes, which others get now

    # -- inside -------------------------------------------------------------------------------------------------------

    def _running(self, task: str) -> Job | None:
        return next((job for job in reversed(self.jobs) if job.task == task and job.is_running), None)

    def _start(
        self, folder: RunFolder, on_event: OnEvent | None, blocking: bool, written: Mapping[str, str] | None = None
    ) -> Job:
        runner = Runner(folder, python=self.compute.interpreter, environment=self.compute.environment)
        runner.start()
        job = Job(runner, on_event)
        self._outside_of_job[id(job)] = dict(written or {})
        self.jobs.append(job)
        if blocking:
            self.wait(job)
            job.check()
        return job

    def _write_volumes(self, volumes: list[slicer.vtkMRMLScalarVolumeNode], folder: Path) -> dict[str, str]:
        """Write volume nodes for the worker; IDs of the nodes by the names that they go by."""
        written: dict[str, str] = {}
        for node in volumes:
            # The worker takes a file's name up to its first dot.
            stem = free_case_id(node.GetName(), None).replace(".", "_")
            name = next(each for each in (stem, *(f"{stem}_{n}" for n in range(2, 10_000))) if each not in written)
            write_image(node, folder / f"{name}.nrrd")
            written[name] = node.GetID()
        return written

    def _take(self, job: Job, event: Event) -> None:
        if event.name == "metric" and job.task == "train":
            if self.curves is None or self.curves.job is not job:
                self.curves = RunCurves(self.scene, job, former=self.curves and self.curves.plot)
            self.curves.take(event)
        elif _is_result(event):
            prediction = _prediction_of(event, job.folder)
            name = prediction.case_id
            outside = self._outside_of_job.get(id(job), {})
            if job.task == "train":
                self.previews[name] = prediction
            elif name in outside:
                self._outside[outside[name]] = prediction
            elif job.is_of_cohort:
                self.predictions.put(prediction)

    def _take_missed(self, runs: Iterable[RunFolder]) -> None:
        """Take in the results of the newest prediction of cases that came while nobody listened."""
        for run in runs:
            with contextlib.suppress(SemiSupSegError):
                request = run.request()
                if request.task == "predict" and request.cohort is not None:
                    self.predictions.put_newer(
                        _prediction_of(event, run) for event in run.events() if _is_result(event)
                    )
                    return

    def _clean_up(self, job: Job) -> None:
        for image in (job.path / "inputs").glob("*.nrrd"):
            image.unlink(missing_ok=True)

    def _save_quietly(self) -> None:
        try:
            saved = self.save_edits(at_once=False)
        except SemiSupSegError as error:
            self.problem = error
            return
        if saved:
            self.problem = None

    def _tell_training(self, case_ids: Iterable[str]) -> None:
        if self.training is not None:
            for case_id in case_ids:
                self.training.update_annotations(case_id)


def _is_result(event: Event) -> bool:
    return event.name == "preview" and "segmentation" in event["files"]


def _prediction_of(event: Event, run: RunFolder) -> Prediction:
    """What a ``preview`` event of a run says."""
    files = {kind: Path(path) for kind, path in event["files"].items()}
    return Prediction(event["case"], files, event.fields.get("score"), run.request().label, event.time)


def _assignments(settings: SettingValues) -> list[str]:
    """Settings as ``KEY=VALUE``; what is None keeps its default."""
    if isinstance(settings, Mapping):
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
        return [f"{key}={text}" for key, text in texts.items() if settings[key] is not None]
    return list(settings)
