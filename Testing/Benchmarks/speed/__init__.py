"""``python -m Testing.Benchmarks speed``: the same work done by this project and by others, side by side.

An area is a module here with a function ``rows(options)`` that yields one `rows.Row` after another, named in
`command.AREAS`. Each runs in a process of its own. `measure.side_by_side` makes a row of two calls and of what compares
their results, `measure.peak_memory` tells what work takes in a fresh process, `rows.attempt` turns an exception into a
row that says so, and `rows.require` imports a peer that needn't be installed.
"""

from .command import main

__all__ = ["main"]
