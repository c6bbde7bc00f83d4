"""The sample of the Sample Data module: a small scribbled cohort, made on the spot, so that it works offline."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SemiSupSegLib.phantom import make_phantom_cohort

SAMPLE_NAME = "SemiSupSegPhantom"


def makeSampleCohort(folder: Path) -> Path:
    """A cohort of ten invented scans, three of them scribbled; made if it isn't there. The cohort's file."""
    path = Path(folder) / "cohort.json"
    if not path.is_file():
        make_phantom_cohort(folder, n_cases=10, shape=(32, 64, 64), n_scribbled=3, n_validation=1, n_test=2)
    return path


def sampleFolder() -> Path:
    """Where Sample Data puts it: in Slicer's cache."""
    return Path(slicer.app.cachePath) / "SemiSupSeg-sample"


def registerSampleData() -> None:
    """Offer the sample in the Sample Data module."""
    from SampleData import SampleDataLogic

    icons = Path(__file__).resolve().parents[1] / "Resources" / "Icons"
    SampleDataLogic.registerCustomSampleDataSource(
        category=_("Semi-Supervised Segmentation"),
        sampleName=SAMPLE_NAME,
        uris="",  # nothing is downloaded
        fileNames="cohort.json",
        thumbnailFileName=str(icons / "SemiSupSeg.png"),
        customDownloader=openSample,
    )


def openSample(source=None):
    """Make the sample cohort and open it in the module; the volume node of its first case."""
    path = makeSampleCohort(sampleFolder())
    slicer.util.selectModule("SemiSupSeg")
    widget = slicer.util.getModuleWidget("SemiSupSeg")
    widget.desk.panel("CohortPanel").open(path)
    first = widget.logic.caseRows()[0].id
    widget.desk.panel("AnnotatePanel").showCase(first)
    return widget.logic.project.image_node(first)
