"""Curves of a training as table, series and chart nodes, for Slicer's plot views.

Curves that always come together share a table with one iteration column (training has one, validation another): a
column padded with "no number" isn't drawn at all. Rows are appended through the tables' columns, and nothing is told to
the views before `flush`, once a timer tick. After that a plot view needs `fitToContent()`, or its axes keep their old
range. Nodes come and go one a tick: in the application, each takes some 10 ms. A curve is drawn from its second point
on: VTK takes a line with one point for an error, at every repaint.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

ITERATION = "iteration"

_COLORS = (
    (0.12, 0.47, 0.71), (1.00, 0.50, 0.05), (0.17, 0.63, 0.17), (0.84, 0.15, 0.16), (0.58, 0.40, 0.74),
    (0.55, 0.34, 0.29), (0.89, 0.47, 0.76), (0.50, 0.50, 0.50), (0.74, 0.74, 0.13), (0.09, 0.75, 0.81),
)  # fmt: skip

_HIDDEN = ("learning rate", "gradient norm", "tau ")
"""How curves begin that are kept in the tables, but would squeeze the others on a chart, or crowd its legend."""


_SHARES = ("dice", "agreement", "coverage", "share", "beneficial", "changed", "certainty", "tau")
"""Words in the names of curves between 0 and 1."""

_SHARE_RANGE = (0.0, 1.0)


class CurvePlot:
    """The curves of one run in a scene.

    Parameters
    ----------
    scene : vtkMRMLScene
    title : str
        Name of the run; begins the names of all nodes.
    former : CurvePlot, optional
        The plot of an earlier run, which gives way to this one.

    Attributes
    ----------
    losses, scores : vtkMRMLPlotChartNode or None
        The chart of losses, and that of everything between 0 and 1 (Dice, shares); None before the first `flush`.

    Examples
    --------
    ::

        plot = CurvePlot(slicer.mrmlScene, "first run")
        plot.append(20, {"loss": 0.9, "supervised": 0.7})
        plot.append(20, {"validation dice teacher": 0.61})
        plot.flush()
    """

    def __init__(self, scene: slicer.vtkMRMLScene, title: str, former: CurvePlot | None = None):
        self.losses: slicer.vtkMRMLPlotChartNode | None = None
        self.scores: slicer.vtkMRMLPlotChartNode | None = None
        self._scene = scene
        self._title = title
        self._tables: list[_CurveTable] = []
        self._table_of: dict[str, _CurveTable] = {}
        self._drawn: list[str] = []
        self._nodes: list[slicer.vtkMRMLNode] = []
        self._due: deque[Callable[[], object]] = deque()
        for node in [] if former is None else reversed(former._nodes):
            self._due.append(lambda node=node: scene.RemoveNode(node))
        self._due += (self._add_losses, self._add_scores)

    @property
    def charts(self) -> tuple[slicer.vtkMRMLPlotChartNode, ...]:
        """`losses` and `scores`, once there are both."""
        return () if self.scores is None else (self.losses, self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the curves, in order of appearance."""
        return tuple(self._table_of)

    def append(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a point to curves; what isn't known yet becomes a new curve. Shown at the next `flush`.

        Parameters
        ----------
        iteration : int
        values : mapping of str to float
            By name of the curve. A value that isn't finite leaves its curve where it was.
        """
        unknown = [name for name, value in values.items() if name not in self._table_of and math.isfinite(value)]
        if unknown:
            self._add_table(unknown)
        for table in self._tables:
            if table.names & values.keys():
                table.append(iteration, values)
                if table.rows == 2:
                    self._draw(table)

    def load(self, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Add whole curves, as `RunFolder.metrics` gives them. Shown at the next `flush`."""
        cadences: dict[tuple[int, ...], list[str]] = {}
        for name, points in curves.items():
            if any(math.isfinite(value) for _, value in points):
                cadences.setdefault(tuple(iteration for iteration, _ in points), []).append(name)
        for iterations, names in cadences.items():
            columns = {name: np.array([value for _, value in curves[name]], float) for name in names}
            table = self._add_table(names)
            table.extend(np.array(iterations, float), columns)
            if table.rows > 1:
                self._draw(table)

    def flush(self, *, at_once: bool = True) -> bool:
        """Show what was appended since the last time; whether there was anything.

        Parameters
        ----------
        at_once : bool
            Else one node comes or goes, if any has to, and the rest waits for the next call.
        """
        was_due = bool(self._due)
        while self._due:
            self._due.popleft()()
            if not at_once:
                return True
        changed = [table.flush() for table in self._tables]
        return was_due or any(changed)

    def hold_axes(self) -> None:
        """Let what lies between 0 and 1 be seen between 0 and 1, whatever a view has fitted."""
        if self.scores is not None and tuple(self.scores.GetYAxisRange()) != _SHARE_RANGE:
            self.scores.SetYAxisRange(*_SHARE_RANGE)

    def remove(self) -> None:
        """Take all nodes out of the scene."""
        for node in reversed(self._nodes):
            self._scene.RemoveNode(node)
        self._nodes, self._tables, self._table_of, self._drawn = [], [], {}, []
        self._due.clear()

    def _add_losses(self) -> None:
        self.losses = self._add_chart("losses", "loss")

    def _add_scores(self) -> None:
        self.scores = self._add_chart("scores", "share")
        self.scores.SetYAxisRangeAuto(False)
        self.hold_axes()

    def _add_chart(self, what: str, unit: str) -> slicer.vtkMRMLPlotChartNode:
        chart = self._add_node("vtkMRMLPlotChartNode", what)
        chart.SetTitle(f"{self._title}: {what}")
        chart.SetXAxisTitle(ITERATION)
        chart.SetYAxisTitle(unit)
        chart.SetTitleFontSize(14)  # Slicer's own sizes are for a view of its own, not for one in a panel
        chart.SetLegendFontSize(11)
        chart.SetAxisTitleFontSize(12)
        chart.SetAxisLabelFontSize(11)
        return chart

    def _add_table(self, names: list[str]) -> _CurveTable:
        table = _CurveTable(names)
        number = len(self._tables) + 1
        self._tables.append(table)
        self._due.append(lambda: table.show_in(self._add_node("vtkMRMLTableNode", f"curves {number}")))
        self._table_of |= dict.fromkeys(names, table)
        return table

    def _draw(self, table: _CurveTable) -> None:
        for name in self._table_of:
            if self._table_of[name] is table and not name.startswith(_HIDDEN):
                before = sum(_is_share(other) == _is_share(name) for other in self._drawn)  # in the same chart
                color = _COLORS[before % len(_COLORS)]
                self._drawn.append(name)
                self._due.append(lambda name=name, color=color: self._add_series(name, table, color))

    def _add_series(self, name: str, table: _CurveTable, color: tuple[float, float, float]) -> None:
        series = self._add_node("vtkMRMLPlotSeriesNode", name)
        series.SetName(name)  # is what the legend shows
        series.SetAndObserveTableNodeID(table.node.GetID())
        series.SetPlotType(series.PlotTypeScatter)  # a line over the x column; "line" counts rows instead
        series.SetXColumnName(ITERATION)
        series.SetYColumnName(name)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetLineWidth(2)
        series.SetColor(*color)
        chart = self.scores if _is_share(name) else self.losses
        chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _add_node(self, node_class: str, what: str) -> slicer.vtkMRMLNode:
        node = self._scene.AddNewNodeByClass(node_class, f"{self._title} {what}")
        node.SetSaveWithScene(False)  # the run folder keeps the curves
        self._nodes.append(node)
        return node


class _CurveTable:
    """Curves with common iterations, and the table node that shows them once it is there."""

    def __init__(self, names: list[str]):
        self.node: slicer.vtkMRMLTableNode | None = None
        self.names = frozenset(names)
        self._columns = {name: vtk.vtkDoubleArray() for name in (ITERATION, *names)}
        self._last: dict[str, float] = {}
        self._is_new = False
        for name, column in self._columns.items():
            column.SetName(name)

    @property
    def rows(self) -> int:
        """Points of each curve."""
        return self._columns[ITERATION].GetNumberOfValues()

    def show_in(self, node: slicer.vtkMRMLTableNode) -> None:
        """Give the columns to a node."""
        self.node = node
        for column in self._columns.values():
            node.GetTable().AddColumn(column)

    def append(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add a row; a curve without a finite value goes on where it was."""
        self._last |= {name: value for name, value in values.items() if name in self._columns and math.isfinite(value)}
        for name, column in self._columns.items():
            column.InsertNextValue(iteration if name == ITERATION else self._last[name])
        self._is_new = True

    def extend(self, iterations: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        """Fill an empty table; a curve without a finite value goes on where it was."""
        for name, values in {ITERATION: iterations, **columns}.items():
            is_known = np.isfinite(values)
            known = np.maximum.accumulate(np.where(is_known, np.arange(len(values)), is_known.argmax()))
            self._columns[name].DeepCopy(numpy_to_vtk(values[known]))
            self._columns[name].SetName(name)
            self._last[name] = float(values[known[-1]])
        self._is_new = True

    def flush(self) -> bool:
        """Tell the views of new rows; whether there are some."""
        was_new, self._is_new = self._is_new, False
        if was_new:
            for column in self._columns.values():
                column.Modified()  # forgets the range that it knew
            self.node.GetTable().Modified()
            self.node.Modified()
        return was_new


def empty_chart(scene: slicer.vtkMRMLScene, tag: str, title: str) -> slicer.vtkMRMLPlotChartNode:
    """What a view shows before there is a curve: without any it stays black, so there is one that nobody sees."""
    chart = singleton_node(scene, "vtkMRMLPlotChartNode", tag)
    chart.SetTitle(title)
    chart.SetTitleFontSize(14)
    chart.SetLegendVisibility(False)
    if chart.GetNumberOfPlotSeriesNodes() == 0:
        table = _CurveTable([tag])
        table.append(0, {tag: 0.0})
        table.append(1, {tag: 1.0})
        table.show_in(singleton_node(scene, "vtkMRMLTableNode", tag))
        series = singleton_node(scene, "vtkMRMLPlotSeriesNode", tag)
        series.SetAndObserveTableNodeID(table.node.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetXColumnName(ITERATION)
        series.SetYColumnName(tag)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetOpacity(0.0)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return chart


def singleton_node(scene: slicer.vtkMRMLScene, node_class: str, tag: str) -> slicer.vtkMRMLNode:
    """The scene's one node of a class and tag; made if it isn't there: hidden, and not saved."""
    node = scene.GetSingletonNode(tag, node_class)
    if node is None:
        node = scene.CreateNodeByClass(node_class)
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node.SetName(tag)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node = scene.AddNode(node)
    return node


def _is_share(name: str) -> bool:
    return any(word in name.lower() for word in _SHARES)
