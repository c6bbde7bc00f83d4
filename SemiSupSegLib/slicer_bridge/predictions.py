"""The predictions of a cohort on disk, and as nodes in a scene."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..errors import CohortError, ErrorCode, SemiSupSegError
from ..files import read_json, write_json_atomically
from ..labels import LabelSchema, SegmentClass
from ..segmentation_file import read_annotation, read_segments
from ..volume import read_volume

SCHEMA_VERSION = 1

_INDEX = "index.json"


@dataclass(frozen=True)
class Prediction:
    """What a model said of one scan.

    Parameters
    ----------
    case_id : str
        The case, or the name of a volume outside the cohort.
    files : mapping of str to Path
        By kind: ``segmentation``, ``uncertainty``, ``probability <class>``.
    score : float or None
        Uncertainty of the whole scan, 0..1.
    model : str
        Name of the model.
    time : float
        When, in seconds since the epoch.
    """

    case_id: str
    files: Mapping[str, Path]
    score: float | None = None
    model: str = ""
    time: float = field(default_factory=time.time)

    def labels(self) -> tuple[np.ndarray, LabelSchema]:
        """Class indices, uint8 ``(k, j, i)``, on the scan's grid, and what they mean: the file says both.

        Raises
        ------
        SemiSupSegError
            If the file is missing or damaged.
        """
        path = self.files["segmentation"]
        schema = self.schema()
        return read_annotation(path, None, schema, "label")[0], schema

    def schema(self) -> LabelSchema:
        """The classes that the segmentation's file names."""
        path = self.files["segmentation"]
        segments = read_segments(path)
        if not segments:
            raise SemiSupSegError(
                f"'{path}' names no segments, so it isn't a prediction.",
                "Predict again.",
                code=ErrorCode.UNREADABLE_FILE,
            )
        return LabelSchema(
            tuple(
                SegmentClass(each.name, each.segment_id, each.color, each.terminology, each.value) for each in segments
            )
        )

    def uncertainty(self) -> np.ndarray:
        """Uncertainty of each voxel, float32 ``(k, j, i)``, 0..1; raises `CohortError` if none was written."""
        if "uncertainty" not in self.files:
            raise CohortError(
                f"'{self.case_id}' was predicted without uncertainty.", "Predict it again, with uncertainty."
            )
        return read_volume(self.files["uncertainty"]).array


@dataclass(frozen=True, eq=False)
class PredictionNodes:
    """The nodes that show a prediction.

    Parameters
    ----------
    segmentation : vtkMRMLSegmentationNode
    probabilities : dict of str to vtkMRMLScalarVolumeNode
        By name of the class; empty where none were asked for.
    uncertainty : vtkMRMLScalarVolumeNode or None
    doubt : numpy.ndarray of float64, shape (k,), or None
        Sum of the uncertainty over each slice.
    """

    segmentation: slicer.vtkMRMLSegmentationNode
    probabilities: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    uncertainty: slicer.vtkMRMLScalarVolumeNode | None = None
    doubt: np.ndarray | None = None


class PredictionStore:
    """The newest prediction of each case, in one folder with an index.

    Parameters
    ----------
    folder : Path
        Where the worker writes the predictions of the cohort's cases.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._predictions = self._read()

    def get(self, case_id: str) -> Prediction | None:
        """The prediction of a case, None if there is none or its segmentation was deleted."""
        prediction = self._predictions.get(case_id)
        return prediction if prediction is not None and prediction.files["segmentation"].is_file() else None

    def put(self, prediction: Prediction) -> None:
        """Note a prediction whose files are written."""
        self._predictions[prediction.case_id] = prediction
        self._write()

    def put_newer(self, predictions: Iterable[Prediction]) -> None:
        """Note those that are newer than what is known of their cases."""
        known = dict(self._predictions)
        for each in predictions:
            before = known.get(each.case_id)
            if (before is None or each.time > before.time) and each.files["segmentation"].is_file():
                known[each.case_id] = each
        if known != self._predictions:
            self._predictions = known
            self._write()

    def forget(self, case_id: str) -> None:
        """Delete a case's prediction with its files."""
        prediction = self._predictions.pop(case_id, None)
        if prediction is not None:
            self._write()
            for file in prediction.files.values():
                file.unlink(missing_ok=True)

    def ranking(self) -> list[Prediction]:
        """Where to look next: predictions from the most uncertain scan to the surest."""
        scored = [each for each in self._predictions.values() if each.score is not None and self.get(each.case_id)]
        return sorted(scored, key=lambda each: -each.score)

    def _read(self) -> dict[str, Prediction]:
        if not (self.folder / _INDEX).is_file():
            return {}
        try:
            body = read_json(self.folder / _INDEX, "the index of the predictions")
            return {each["case"]: _from_json(each, self.folder) for each in body["predictions"]}
        except (SemiSupSegError, KeyError, TypeError, AttributeError):
            return {}  # it only says what a new prediction says again

    def _write(self) -> None:
        entries = [
            {
                "case": each.case_id,
                "files": {kind: path.name for kind, path in each.files.items()},
                "score": each.score,
                "model": each.model,
                "time": each.time,
            }
            for each in self._predictions.values()
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        body = {"schema_version": SCHEMA_VERSION, "predictions": entries}
        write_json_atomically(
            self.folder / _INDEX, body, durable=False
        )  # on the main thread, and made again by predicting


def _from_json(body: Mapping[str, Any], folder: Path) -> Prediction:
    files = {str(kind): folder / Path(name).name for kind, name in body["files"].items()}
    return Prediction(str(body["case"]), files, body["score"], str(body["model"]), float(body["time"]))
