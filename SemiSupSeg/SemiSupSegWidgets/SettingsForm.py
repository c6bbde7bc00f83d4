"""The *Advanced* form, made of the settings' own descriptions."""

import qt
from slicer.i18n import tr as _

from SemiSupSegLib.slicer_bridge import advanced_form


class SettingsForm:
    """A form with a row for each setting; the texts are kept by the caller.

    Parameters
    ----------
    layout : QVBoxLayout
        Gets the form.
    changed : callable
        Called without arguments when the person changed something.
    """

    def __init__(self, layout, changed):
        self._layout = layout
        self._changed = changed
        self._widget = None
        self._editors = {}

    def build(self, descriptions, method: str, values: dict) -> None:
        """Make the form for a method; `values` are texts by key of what isn't at its default."""
        if self._widget is not None:
            self._layout.removeWidget(self._widget)
            self._widget.deleteLater()
        self._editors = {}
        self._widget = qt.QWidget()
        form = qt.QFormLayout(self._widget)
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        for group, members in advanced_form.form_groups(descriptions, method).items():
            if group:
                heading = qt.QLabel(group.replace("_", " ").capitalize())
                font = heading.font
                font.setBold(True)
                heading.setFont(font)
                form.addRow(heading)
            for each in members:
                editor = self._editor(each, values.get(each.key, advanced_form.setting_text(each.default)))
                editor.toolTip = advanced_form.setting_tip(each)
                label = qt.QLabel(each.key.rpartition(".")[2].replace("_", " "))
                label.toolTip = editor.toolTip
                form.addRow(label, editor)
        self._layout.addWidget(self._widget)

    def texts(self) -> dict:
        """What the form says, by key."""
        return {key: read() for key, read in self._editors.items()}

    def _editor(self, description, text: str):
        if description.choices is not None:
            combo = qt.QComboBox()
            combo.addItems(list(description.choices))
            combo.setCurrentText(text)
            combo.setFocusPolicy(qt.Qt.StrongFocus)
            combo.connect("currentIndexChanged(int)", lambda index: self._changed())
            self._editors[description.key] = lambda: combo.currentText
            return combo
        if isinstance(description.default, bool):
            box = qt.QCheckBox()
            box.checked = text == "true"
            box.connect("toggled(bool)", lambda on: self._changed())
            self._editors[description.key] = lambda: "true" if box.checked else "false"
            return box
        edit = qt.QLineEdit(text)
        edit.setPlaceholderText(advanced_form.setting_text(description.default) or _("automatic"))
        edit.connect("editingFinished()", self._changed)
        self._editors[description.key] = lambda: edit.text
        return edit
