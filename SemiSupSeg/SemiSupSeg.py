import sys
from pathlib import Path

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

try:
    import SemiSupSegLib
except ImportError:
    # In a source checkout Slicer knows this folder only; the library lies beside it.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    import SemiSupSegLib


class SemiSupSeg(ScriptedLoadableModule):
    """What Slicer shows about the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Semi-Supervised Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["SemiSupSeg contributors"]
        self.parent.helpText = _(
            "Train a segmentation model of your own from scribbles on a few scans and from the scans that nobody "
            "annotated, on this computer. No scan leaves it. See the "
            '<a href="https://github.com/SemiSupSeg/SlicerSemiSupSeg#readme">documentation</a>.'
        )
        self.parent.acknowledgementText = _(
            "The methods follow SP3 (arXiv 2411.11636), SGRS (arXiv 2411.04493) and "
            "Embedding Matching (arXiv 2407.04638)."
        )


class SemiSupSegWidget(ScriptedLoadableModuleWidget):
    """The module's panel."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SemiSupSegLogic()


class SemiSupSegLogic(ScriptedLoadableModuleLogic):
    """What the panel does, without the panel."""

    @property
    def version(self) -> str:
        return SemiSupSegLib.__version__


class SemiSupSegTest(ScriptedLoadableModuleTest):
    """Run by ctest and by the Reload and Test button."""

    def runTest(self):
        self.test_torch_stays_out_of_slicer()

    def test_torch_stays_out_of_slicer(self):
        self.assertTrue(SemiSupSegLogic().version)
        self.assertNotIn("torch", sys.modules)
