"""The curves of a run on a plot: what its folder holds from before, then what its events say; a little at a time."""

from __future__ import annotations

import time

import slicer

from ..events import Event
from ..runs import curves_of
from .jobs import Job
from .plots import CurvePlot


class RunCurves:
    """Follows a training with a plot.

    Parameters
    ----------
    scene : vtkMRMLScene
    job : Job
    former : CurvePlot, optional
        The plot of an earlier run, which gives way.

    Attributes
    ----------
    plot : CurvePlot
    """

    def __init__(self, scene: slicer.vtkMRMLScene, job: Job, former: CurvePlot | None = None):
        self.job = job
        self.plot = CurvePlot(scene, job.folder.request().label, former)
        # Of a run that was resumed, or whose nodes went with a closed scene.
        self._earlier = job.folder.metric_rows()
        self._rows: list[tuple[int, str, float]] = []
        self._waiting: list[Event] | None = []

    def take(self, event: Event) -> None:
        """Take in a ``metric`` event."""
        if self._waiting is not None:
            self._waiting.append(event)
        else:
            self.plot.append(event["iteration"], event["values"])

    def show(self, budget_ms: float | None = None) -> None:
        """Show what has come.

        Parameters
        ----------
        budget_ms : float, optional
            About how long this may take, for a timer: what isn't shown then is shown by a later call. Everything is
            shown if not given.
        """
        deadline = None if budget_ms is None else time.perf_counter() + budget_ms / 1000
        while self._waiting is not None:
            row = next(self._earlier, None)
            if row is None:
                self._begin()
                break
            self._rows.append(row)
            if deadline is not None and time.perf_counter() > deadline:
                return
        self.plot.flush(at_once=deadline is None)

    def _begin(self) -> None:
        """Everything from before is read: draw it, and what came meanwhile."""
        waiting, self._waiting = self._waiting, None
        first = waiting[0]["iteration"] if waiting else None
        self.plot.load(curves_of(row for row in self._rows if first is None or row[0] < first))
        self._rows = []
        for event in waiting:
            self.plot.append(event["iteration"], event["values"])
