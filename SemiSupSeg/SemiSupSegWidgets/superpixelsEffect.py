"""The superpixel proposals as an effect of Slicer's Segment Editor, where it is installed."""

from pathlib import Path

_EFFECT = Path(__file__).resolve().parents[1] / "SemiSupSegEffects" / "SegmentEditorSuperpixelsEffect.py"

_registered = []


def registerSuperpixelsEffect() -> None:
    """Register the effect; Slicer then offers it in its own Segment Editor, too."""
    if _registered or not _EFFECT.is_file():
        return
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    instance = effects.qSlicerSegmentEditorScriptedEffect(None)
    instance.setPythonSource(_EFFECT.as_posix())
    instance.self().register()
    _registered.append(instance.name)


def superpixelsEffectOf(editor):
    """The effect of a Segment Editor widget; None where there is none."""
    effect = editor.effectByName(superpixelsEffectName()) if _registered else None
    return None if effect is None else effect.self()


def superpixelsEffectName() -> str:
    """The name that the effect goes by; empty where there is none."""
    return _registered[0] if _registered else ""
