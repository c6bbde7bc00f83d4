"""Curves as tables, series and charts."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import slicer

from SemiSupSegLib.events import Event
from SemiSupSegLib.slicer_bridge.plots import CurvePlot, empty_chart
from SemiSupSegLib.slicer_bridge.run_curves import RunCurves

pytest_plugins = ["slicer_fixture"]


@pytest.fixture
def plot(scene) -> CurvePlot:
    return CurvePlot(scene, "first run")


def test_curves_that_come_together_share_a_table_and_others_have_their_own_iterations(plot, scene):
    for iteration in range(1, 5):
        plot.append(iteration, {"loss": 1 / iteration, "supervised": 2 / iteration})
    plot.append(4, {"validation dice teacher": 0.5})
    plot.flush()
    tables = [
        scene.GetNthNodeByClass(n, "vtkMRMLTableNode") for n in range(scene.GetNumberOfNodesByClass("vtkMRMLTableNode"))
    ]
    assert [_columns(table) for table in tables] == [
        {"iteration": [1, 2, 3, 4], "loss": [1, 1 / 2, 1 / 3, 1 / 4], "supervised": [2, 1, 2 / 3, 1 / 2]},
        {"iteration": [4], "validation dice teacher": [0.5]},
    ]


def test_losses_and_shares_have_charts_of_their_own(plot):
    for iteration in (1, 2):
        plot.append(iteration, {"loss": 3.0, "coverage": 0.2, "learning rate": 1e-3, "tau 1": 0.5})
    plot.flush()
    assert _series_names(plot.losses) == ["loss"]
    assert _series_names(plot.scores) == ["coverage"]
    assert tuple(plot.scores.GetYAxisRange()) == (0.0, 1.0)


def test_what_a_view_fitted_is_undone_where_everything_lies_between_0_and_1(plot):
    plot.hold_axes()  # before there is a chart
    for iteration in (1, 2):
        plot.append(iteration, {"loss": 3.0, "coverage": 0.2})
    plot.flush()
    plot.scores.SetYAxisRange(0.0, 0.2)
    plot.losses.SetYAxisRange(0.0, 3.0)
    plot.hold_axes()
    assert tuple(plot.scores.GetYAxisRange()) == (0.0, 1.0)
    assert tuple(plot.losses.GetYAxisRange()) == (0.0, 3.0)


def test_curve_is_drawn_from_its_second_point_on_since_vtk_takes_a_shorter_line_for_an_error(plot):
    plot.append(1, {"loss": 3.0})
    plot.append(1, {"validation dice": 0.1})
    plot.append(2, {"loss": 2.0})
    plot.flush()
    assert (_series_names(plot.losses), _series_names(plot.scores)) == (["loss"], [])
    plot.append(2, {"validation dice": 0.2})
    plot.append(3, {"validation dice": 0.3})
    plot.flush()
    assert _series_names(plot.scores) == ["validation dice"]
    assert _curve(plot, "validation dice") == ([1, 2, 3], [0.1, 0.2, 0.3])


def test_series_are_lines_over_iterations_in_distinct_colors(plot):
    for iteration in (1, 2):
        plot.append(iteration, {"loss": 3.0, "supervised": 2.0, "expanded": 1.0})
    plot.flush()
    series = [plot.losses.GetNthPlotSeriesNode(n) for n in range(3)]
    assert {each.GetXColumnName() for each in series} == {"iteration"}
    assert len({each.GetColor() for each in series}) == 3
    assert all(each.GetColor() != (0, 0, 0) for each in series)


def test_colors_of_a_chart_differ_whatever_else_there_is_and_whenever_it_begins(plot):
    others = dict.fromkeys(("coverage", "certainty", "changed", "learning rate", "tau 0", "tau 1", "tau 2"), 0.5)
    for iteration in range(1, 5):
        late = {"pseudo": 0.5, "beyond": 0.4} if iteration > 2 else {}
        plot.append(iteration, {"expanded": 1.0, "loss": 3.0, "supervised": 2.0, **others, **late})
    plot.flush()
    series = [plot.losses.GetNthPlotSeriesNode(n) for n in range(plot.losses.GetNumberOfPlotSeriesNodes())]
    assert len({each.GetColor() for each in series}) == len(series) == 5


def test_curve_that_begins_late_has_no_padding(plot):
    plot.append(1, {"loss": 3.0})
    plot.append(2, {"loss": 2.0, "pseudo": 1.0})
    plot.append(3, {"loss": 1.0, "pseudo": 0.5})
    plot.flush()
    assert _curve(plot, "loss") == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert _curve(plot, "pseudo") == ([2, 3], [1.0, 0.5])


def test_value_that_is_no_number_leaves_its_curve_where_it_was(plot):
    plot.append(1, {"loss": 3.0, "supervised": 2.0})
    plot.append(2, {"loss": math.nan, "supervised": 1.0})
    plot.append(3, {"pseudo": math.nan})
    plot.flush()
    assert _curve(plot, "loss") == ([1, 2], [3.0, 3.0])
    assert plot.names == ("loss", "supervised")


def test_views_are_told_once_a_flush_and_only_if_there_is_something(plot):
    plot.append(1, {"loss": 3.0})
    plot.append(2, {"loss": 2.0})
    plot.flush()
    table = plot.losses.GetNthPlotSeriesNode(0).GetTableNode()
    told = []
    table.AddObserver("ModifiedEvent", lambda *_: told.append(1))
    for iteration in range(3, 1000):
        plot.append(iteration, {"loss": 1.0})
    assert told == []
    assert plot.flush()
    assert len(told) == 1 or len(told) == 2  # the table in it, and the node
    told.clear()
    assert not plot.flush()
    assert told == []


def test_curves_of_a_run_folder_come_back(plot):
    plot.load({"loss": [(1, 3.0), (2, 2.0)], "supervised": [(1, 1.0), (2, 0.5)], "validation dice": [(2, 0.7)]})
    plot.flush()
    assert _series_names(plot.scores) == []
    plot.append(3, {"loss": 1.0, "supervised": 0.4, "validation dice": 0.8})
    plot.flush()
    assert _curve(plot, "supervised") == ([1, 2, 3], [1.0, 0.5, 0.4])
    assert _curve(plot, "validation dice") == ([2, 3], [0.7, 0.8])


def test_nothing_stays_in_the_scene_when_it_is_removed(plot, scene):
    before = scene.GetNumberOfNodes()
    plot.append(1, {"loss": 3.0})
    plot.flush()
    assert scene.GetNumberOfNodes() > before
    plot.remove()
    assert not scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode")
    assert not scene.GetNumberOfNodesByClass("vtkMRMLTableNode")


def test_for_a_timer_one_node_comes_or_goes_a_flush(plot, scene):
    for iteration in (1, 2):
        plot.append(iteration, {"loss": 3.0, "supervised": 1.0})
    plot.flush()
    later = CurvePlot(scene, "second run", former=plot)
    later.append(1, {"loss": 2.0})
    later.append(2, {"loss": 1.0})
    counts = [_plot_nodes(scene)]
    while later.flush(at_once=False):
        counts.append(_plot_nodes(scene))
    assert {abs(b - a) for a, b in itertools.pairwise(counts)} <= {0, 1}
    assert counts[0] == 5  # two charts, a table, two series
    assert counts[-1] == 4
    assert _curve(later, "loss") == ([1, 2], [2.0, 1.0])


def test_curves_from_before_are_read_a_little_at_a_time_and_come_first(scene):
    rows = [(iteration, "loss", 1 / iteration) for iteration in range(1, 2001)]
    folder = SimpleNamespace(request=lambda: SimpleNamespace(label="run"), metric_rows=lambda: iter(rows))
    curves = RunCurves(scene, SimpleNamespace(folder=folder))
    curves.take(Event("metric", 0.0, {"iteration": 1500, "values": {"loss": 9.0}}))
    curves.show(budget_ms=0)
    assert not curves.plot.names, "one row isn't all of them"
    curves.take(Event("metric", 0.0, {"iteration": 1501, "values": {"loss": 8.0}}))
    curves.show()
    iterations, values = _curve(curves.plot, "loss")
    assert iterations == list(range(1, 1502)), "what is resumed goes on where the events begin"
    assert values[-3:] == [1 / 1499, 9.0, 8.0]


def test_empty_chart_has_a_curve_that_nobody_sees_since_without_one_a_view_stays_black(scene):
    chart = empty_chart(scene, "curves", "Wait")
    nodes = scene.GetNumberOfNodes()
    assert empty_chart(scene, "curves", "Wait") is chart
    assert scene.GetNumberOfNodes() == nodes
    series = chart.GetNthPlotSeriesNode(0)
    assert series.GetTableNode().GetNumberOfRows() == 2
    assert series.GetOpacity() == 0
    assert not chart.GetLegendVisibility()
    assert not any(node.GetSaveWithScene() for node in (chart, series, series.GetTableNode()))


def _plot_nodes(scene) -> int:
    kinds = ("vtkMRMLPlotChartNode", "vtkMRMLTableNode", "vtkMRMLPlotSeriesNode")
    return sum(scene.GetNumberOfNodesByClass(kind) for kind in kinds)


def _columns(table) -> dict[str, list[float]]:
    names = [table.GetColumnName(n) for n in range(table.GetNumberOfColumns())]
    return {name: slicer.util.arrayFromTableColumn(table, name).tolist() for name in names}


def _curve(plot: CurvePlot, name: str) -> tuple[list[float], list[float]]:
    for chart in plot.charts:
        for n in range(chart.GetNumberOfPlotSeriesNodes()):
            series = chart.GetNthPlotSeriesNode(n)
            if series.GetName() == name:
                columns = _columns(series.GetTableNode())
                return columns[series.GetXColumnName()], columns[series.GetYColumnName()]
    raise AssertionError(f"no curve {name}")


def _series_names(chart) -> list[str]:
    return [chart.GetNthPlotSeriesNode(n).GetName() for n in range(chart.GetNumberOfPlotSeriesNodes())]
