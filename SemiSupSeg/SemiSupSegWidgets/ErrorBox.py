"""Errors as people see them: one sentence, what to do, and the details folded away."""

import logging

import qt
import slicer
from slicer.i18n import tr as _

_open = []


def showError(error, report: str = "") -> None:
    """Show an error in a box that doesn't hold up anything.

    Parameters
    ----------
    error : SemiSupSegError
    report : str
        For somebody who helps; folded away, and copied by a button.
    """
    logging.error(f"{error.message} {error.remedy}")
    if slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
        return
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Warning)
    box.setWindowTitle(_("Semi-Supervised Segmentation"))
    box.setText(error.message)
    box.setInformativeText(error.remedy)
    okButton = box.addButton(qt.QMessageBox.Ok)
    box.setDefaultButton(okButton)
    box.setEscapeButton(okButton)  # with three buttons Qt doesn't guess it
    if report:
        box.setDetailedText(report)
        copy = box.addButton(_("Copy report"), qt.QMessageBox.ActionRole)
        copy.connect("clicked()", lambda: slicer.app.clipboard().setText(report))
    box.setAttribute(qt.Qt.WA_DeleteOnClose)
    box.connect("finished(int)", lambda result: _open.remove(box))
    _open.append(box)
    box.open()


def ask(text: str, details: str = "") -> bool:
    """Ask a question that Yes or No answers; Yes in tests."""
    return slicer.util.confirmYesNoDisplay(text, windowTitle=_("Semi-Supervised Segmentation"), detailedText=details)
