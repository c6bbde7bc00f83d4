"""The example for Slicer's Python console runs as it stands in the README, with a shorter training."""

from __future__ import annotations

import re

import pytest
import slicer

from SemiSupSegLib.phantom import SCHEMA as PHANTOM
from SemiSupSegLib.phantom import make_phantom, make_phantom_cohort
from SemiSupSegLib.slicer_bridge.results import add_segmentation, add_volume

pytest_plugins = ["slicer_fixture"]

EXAMPLE = """\
logic = slicer.util.getModuleLogic("SemiSupSeg")
logic.openCohort("~/liver")  # a folder, new or known

case = logic.addCase(getNode("CT"), getNode("Strokes"))  # a scan and its strokes, background included
logic.addFiles("~/more scans")  # scans that nobody annotated

logic.train(minutes=20, blocking=True)  # without blocking: in the background
logic.predict(blocking=True)  # all cases

nodes = logic.results(case)  # nodes.segmentation, nodes.uncertainty, in the scene
print(logic.ranking()[:3])  # the scans to look at next
"""


def test_example_runs(logic, scene, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: logic)
    make_phantom_cohort(tmp_path / "phantom", 2, (16, 24, 24), n_scribbled=1, n_test=0)
    (tmp_path / "phantom" / "images").rename(tmp_path / "more scans")
    phantom = make_phantom((16, 24, 24), 5)
    volume_node = add_volume(phantom.image.array, phantom.image.geometry, scene, "CT")
    add_segmentation(phantom.scribbles, volume_node, PHANTOM, "Strokes", with_background=True)

    quick = "iterations=4, settings=['schedule.unlabeled_start=0.3', 'plan.features=[4, 8]', 'plan.patch=[16, 16, 16]']"
    names = {"slicer": slicer, "getNode": slicer.util.getNode}
    exec(EXAMPLE.replace("minutes=20", quick), names)

    assert names["case"] == "CT"
    segmentation = names["nodes"].segmentation.GetSegmentation()
    found = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
    assert found == list(PHANTOM.names)
    assert [row.has_prediction for row in logic.caseRows()] == [True] * 3
    assert capsys.readouterr().out.startswith("[('")


def test_readme_shows_this_example(repository):
    readme = repository / "README.md"
    blocks = (
        re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL) if readme.exists() else []
    )
    shown = [block for block in blocks if "getModuleLogic" in block]
    if not shown:
        pytest.skip("the README shows no example for the console")
    assert shown == [EXAMPLE]
