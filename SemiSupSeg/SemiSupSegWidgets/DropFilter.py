"""Files that are dropped on a widget."""

import qt


class DropFilter(qt.QObject):
    """Event filter that hands over the paths of dropped files.

    Parameters
    ----------
    take : callable
        Takes a list of paths.
    """

    def __init__(self, take):
        qt.QObject.__init__(self)
        self._take = take

    def eventFilter(self, watched, event) -> bool:
        """Accept files, take them, leave everything else alone."""
        if event.type() in (qt.QEvent.DragEnter, qt.QEvent.DragMove) and event.mimeData().hasUrls():
            event.acceptProposedAction()
            return True
        if event.type() == qt.QEvent.Drop and event.mimeData().hasUrls():
            event.acceptProposedAction()
            paths = [url.toLocalFile() for url in event.mimeData().urls()]
            # The drop ends first: what is taken may show a box.
            qt.QTimer.singleShot(0, lambda: self._take([path for path in paths if path]))
            return True
        return False
