"""Work that is done a little at a time, between whatever else the window has to do."""

import time

import qt

PAUSE_MILLISECONDS = 10
BUDGET_SECONDS = 0.01
"""How long steps follow each other at once; a longer step is the last of its turn."""


class Steps:
    """One piece of work at a time; a newer one takes the place of the one before.

    Parameters
    ----------
    attempt : callable
        Context in which errors are shown to the person, see `Desk.attempt`.
    """

    def __init__(self, attempt):
        self._attempt = attempt
        self._steps = None
        self._then = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MILLISECONDS)
        self._timer.connect("timeout()", self._goOn)

    def start(self, steps, then) -> None:
        """Begin with a generator; `then` takes what it returns, in a turn of its own."""
        self.cancel()
        self._steps, self._then = steps, then
        self._timer.start()

    def cancel(self) -> None:
        """Leave what isn't done yet undone."""
        self._timer.stop()
        if self._steps is not None:
            self._steps.close()
        self._steps = self._then = None

    def _goOn(self) -> None:
        steps, then = self._steps, self._then
        self._steps = None  # an error ends the work, and a message box runs an event loop of its own
        with self._attempt(waitCursor=False):
            if steps is None:
                self._then = None
                then()
                return
            end = time.perf_counter() + BUDGET_SECONDS
            try:
                while time.perf_counter() < end:
                    next(steps)
                self._steps = steps
            except StopIteration as last:
                result = last.value
                self._then = lambda: then(result)
            self._timer.start()
