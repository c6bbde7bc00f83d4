"""What a scene remembers of the module: which cohort, which case, and the settings of the panels."""

import os
from pathlib import Path

import slicer
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class SemiSupSegParameterNode:
    """The module's parameter node.

    Attributes
    ----------
    cohortPath : str
        The cohort's file; empty if none is open.
    cohortPathFromScene : str
        The same, relative to the folder that the scene was loaded from or saved to.
    currentCase : str
        ID of the case that is shown.
    method : str
        Training method.
    minutes : float
        Time budget of a training.
    settings : dict
        Other settings of a training by key, as text.
    """

    cohortPath: str = ""
    cohortPathFromScene: str = ""
    currentCase: str = ""
    method: str = "sp3"
    minutes: float = 20.0
    settings: dict[str, str]


def parameterTexts(parameterNode: SemiSupSegParameterNode) -> dict[str, str]:
    """Everything that a parameter node holds, as the scene file says it."""
    node = parameterNode.parameterNode
    return {name: node.GetParameter(name) for name in node.GetParameterNames()}


def setParameterTexts(parameterNode: SemiSupSegParameterNode, texts: dict[str, str]) -> None:
    """Let a parameter node hold what `parameterTexts` gave, and nothing else."""
    node = parameterNode.parameterNode
    for name in set(node.GetParameterNames()) - set(texts):
        node.UnsetParameter(name)
    for name, text in texts.items():
        node.SetParameter(name, text)


def rememberCohort(parameterNode: SemiSupSegParameterNode, path: Path) -> None:
    """Note the cohort's path, also as seen from the scene, so that both may be moved to another computer together."""
    parameterNode.cohortPath = str(path)
    root = slicer.mrmlScene.GetRootDirectory()
    try:
        parameterNode.cohortPathFromScene = Path(os.path.relpath(path, root)).as_posix() if root else ""
    except ValueError:  # another drive of Windows
        parameterNode.cohortPathFromScene = ""


def rememberedCohort(parameterNode: SemiSupSegParameterNode) -> Path | None:
    """The cohort's file that a scene names, if it is where the scene says."""
    root = slicer.mrmlScene.GetRootDirectory()
    fromScene = parameterNode.cohortPathFromScene
    candidates = [Path(root) / fromScene] if root and fromScene else []
    candidates += [Path(parameterNode.cohortPath)] if parameterNode.cohortPath else []
    return next((Path(os.path.normpath(each)) for each in candidates if each.is_file()), None)
