"""What every panel is: a ``.ui`` file, its widgets by name, and buttons that say why they don't work."""

from pathlib import Path

import slicer

from SemiSupSegLib.slicer_bridge.panel_state import Actions, Situation

RESOURCES = Path(__file__).resolve().parents[1] / "Resources" / "UI"


class Panel:
    """A panel made of ``Resources/UI/<class name>.ui``.

    Parameters
    ----------
    desk : Desk
        What the panels share.
    """

    def __init__(self, desk):
        self.desk = desk
        self.logic = desk.logic
        self.widget = slicer.util.loadUI(str(RESOURCES / f"{type(self).__name__}.ui"))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._tips: dict[str, str] = {}

    def refresh(self, now: Situation) -> None:
        """Show what is known now."""

    def onCohortChanged(self) -> None:
        """Another cohort was opened, or the one that was open closed."""

    def onOpened(self) -> None:
        """The panel was unfolded."""

    def onClosed(self) -> None:
        """The panel was folded, or the module left."""

    def onTick(self, events: list) -> None:
        """The timer ticked; `events` came from the jobs since the last tick."""

    def onJobOver(self, job) -> None:
        """A job has ended."""

    def onSceneStartClose(self) -> None:
        """The scene is about to be closed; its nodes still exist."""

    def onSceneEndClose(self) -> None:
        """The scene was closed, or another one loaded."""

    def cleanup(self) -> None:
        """The module is about to be unloaded or reloaded."""

    def enable(self, actions: Actions) -> None:
        """Enable buttons as decided; the tooltip of one that can't work says why."""
        for name, action in actions.items():
            button = getattr(self.ui, name)
            # Slicer puts tooltips into a paragraph, so that long ones are wrapped.
            tip = self._tips.setdefault(name, button.toolTip.removeprefix("<p>").removesuffix("</p>"))
            button.enabled = action.enabled
            button.toolTip = tip if action.enabled else f"{tip}\n({action.why_not})"


def fitHeight(view, least: int, most: int) -> None:
    """Make a table or a list as high as what is in it, within limits in pixels; beyond, it scrolls."""
    if view.inherits("QTableView"):
        height = view.verticalHeader().length() + view.horizontalHeader().sizeHint.height()
    else:
        height = sum(view.sizeHintForRow(row) for row in range(view.count))
    view.setFixedHeight(max(least, min(height + 2 * view.frameWidth, most)))
