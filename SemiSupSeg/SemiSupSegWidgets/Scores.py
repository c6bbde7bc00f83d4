"""How well the results agree with the labels that there are: measured beside Slicer, shown and exported."""

from pathlib import Path

import qt
from slicer.i18n import tr as _

from SemiSupSegLib.errors import SemiSupSegError
from SemiSupSegLib.slicer_bridge.compute import Compute
from SemiSupSegLib.slicer_bridge.console_tasks import evaluate_task
from SemiSupSegLib.slicer_bridge.score_table import score_rows, write_scores

from .ErrorBox import askWhereToSave, showError
from .Panel import fitHeight


class Scores:
    """The part of the panel *Results* that measures.

    Parameters
    ----------
    desk : Desk
    ui : namespace
        The panel's widgets: ``measureButton``, ``exportScoresButton`` and ``scoresTable``.

    Attributes
    ----------
    rows : list of tuple of str
        What was measured; empty before.
    """

    def __init__(self, desk, ui):
        self.rows = []
        self._desk = desk
        self._table = ui.scoresTable
        self._task = None
        self._table.verticalHeader().hide()
        self._table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self._table.hide()
        ui.measureButton.connect("clicked(bool)", lambda checked=False: self.measure())
        ui.exportScoresButton.connect("clicked(bool)", lambda checked=False: self.export())

    def measure(self) -> None:
        """Let a process of its own compare predictions with the cohort's labels."""
        with self._desk.attempt(waitCursor=False):
            project = self._desk.logic.project
            self._task = evaluate_task(Compute(self._desk.python), project.predictions.folder, project.path)
            self._desk.checking.add("results")
        self._desk.refreshNow()

    def poll(self) -> None:
        """Take in what the process says."""
        if self._task is None:
            return
        self._task.poll()
        if self._task.is_running:
            return
        task, self._task = self._task, None
        self._desk.checking.discard("results")
        if task.answer is not None and "cases" in task.answer:
            self.rows = score_rows(task.answer)
            self._show()
        elif not task.was_cancelled:
            error = task.error or SemiSupSegError(_("The results couldn't be measured."), _("The details say why."))
            showError(error, "\n".join(task.lines))
        self._desk.refresh()

    def _show(self) -> None:
        table = self._table
        table.setRowCount(len(self.rows))
        for row, cells in enumerate(self.rows):
            for column, text in enumerate(cells):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.show()  # hidden, it would find its rows higher than they are
        table.resizeRowsToContents()
        fitHeight(table, least=60, most=210)

    def export(self) -> None:
        """Ask for a file, and write the measurements to it."""
        path = askWhereToSave(_("Export the table"), str(Path.home() / "scores.csv"), "CSV (*.csv)", "csv")
        if path:
            with self._desk.attempt():
                write_scores(path, self.rows)

    def forget(self) -> None:
        """End what is being measured, and forget what was."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._desk.checking.discard("results")
        self.rows = []
        self._table.hide()
