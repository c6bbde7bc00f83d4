"""Asks for a folder of scans, and for those of the labels and scribbles that belong to them."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from .Panel import RESOURCES


class AddFolderDialog:
    """The dialog; its properties say what was chosen.

    Parameters
    ----------
    folder : str
        Where file dialogs begin.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self.widget = slicer.util.loadUI(str(RESOURCES / "AddFolderDialog.ui"))
        self.widget.setParent(slicer.util.mainWindow(), qt.Qt.Dialog)  # else it may open behind the window
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.ui.imagesButton.connect("clicked(bool)", lambda checked=False: self._browse(self.ui.imagesLineEdit))
        self.ui.labelsButton.connect("clicked(bool)", lambda checked=False: self._browse(self.ui.labelsLineEdit))
        self.ui.scribblesButton.connect("clicked(bool)", lambda checked=False: self._browse(self.ui.scribblesLineEdit))
        self.ui.imagesLineEdit.connect("textChanged(QString)", self._onImagesChanged)
        for edit in (self.ui.labelsLineEdit, self.ui.scribblesLineEdit):
            edit.connect("textChanged(QString)", lambda text: self._enableValues())
        self.ui.buttonBox.connect("accepted()", self.widget.accept)
        self.ui.buttonBox.connect("rejected()", self.widget.reject)
        self._onImagesChanged("")
        self._enableValues()

    def exec_(self) -> bool:
        """Ask; whether it was answered."""
        return bool(self.widget.exec_())

    @property
    def images(self) -> str:
        """Folder of the scans."""
        return self.ui.imagesLineEdit.text.strip()

    @property
    def labels(self) -> str | None:
        """Folder of the labels, None if there are none."""
        return self.ui.labelsLineEdit.text.strip() or None

    @property
    def scribbles(self) -> str | None:
        """Folder of the scribbles, None if there are none."""
        return self.ui.scribblesLineEdit.text.strip() or None

    @property
    def labelValues(self) -> str | None:
        """Which class has which value in the labels, None if the files say it."""
        return self.ui.labelValuesLineEdit.text.strip() or None

    @property
    def scribbleValues(self) -> str | None:
        """Which class has which value in the scribbles, None if the files say it."""
        return self.ui.scribbleValuesLineEdit.text.strip() or None

    def _browse(self, edit) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Choose a folder"), edit.text or self._folder)
        if folder:
            edit.text = folder
            self._folder = folder

    def _enableValues(self) -> None:
        self.ui.labelValuesLineEdit.enabled = self.labels is not None
        self.ui.scribbleValuesLineEdit.enabled = self.scribbles is not None

    def _onImagesChanged(self, text: str) -> None:
        isFolder = bool(text.strip()) and Path(text.strip()).is_dir()
        ok = self.ui.buttonBox.button(qt.QDialogButtonBox.Ok)
        ok.enabled = isFolder
        ok.toolTip = "" if isFolder else _("Choose the folder of the scans.")
