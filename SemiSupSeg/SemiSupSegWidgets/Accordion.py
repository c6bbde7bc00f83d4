"""Folding panels of which one is open at a time."""

import ctk
import qt

PANEL_WIDTH = 490
"""Of all panels the same, so that the views keep their size when another panel is opened."""


class Accordion:
    """Panels below each other under their titles.

    Parameters
    ----------
    layout : QLayout
        Gets the panels.
    """

    def __init__(self, layout):
        self._layout = layout
        self._sections = {}
        self._panels = {}
        self._opened = ""
        self._isEntered = False

    def add(self, title: str, panel) -> None:
        """Put a panel below the others, folded; it goes by the name of its class."""
        name = type(panel).__name__
        section = ctk.ctkCollapsibleButton()
        section.text = title
        section.name = f"{name}Section"
        panel.widget.setMinimumWidth(PANEL_WIDTH)
        section.collapsed = True
        section.collapsedHeight = 0  # no gap below the title
        qt.QVBoxLayout(section).addWidget(panel.widget)
        section.layout().setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(section)
        self._sections[name], self._panels[name] = section, panel
        section.connect("contentsCollapsed(bool)", lambda collapsed: self._onCollapsed(name, collapsed))

    def open(self, name: str) -> None:
        """Open a panel; the one that was open is folded."""
        self._sections[name].collapsed = False

    @property
    def opened(self) -> str:
        """Name of the open panel; empty if all are folded."""
        return self._opened

    def enter(self) -> None:
        """The module is shown."""
        if not self._isEntered:
            self._isEntered = True
            self._tell("onOpened")

    def exit(self) -> None:
        """The module is left."""
        if self._isEntered:
            self._tell("onClosed")
            self._isEntered = False

    def cleanup(self) -> None:
        """Delete all panels; reloading the module would only hide them."""
        for section in self._sections.values():
            section.blockSignals(True)
            section.setParent(None)
            section.deleteLater()
        self._sections, self._panels, self._opened = {}, {}, ""

    def _tell(self, what: str) -> None:
        if self._isEntered and self._opened:
            getattr(self._panels[self._opened], what)()

    def _onCollapsed(self, name: str, collapsed: bool) -> None:
        if collapsed and name == self._opened:
            self._tell("onClosed")
            self._opened = ""
        elif not collapsed and name != self._opened:
            before = self._opened
            if before:
                self._sections[before].collapsed = True
            self._opened = name
            self._tell("onOpened")
