"""The superpixel proposals as an effect of Slicer's Segment Editor, where it is installed."""

from pathlib import Path

import slicer

_EFFECT = Path(__file__).resolve().parents[1] / "SemiSupSegEffects" / "SegmentEditorSuperpixelsEffect.py"

_NAME = "Superpixels"  # as the effect calls itself


def registerSuperpixelsEffect() -> None:
    """Register the effect; Slicer then offers it in its own Segment Editor, too."""
    if superpixelsEffectName() or not _EFFECT.is_file():
        return
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    instance = effects.qSlicerSegmentEditorScriptedEffect(None)
    instance.setPythonSource(_EFFECT.as_posix())
    instance.self().register()


def superpixelsEffectName() -> str:
    """The name that the effect goes by; empty where there is none. Slicer knows, also after a reload of the module."""
    registered = slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects()
    return _NAME if any(effect.name == _NAME for effect in registered) else ""


def superpixelsEffectOf(editor):
    """The effect of a Segment Editor widget; None where there is none."""
    effect = editor.effectByName(_NAME) if superpixelsEffectName() else None
    return None if effect is None else effect.self()
