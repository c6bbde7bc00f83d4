"""Annotations that the scene and the cohort's files hold in different versions: ask which is to be kept."""

from slicer.i18n import tr as _

from .ErrorBox import choose


def resolveConflicts(logic, nodes) -> None:
    """Ask, for each annotation node that differs from the cohort's file, what is to become of the two.

    Parameters
    ----------
    logic : SemiSupSegLogic
    nodes : list of vtkMRMLSegmentationNode
        What `SemiSupSegLogic.conflicts` or `AddedScene.conflicts` gave.
    """
    scene, cohort, both = _("Keep the scene's"), _("Keep the file's"), _("Keep both")
    for node in nodes:
        keep = choose(
            _("'{name}' in the scene differs from the cohort's file.").format(name=node.GetName()),
            _(
                "Somebody painted on one of them since the scene was saved. Keep one, and the other is lost; keep "
                "both, and the cohort goes on with the file's, and the scene's is a hidden segmentation beside it."
            ),
            {cohort: "cohort", scene: "scene", both: "both"},
            default=cohort,  # strokes go there by themselves, so it is mostly the newer one
            escape=both,
            inTests="scene",
        )
        logic.resolveConflict(node, keep)
