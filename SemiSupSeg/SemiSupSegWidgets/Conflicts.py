"""Annotations that the scene and the cohort's files hold in different versions: ask which is to be kept."""

from slicer.i18n import tr as _

from .ErrorBox import choose


def resolveConflicts(desk, nodes, isAdded: bool = False) -> None:
    """Ask, for each annotation node that differs from the cohort's file, what is to become of the two.

    Both are kept where the answer can't be obeyed, for example since the scene's can't be written.

    Parameters
    ----------
    desk : Desk
    nodes : list of vtkMRMLSegmentationNode
        What `SemiSupSegLogic.conflicts` or `AddedScene.conflicts` gave.
    isAdded : bool
        Whether they came with a scene that was added to one that may show the same cases.
    """
    # All questions first: an error box doesn't wait, and would lie below the next question.
    answers = [(node, _ask(node.GetName(), isAdded)) for node in nodes]
    for node, keep in answers:
        with desk.attempt():
            try:
                desk.logic.resolveConflict(node, keep)
            except Exception:
                desk.logic.resolveConflict(node, "both")  # else it would go with the case, as if the file held it
                raise


def _ask(name: str, isAdded: bool) -> str:
    if isAdded:
        text = _("'{name}' of the added scene differs from the cohort's file.")
        scene = _("Keep the added scene's")
    else:
        text = _("'{name}' in the scene differs from the cohort's file.")
        scene = _("Keep the scene's")
    cohort, both = _("Keep the file's"), _("Keep both")
    details = _(
        "One of them was painted on without the other. Keep one, and the other is lost; keep both, and the cohort goes "
        "on with the file's, and the other is a hidden segmentation beside it."
    )
    return choose(
        text.format(name=name),
        details,
        {cohort: "cohort", scene: "scene", both: "both"},
        default=cohort,  # strokes go there by themselves, so it is mostly the newer one
        escape=both,
        inTests="scene",
    )
