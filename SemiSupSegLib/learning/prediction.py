"""Prediction: from an image on its own grid to labels, probabilities and uncertainty on that same grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..labels import LabelSchema
from ..models import Model
from ..segmentation_file import write_segmentation
from ..training_settings import PredictionSettings
from ..volume import Geometry, Volume, check_image, write_volume
from .checkpoints import load_tensors
from .devices import autocast, choose_device, empty_cache, prefers_bfloat16, prepare_process
from .layers import with_folded_norms
from .losses import winners
from .memory import is_out_of_memory
from .networks import SegmentationNetwork, build_network
from .own_grid import predicted_slabs
from .plan import Plan, prepare_image
from .postprocessing import keep_largest_components
from .sliding_window import Box, SlidingWindow
from .whereabouts import Whereabouts

T = TypeVar("T")

_HELD, _HELD_BESIDE_PROBABILITIES = 0.75, 0.4
"""How much of a float32 copy of the image windows may hold in the computer's memory. Where they need more, the image is
predicted in strips; two classes don't as long as windows are as long as a quarter of the image."""

_HELD_ANYWAY = 16_000_000
"""Numbers (64 MB) that windows may hold whatever the image is: strips compute many windows twice, and a scan of
35x50x35 voxels and four classes took seven of them."""

