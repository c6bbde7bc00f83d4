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


def ask(text: str, details: str = "", isHarmful: bool = False) -> bool:
    """Ask a question that Yes or No answers; Yes in tests. What can't be undone isn't what Enter does."""
    yes, no = qt.QMessageBox.Yes, qt.QMessageBox.No
    return choose(text, details, {yes: True, no: False}, default=no if isHarmful else yes, escape=no, inTests=True)


def choose(text: str, details: str, answers: dict, default, escape, inTests):
    """Ask a question with some answers.

    Parameters
    ----------
    text, details : str
        The question, and what to know before it is answered.
    answers : dict
        Standard buttons, or texts of buttons, and what each means.
    default, escape : key of `answers`
        What Enter and Escape do.
    inTests : object
        The answer where nobody is there to give one.
    """
    if slicer.app.testingEnabled():
        return inTests
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Question)
    box.setWindowTitle(_("Semi-Supervised Segmentation"))
    box.setText(text)
    box.setInformativeText(details)
    buttons = {}
    for each in answers:
        buttons[each] = box.addButton(each, qt.QMessageBox.AcceptRole) if isinstance(each, str) else box.addButton(each)
    box.setDefaultButton(buttons[default])
    box.setEscapeButton(buttons[escape])
    slicer.app.setOverrideCursor(qt.Qt.ArrowCursor)  # it is asked amid work, too, which has a wait cursor
    box.exec_()
    slicer.app.restoreOverrideCursor()
    clicked = box.clickedButton()
    return next((answer for each, answer in answers.items() if buttons[each] == clicked), answers[escape])


def askWhereToSave(title: str, path: str, files: str, suffix: str) -> str:
    """Ask for a file to write, which gets the suffix if it has none; empty if nobody chose one.

    Unlike Qt's own question, this one adds the suffix before it asks whether a file may be replaced.
    """
    dialog = qt.QFileDialog(slicer.util.mainWindow(), title, path, files)
    dialog.setAcceptMode(qt.QFileDialog.AcceptSave)
    dialog.setDefaultSuffix(suffix)
    dialog.selectFile(path)
    return dialog.selectedFiles()[0] if dialog.exec_() else ""
