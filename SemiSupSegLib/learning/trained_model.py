"""The model that a training leaves: weights, and what prediction and people must know about them."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..files import explained
from ..labels import LabelSchema
from ..models import Model
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
        largest_component=trainer.one_piece,
        mirror=settings.augmentation.mirror,
        whereabouts=trainer.whereabouts.to_json(),
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
