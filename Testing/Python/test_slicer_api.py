"""Every name of Slicer, CTK, Qt and VTK that the module uses exists, and is used as what it is."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import slicer_api


def test_every_name_that_is_used_is_one_of_slicers():
    table = json.loads(slicer_api.TABLE.read_text(encoding="utf-8"))
    assert slicer_api.missing(slicer_api.uses(), table) == []


def test_table_holds_nothing_that_isnt_used():
    table, found = json.loads(slicer_api.TABLE.read_text(encoding="utf-8")), slicer_api.uses()
    assert set(table["methods"]) <= found.methods
    assert all(set(names) <= found.names[space] for space, names in table["names"].items())


def test_misspelt_and_misused_names_are_found():
    code = """
def begin():
    timer = qt.QTimer()
    timer.singleShot = True
    timer.interval()
    timer.strat()
    timer.connect("timeuot()", print)
    slicer.util.selctModule("Data")
    node.GetSegmentatoin()
"""
    found = slicer_api.Uses()
    slicer_api._collect(ast.parse(code), {}, set(), found)
    table = {
        "names": {"qt": ["QTimer"], "slicer": ["util"], "slicer.util": ["selectModule"]},
        "members": {"QTimer": {"singleShot": "method", "interval": "property", "start": "method", "connect": "method"}},
        "methods": ["GetSegmentation"],
        "signals": ["timeout()"],
    }
    assert sorted(slicer_api.missing(found, table)) == [
        '"timeuot()"',
        "QTimer.interval is a property, and called",
        "QTimer.singleShot is a method, and set",
        "QTimer.strat",
        "slicer.util.selctModule",
        "….GetSegmentatoin()",
    ]
