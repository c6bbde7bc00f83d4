"""Prediction: from an image on its own grid to labels, probabilities and uncertainty on that same grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..labels import LabelSchema
from ..models import Model
from ..segmentation_file import write_segmentation
from ..training_settings import PredictionSettings
from ..volume import (
    Geometry,
    Volume,
    check_image,
    resample_probabilities,
    write_volume,
)
from .checkpoints import load_tensors
from .devices import autocast, choose_device, empty_cache, prefers_bfloat16, prepare_process
from .memory import is_out_of_memory
from .networks import SegmentationNetwork, build_network
from .plan import Plan, prepare_image
from .postprocessing import keep_largest_components
from .sliding_window import sliding_window

_SLAB_VOXELS = 4_000_000


class Stopped(Exception):
    """Raised inside a long prediction when its owner wants it to end."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image, all on the image's own grid, arrays (k, j, i).

    Attributes
    ----------
    labels : numpy.ndarray
        Class indices, uint8.
    probabilities : numpy.ndarray or None
        ``(C, k, j, i)`` float32.
    uncertainty : numpy.ndarray or None
        Entropy over the entropy of a coin, clipped to 0..1, float32.
    score : float
        Uncertainty of the case, 0..1: mean uncertainty over what is, or may be, a structure.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    uncertainty: np.ndarray | None
    score: float


class Predictor:
    """A trained network that predicts images.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the device.
    plan : Plan
        How it wants its images.
    device : torch.device
        Where it computes.
    settings : PredictionSettings
        Overlap, mirroring, precision.
    largest_component : tuple of int
        Classes of which only the largest component is kept.
    mirror : tuple of bool
        Axes (i, j, k) that may be mirrored.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        device: torch.device,
        settings: PredictionSettings | None = None,
        largest_component: tuple[int, ...] = (),
        mirror: tuple[bool, bool, bool] = (False, False, False),
    ):
        self.network = network
        self.plan = plan
        self.device = device
        # Trained on another device perhaps: half precision is only worth it where it is fast.
        self.precision = plan.precision if prefers_bfloat16(device) else "float32"
        self.settings = settings or PredictionSettings()
        self.largest_component = largest_component
        self.mirror_axes = [2 - axis for axis, allowed in enumerate(mirror) if allowed and self.settings.mirroring]

    @classmethod
    def of_model(cls, model: Model, settings: PredictionSettings) -> Predictor:
        """The predictor of a model on disk."""
        device = choose_device(settings.device)
        prepare_process(device, settings.threads)
        plan = Plan.from_json(model.plan)
        network = load_network(plan, model.weights_file(settings.network)).to(device)
        components = {"auto": model.largest_component, "on": tuple(range(1, plan.n_classes)), "off": ()}
        return cls(network, plan, device, settings, components[settings.largest_component], model.mirror)

    def on_plan_grid(self, image: Tensor, on_window: Callable[[float], None] = lambda fraction: None) -> Tensor:
        """Probabilities ``(C, k, j, i)`` of a prepared image ``(k, j, i)`` on the plan's grid.

        They are put together where the image lies, and in the computer's memory if that is too small for them.
        """
        batch_size = 2 if self.plan.dimensions == 3 else 16
        try:
            return self._slide(image, batch_size, on_window)
        except RuntimeError as error:
            if image.device.type == "cpu" or not is_out_of_memory(error):
                raise
        empty_cache(self.device)
        return self._slide(image.cpu(), 1, on_window)

    def _slide(self, image: Tensor, batch_size: int, on_window: Callable[[float], None]) -> Tensor:
        with torch.inference_mode():
            return sliding_window(
                image.float(),
                self.plan.patch_shape,
                self._forward,
                self.plan.n_classes,
                overlap=self.settings.overlap,
                mirror_axes=self.mirror_axes,
                batch_size=batch_size,
                on_window=on_window,
            )

    def __call__(
        self, volume: Volume, on_window: Callable[[float], None] = lambda fraction: None, name: str = "The image"
    ) -> Prediction:
        """Predict an image on its own grid."""
        check_image(volume, name)
        prepared = prepare_image(volume, self.plan)
        coarse = self.on_plan_grid(torch.from_numpy(prepared.array).to(self.device), on_window).cpu().numpy()
        shape = volume.geometry.shape
        labels = np.empty(shape, dtype=np.uint8)
        probabilities = np.empty((len(coarse), *shape), dtype=np.float32) if self.settings.probability else None
        uncertainty = np.empty(shape, dtype=np.float32) if self.settings.uncertainty else None
        doubt, extent = 0.0, 0.0
        for slab in _slabs(shape):
            on_window(1.0)
            fine = _resampled_slab(coarse, prepared.geometry, volume.geometry, slab)
            labels[slab] = fine.argmax(axis=0)
            entropy = binary_share_of_entropy(fine)
            possible = fine[0] < 0.95
            doubt += float(entropy[possible].sum())
            extent += float(possible.sum())
            if probabilities is not None:
                probabilities[:, slab] = fine
            if uncertainty is not None:
                uncertainty[slab] = entropy
        if self.largest_component:
            labels = keep_largest_components(labels, self.largest_component)
        return Prediction(labels, probabilities, uncertainty, doubt / extent if extent else 0.0)

    def _forward(self, x: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return self.network(to_memory_format(x.to(self.device))).to(x.device)


def binary_share_of_entropy(probabilities: np.ndarray) -> np.ndarray:
    """``min(1, H / ln 2)`` of probabilities ``(C, ...)``: 1 where two classes are equally likely, whatever C is."""
    p = np.clip(probabilities, 1e-7, 1)
    return np.minimum(1.0, -(p * np.log(p)).sum(axis=0) / math.log(2)).astype(np.float32)


def build_planned_network(plan: Plan) -> SegmentationNetwork:
    """A network of a plan's kind with freshly drawn weights, on the CPU."""
    return build_network(
        plan.network,
        dimensions=plan.dimensions,
        n_classes=plan.n_classes,
        features=plan.features,
        norm=plan.norm,
        dropout=plan.dropout,
        pooling_strides=plan.strides,
        deep_supervision=plan.deep_supervision,
        dropout_everywhere=plan.dropout_everywhere,
    )