_ANYWHERE = Whereabouts({})


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
        Uncertainty of the case, 0..1: mean uncertainty over the structures found; 1 where none was, which somebody
        should look at first. Over what may be a structure, it ranked cases less well (Spearman with Dice on ACDC -0.45
        instead of -0.77 for `partial`, -0.71 instead of -0.76 for `supervised`).
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
        In evaluation mode, on the device; it is copied.
    plan : Plan
        How it wants its images.
    device : torch.device
        Where it computes.
    settings : PredictionSettings
        Overlap, mirroring, precision.
    largest_component : tuple of int
        Classes of which only the largest component is kept, and what continues it beyond a gap of a voxel or two.
    mirror : tuple of bool
        Axes (i, j, k) that may be mirrored.
    whereabouts : Whereabouts
        Where each class lies: of components, that in its usual place counts as larger.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        device: torch.device,
        settings: PredictionSettings | None = None,
        largest_component: tuple[int, ...] = (),
        mirror: tuple[bool, bool, bool] = (False, False, False),
        whereabouts: Whereabouts = _ANYWHERE,
    ):
        self.network = with_folded_norms(network)
        self.plan = plan
        self.device = device
        # Trained on another device perhaps: half precision is only worth it where it is fast.
        self.precision = plan.precision if prefers_bfloat16(device) else "float32"
        self.settings = settings or PredictionSettings()
        self.largest_component = largest_component
        self.whereabouts = whereabouts
        self.mirror_axes = [2 - axis for axis, allowed in enumerate(mirror) if allowed and self.settings.mirroring]

    @classmethod
    def of_model(cls, model: Model, settings: PredictionSettings) -> Predictor:
        """The predictor of a model on disk."""
        device = choose_device(settings.device)
        prepare_process(device, settings.threads)
        plan = Plan.from_json(model.plan)
        network = load_network(plan, model.weights_file(settings.network)).to(device)
        components = {"auto": model.largest_component, "on": tuple(range(1, plan.n_classes)), "off": ()}
        whereabouts = Whereabouts.from_json(model.whereabouts)
        return cls(network, plan, device, settings, components[settings.largest_component], model.mirror, whereabouts)

    def on_plan_grid(self, image: Tensor, on_window: Callable[[float], None] = lambda fraction: None) -> Tensor:
        """Probabilities ``(C, k, j, i)`` of a prepared image ``(k, j, i)`` on the plan's grid.

        They are put together where the image lies, and in the computer's memory if that is too small for them.
        """
        return self._where_it_fits(image, lambda there, sliding: sliding(there, on_window))

    def __call__(
        self, volume: Volume, on_window: Callable[[float], None] = lambda fraction: None, name: str = "The image"
    ) -> Prediction:
        """Predict an image on its own grid.

        Beside the image, its prepared copy and the results, memory holds about one more float32 copy of it, however
        many classes there are.
        """
        check_image(volume, name)
        results = self._predicted(prepare_image(volume, self.plan), volume.geometry, on_window)
        if self.largest_component:
            results.keep(
                keep_largest_components(
                    results.labels,
                    self.largest_component,
                    self._voxels_of_one_planned(volume.geometry),
                    lambda label: self.whereabouts.weights(label, volume.geometry),
                )
            )
        return results.prediction()

    def _voxels_of_one_planned(self, geometry: Geometry) -> tuple[int, ...]:
        """Voxels of a grid, along (k, j, i), in one of the plan's.

        Gaps of up to two of these are none: a network that misses a voxel or two of a thin structure doesn't part it.

        Only the largest component without what lies just beyond such gaps cost a thin vessel of the made-up cohort 0.13
        Dice (a model of 250 iterations); on ACDC the gaps change nothing.
        """
        planned = self.plan.spacing[::-1]  # 0 across the slices of a 2D plan: they part
        return tuple(round(each / own) for each, own in zip(planned, geometry.spacing[::-1], strict=True))

    def _predicted(self, prepared: Volume, geometry: Geometry, on_window: Callable[[float], None]) -> _Results:
        copies = _HELD_BESIDE_PROBABILITIES if self.settings.probability else _HELD
        most_numbers = max(_HELD_ANYWAY, copies * prepared.array.size, copies * math.prod(geometry.shape))

        def collect(image: Tensor, sliding: SlidingWindow) -> _Results:
            results = _Results(geometry.shape, sliding.n_classes, self.settings, bool(self.largest_component))
            limit = most_numbers if image.device.type == "cpu" else math.inf
            for box, fine in predicted_slabs(
                sliding, image, prepared.geometry, geometry, most_numbers=limit, on_window=on_window
            ):
                results.take(box, fine)
                del fine  # a part of what is given back meanwhile
            return results

        return self._where_it_fits(torch.from_numpy(prepared.array).to(self.device), collect)

    def _where_it_fits(self, image: Tensor, work: Callable[[Tensor, SlidingWindow], T]) -> T:
        """What is made of an image where it lies or, if that has too little memory, in the computer's memory."""
        try:
            with torch.inference_mode():
                return work(image.float(), self._sliding(3 if self.plan.dimensions == 3 else 16))
        except RuntimeError as error:
            if image.device.type == "cpu" or not is_out_of_memory(error):
                raise
        empty_cache(self.device)
        with torch.inference_mode():
            return work(image.cpu().float(), self._sliding(1))

    def _sliding(self, batch_size: int) -> SlidingWindow:
        return SlidingWindow(
            self.plan.patch_shape,
            self._forward,
            self.plan.n_classes,
            overlap=self.settings.overlap,
            batch_size=batch_size,
            mirror_axes=self.mirror_axes,
        )

    def _forward(self, x: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return self.network(to_memory_format(x.to(self.device))).to(x.device)


def binary_share_of_entropy(probabilities: Tensor) -> Tensor:
    """``min(1, H / ln 2)`` of probabilities ``(C, ...)``: 1 where two classes are equally likely, whatever C is."""
    return (torch.special.entr(probabilities).sum(dim=0) / math.log(2)).clamp_max(1)


@dataclass
class _Mean:
    """Of numbers that come in parts."""

    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    @property
    def value(self) -> float:
        return self.total / self.count


class _Results:
    """What is kept of an image's probabilities, taken in part by part; its structures may be cleaned afterwards."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int, settings: PredictionSettings, is_cleaned: bool):
        self.labels = np.empty(shape, dtype=np.uint8)
        self.probabilities = np.empty((n_classes, *shape), dtype=np.float32) if settings.probability else None
        self.uncertainty = np.empty(shape, dtype=np.float32) if settings.uncertainty else None
        self.is_cleaned = is_cleaned
        self.doubts: list[tuple[Box, np.ndarray]] = []
        """255 times the uncertainty of the structures in each part, where it isn't kept and they will be cleaned."""
        self.of_structures = _Mean()

    def take(self, box: Box, probabilities: Tensor) -> None:
        """Take in the probabilities ``(C, k, j, i)`` of a part of the image."""
        labels = winners(probabilities, dim=0)
        self.labels[box] = labels.numpy()
        if self.probabilities is not None:
            self.probabilities[(slice(None), *box)] = probabilities.numpy()
        if self.uncertainty is not None:
            self.uncertainty[box] = binary_share_of_entropy(probabilities).numpy()
            return
        doubts = binary_share_of_entropy(probabilities[:, labels > 0]).numpy()
        if self.is_cleaned:
            self.doubts.append((box, np.rint(doubts * 255).astype(np.uint8)))
        else:
            self.of_structures.add(doubts)

    def keep(self, cleaned: np.ndarray) -> None:
        """Keep labels of which some structures were made background."""
        for box, doubts in self.doubts:
            self.of_structures.add(doubts[cleaned[box][self.labels[box] > 0] > 0] / 255)
        self.labels = cleaned

    def prediction(self) -> Prediction:
        if self.uncertainty is not None:
            for labels, uncertainty in zip(self.labels, self.uncertainty, strict=True):
                self.of_structures.add(uncertainty[labels > 0])
        score = self.of_structures.value if self.of_structures.count else 1.0
        return Prediction(self.labels, self.probabilities, self.uncertainty, score)


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


def _file_name(name: str) -> str:
    """A class's name as part of a file name."""
    return "".join(character if character.isalnum() or character in "-_" else "-" for character in name)
