"""Prediction runs: many images with one model, and what happens when one of them is bad or the owner leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from SemiSupSegLib.events import Event
from SemiSupSegLib.files import read_json
from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.learning.checkpoints import save_tensors
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.prediction import build_planned_network
from SemiSupSegLib.learning.worker import run_locally
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.volume import Geometry, Volume, write_volume

SCHEMA = LabelSchema.from_names(["organ"])


@pytest.fixture
def model(tmp_path) -> Model:
    plan = Plan(
        dimensions=3, spacing=(1.0, 1.0, 1.0), patch=(8, 8, 8), batch_size=1, normalisation=Normalisation(),
        precision="float32", network="unet", features=(2, 4), strides=((2, 2, 2),), norm="instance", dropout=0.0,
        n_classes=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Model(tmp_path / "model", "tiny", SCHEMA, "partial", plan.to_json())
    model.folder.mkdir()
    save_tensors(model.folder / "teacher.safetensors", build_planned_network(plan).state_dict())
    model.save_description()
    return model


def an_image(path: Path, seed: int = 0, *, constant: bool = False) -> Path:
    array = np.random.default_rng(seed).normal(size=(6, 9, 10)).astype(np.float32)
    write_volume(path, Volume(array * (not constant), Geometry((10, 9, 6), (1.0, 1.5, 2.0))))
    return path


def predict(model: Model, images: list[Path], folder: Path) -> tuple[int, list[Event], Path]:
    events: list[Event] = []
    settings = {"prediction": {"device": "cpu", "threads": 1}}
    request = RunRequest("predict", images=tuple(map(str, images)), model=str(model.folder), settings=settings)
    run = RunFolder.create(folder / "run", request)
    threads = torch.get_num_threads()
    try:
        return run_locally(run, events.append), events, run.predictions
    finally:
        torch.set_num_threads(threads)


def test_every_image_is_segmented_on_its_own_grid(model, tmp_path):
    images = [an_image(tmp_path / f"scan {seed}.nrrd", seed) for seed in range(2)]
    code, events, folder = predict(model, images, tmp_path)
    assert code == 0
    for image in images:
        labels, geometry = read_annotation(folder / f"{image.stem}.seg.nrrd", None, SCHEMA)
        assert labels.shape == (6, 9, 10)
        assert geometry == Geometry((10, 9, 6), (1.0, 1.5, 2.0))
    assert set(read_json(folder / "predictions.json", "scores")["uncertainty"]) == {"scan 0", "scan 1"}
    assert [event["case"] for event in events if event.name == "preview"] == ["scan 0", "scan 1"]


def test_a_bad_image_is_passed_over_and_the_others_are_segmented(model, tmp_path):
    good, bad = an_image(tmp_path / "good.nrrd"), an_image(tmp_path / "bad.nrrd", constant=True)
    code, events, folder = predict(model, [bad, good], tmp_path)
    assert code == 0
    assert next(event["message"] for event in events if event.name == "warning").startswith("bad was passed over")
    assert (folder / "good.seg.nrrd").is_file()
    assert not (folder / "bad.seg.nrrd").exists()


def test_a_run_whose_only_image_is_bad_has_failed(model, tmp_path):
    code, events, _ = predict(model, [an_image(tmp_path / "bad.nrrd", constant=True)], tmp_path)
    assert code == 1
    assert not [event for event in events if event.name == "warning"]
    assert [event["code"] for event in events if event.name == "error"] == ["bad-image"]


def test_a_missing_image_is_said_before_anything_is_predicted(model, tmp_path):
    code, events, folder = predict(model, [an_image(tmp_path / "good.nrrd"), tmp_path / "none.nrrd"], tmp_path)
    assert code == 1
    assert [event["code"] for event in events if event.name == "error"] == ["missing-file"]
    assert not list(folder.iterdir())