def load_network(plan: Plan, weights: Path) -> SegmentationNetwork:
    """A network of a plan's kind with the weights of a file, in evaluation mode."""
    network = build_planned_network(plan)
    load_weights(network, load_tensors(weights), str(weights))
    return to_memory_format(network).eval()


def load_weights(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Put tensors by name into a network; raises `ModelError` where they don't fit."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"The weights in '{source}' don't fit this network.", "Use a model that was trained with the same plan."
        ) from error


def to_memory_format(what: Tensor | nn.Module) -> Tensor | nn.Module:
    """Channels last, which convolutions in bfloat16 like best; other tensors stay as they are."""
    dimensions = what.plan.dimensions if isinstance(what, nn.Module) else what.dim() - 2
    return what.to(memory_format=torch.channels_last_3d if dimensions == 3 else torch.channels_last)


def write_prediction(
    folder: Path, case: str, volume: Volume, prediction: Prediction, schema: LabelSchema, *, compress: bool = True
) -> dict[str, Path]:
    """Write a prediction's files; returns their paths by kind.

    ``<case>.seg.nrrd``, and where computed ``<case>_probability_<class>.nrrd`` and ``<case>_uncertainty.nrrd``.
    """
    files = {"segmentation": folder / f"{case}.seg.nrrd"}
    write_segmentation(files["segmentation"], prediction.labels, volume.geometry, schema, compress=compress)
    if prediction.probabilities is not None:
        names = [_file_name(name) for name in schema.names]
        for index, (name, array) in enumerate(zip(schema.names, prediction.probabilities[1:], strict=True)):
            own = names[index] if names.count(names[index]) == 1 else f"{names[index]}_{index + 1}"
            files[f"probability {name}"] = folder / f"{case}_probability_{own}.nrrd"
            write_volume(files[f"probability {name}"], Volume(array, volume.geometry), compress=compress)
    if prediction.uncertainty is not None:
        files["uncertainty"] = folder / f"{case}_uncertainty.nrrd"
        write_volume(files["uncertainty"], Volume(prediction.uncertainty, volume.geometry), compress=compress)
    return files


def _slabs(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Slices along k, a few million voxels each, so that memory stays small for any number of classes."""
    thickness = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(shape[0], start + thickness))


def _resampled_slab(coarse: np.ndarray, source: Geometry, target: Geometry, slab: slice) -> np.ndarray:
    """Probabilities of a slab of target slices, made from those slices of the source that it needs.

    Both grids have the same axes, as `prepare_image` makes them.
    """
    mapping = target.index_map(source)
    first, last = sorted(mapping[2, 2] * k + mapping[2, 3] for k in (slab.start, slab.stop - 1))
    start = int(np.clip(np.floor(first - 1e-3), 0, source.size[2] - 1))
    stop = int(np.clip(np.ceil(last + 1e-3) + 1, start + 1, source.size[2]))
    part = source.cropped((0, 0, start), (*source.size[:2], stop - start))
    wanted = target.cropped((0, 0, slab.start), (*target.size[:2], slab.stop - slab.start))
    return resample_probabilities(coarse[:, start:stop], part, wanted)


def _file_name(name: str) -> str:
    """A class's name as part of a file name."""
    return "".join(character if character.isalnum() or character in "-_" else "-" for character in name)
