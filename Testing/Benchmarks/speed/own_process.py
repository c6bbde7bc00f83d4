"""Work in a process of its own: so that each side has the memory settings, threads and imports that its users have."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


class OwnProcess:
    """Calls that are answered by another process, which keeps its inputs from call to call.

    Parameters
    ----------
    prepare : callable
        A function of a module. It takes `arguments`, makes the inputs there and returns the work as a function.

    Examples
    --------
    ::

        with OwnProcess(prepare, seed) as work:
            work()  # done there, and timed here
            work.result()  # what came out of it
    """

    def __init__(self, prepare: Callable[..., Callable[[], Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __call__(self) -> None:
        """Do the work and wait for it."""
        self._pipe.send("work")
        self._answer()

    def result(self) -> Any:
        """What the last call returned."""
        self._pipe.send("result")
        return self._answer()

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            error, answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process that works has died") from None
        if error:
            raise RuntimeError(error)
        return answer


def _serve(pipe, prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    try:
        work, result = prepare(*arguments), None
        pipe.send((None, None))
        while True:
            if pipe.recv() == "work":
                result = None  # its memory is given back first
                result = work()
                pipe.send((None, None))
            else:
                pipe.send((None, result))
    except EOFError:
        pass
    except Exception as error:
        pipe.send((f"{type(error).__name__}: {error}", None))
