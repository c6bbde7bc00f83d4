"""The model that a training leaves: weights, and what prediction and people must know about them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch

from .. import __version__
from ..files import explained
from ..labels import IGNORE, LabelSchema
from ..models import Model
from .cases import TrainingCase
from .checkpoints import save_tensors
from .trainer import Trainer


def save_model(
    folder: Path,
    trainer: Trainer,
    *,
    name: str,
    schema: LabelSchema,
    seconds: float,
    best: dict[str, float] | None,
) -> tuple[Path, ...]:
    """Write a model, its description last.

    Parameters
    ----------
    folder : pathlib.Path
        The model's folder; holds ``best.safetensors`` already where there was a best network.
    trainer : Trainer
        After its last step.
    seconds : float
        Time that the training took.
    best : dict or None
        ``dice`` and ``iteration`` of the network that was best on validation cases; it is then the recommended one.

    Returns
    -------
    tuple of pathlib.Path
        The model's files.
    """
    settings = trainer.settings
    with explained("write the model to", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for network in ("student", "teacher"):
        save_tensors(folder / f"{network}.safetensors", getattr(trainer, network).state_dict())
    model = Model(
        folder=folder,
        name=name,
        schema=schema,
        method=settings.method,
        plan=trainer.plan.to_json(),
        recommended="best" if best is not None else "teacher",
        largest_component=trainer.plan.largest_component,
        mirror=settings.augmentation.mirror,
        summary={
            "iterations": trainer.iteration,
            "planned_iterations": trainer.iterations,
            "seconds": round(seconds, 1),
            "annotated_cases": sum(case.annotation is not None for case in trainer.cases),
            "unlabeled_cases": sum(case.annotation is None for case in trainer.cases),
            "seed": settings.seed,
            "device": str(trainer.device),
            "versions": versions(),
            "best": best,
        },
    )
    model.save_description()
    return (folder / "model.json", *sorted(folder.glob("*.safetensors")))


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"SemiSupSeg": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "system": platform.system()}  # fmt: skip


def one_piece_classes(wish: str, schema: LabelSchema, references: Sequence[TrainingCase]) -> tuple[int, ...]:
    """Classes of which the largest component only is kept.

    Parameters
    ----------
    wish : str
        ``auto`` (the classes that are one piece in every dense label), ``on``, ``off``, or classes by name.
    references : sequence of TrainingCase
        Training cases with dense labels. What a validation case shows must not decide how a model is made.
    """
    classes = tuple(range(1, schema.n_classes))
    if wish in ("on", "off"):
        return classes if wish == "on" else ()
    if wish != "auto":
        return tuple(sorted(schema.index_of(name.strip()) for name in wish.split(",")))
    labels = [case.annotation.cpu().numpy() for case in references]
    shown = {label for label in classes if any((each == label).any() for each in labels)}
    return tuple(label for label in classes if label in shown and all(_is_one_piece(each, label) for each in labels))


def _is_one_piece(labels: np.ndarray, label: int) -> bool:
    """Whether a class has one component at most; voxels at which resampling found a tie connect."""
    own = labels == label
    components = scipy.ndimage.label(own | (labels == IGNORE))[0]
    return len(np.unique(components[own])) <= 1
