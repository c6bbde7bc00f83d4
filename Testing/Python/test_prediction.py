"""Prediction: on the image's own grid to the last bit, with probabilities, uncertainty and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_problem import tiny_plan
from torch import Tensor, nn

from SemiSupSegLib.cohort import Case, Cohort
from SemiSupSegLib.errors import VolumeError
from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.learning import own_grid as own_grid_module
from SemiSupSegLib.learning import prediction as prediction_module
from SemiSupSegLib.learning.checkpoints import save_tensors
from SemiSupSegLib.learning.plan import Normalisation, Plan
from SemiSupSegLib.learning.prediction import (
    Predictor,
    Stopped,
    _Results,
    binary_share_of_entropy,
    build_planned_network,
    write_prediction,
)
from SemiSupSegLib.learning.worker import run_locally
from SemiSupSegLib.models import Model
from SemiSupSegLib.runs import RunFolder, RunRequest
from SemiSupSegLib.segmentation_file import read_annotation
from SemiSupSegLib.training_settings import PredictionSettings
from SemiSupSegLib.volume import Geometry, Volume, read_volume, write_volume

CPU = torch.device("cpu")
OBLIQUE = (0.0, 0.8, 0.6, -1.0, 0.0, 0.0, 0.0, -0.6, 0.8)
AS_IT_IS = Normalisation("fixed", -1e9, 1e9, 0.0, 1.0)
SCHEMA = LabelSchema((SegmentClass("left atrium", color=(1, 0, 0)), SegmentClass("Größe/ä", color=(0, 1, 0))))


class Bands(nn.Module):
    """Class 0 below 10, class 1 from 10 to 20, class 2 above: a function of the voxel alone."""

    def __init__(self, dimensions: int = 3, sharpness: float = 8.0):
        super().__init__()
        self.sharpness = sharpness
        self.plan = tiny_plan(dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == self.plan.dimensions + 2
        centres = torch.tensor([5.0, 15.0, 25.0]).view(1, 3, *(1,) * (x.dim() - 2))
        return -self.sharpness * (x - centres).abs()


def bands_of(image: np.ndarray) -> np.ndarray:
    return np.digitize(image, (10, 20)).astype(np.uint8)


def predictor(network: nn.Module | None = None, settings: PredictionSettings | None = None, **plan) -> Predictor:
    components = plan.pop("largest_component", ())
    values = {"normalisation": AS_IT_IS, "n_classes": 3, "patch": (8, 8, 8), **plan}
    network = network or Bands(values.get("dimensions", 3))
    return Predictor(network, tiny_plan(**values), CPU, settings, components)


def image_of(shape, geometry: Geometry | None = None, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).uniform(0, 30, shape).astype(np.float32)
    array = np.where(np.abs(array % 10) < 0.5, array + 1, array)  # nothing on the border between two classes
    return Volume(array, geometry or Geometry(shape[::-1]))


@pytest.mark.parametrize("shape", [(13, 11, 20), (3, 4, 5), (1, 1, 1 + 1), (8, 8, 8)])
def test_each_voxel_is_predicted_where_it_is(shape):
    volume = image_of(shape)
    found = predictor()(volume)
    np.testing.assert_array_equal(found.labels, bands_of(volume.array))
    assert found.labels.dtype == np.uint8
    assert found.probabilities is None
    assert found.uncertainty is None


def test_slices_are_predicted_one_by_one():
    volume = image_of((5, 9, 12), Geometry((12, 9, 5), (1.0, 1.0, 7.5)))
    found = predictor(dimensions=2, patch=(8, 8, 1), spacing=(1.0, 1.0, 0.0), strides=((2, 2),))(volume)
    np.testing.assert_array_equal(found.labels, bands_of(volume.array))


def test_a_result_comes_back_to_an_anisotropic_oblique_grid():
    geometry = Geometry((24, 20, 6), (0.5, 0.5, 5.0), (12.25, -7.5, 100.0), OBLIQUE)
    smooth = np.broadcast_to(np.linspace(1, 29, 24, dtype=np.float32), geometry.shape)
    found = predictor(spacing=(1.0, 1.0, 5.0))(Volume(smooth, geometry))
    assert found.labels.shape == geometry.shape
    wrong = found.labels != bands_of(smooth)
    assert wrong.sum() <= 2 * 20 * 6  # at most the columns at the two borders
    assert (found.labels == found.labels[:1, :1]).all()  # and the same in every row and slice


def test_thin_slabs_change_nothing(monkeypatch):
    geometry = Geometry((9, 8, 30), (1.0, 1.0, 0.7), (1.0, 2.0, 3.0), OBLIQUE)
    volume = image_of(geometry.shape, geometry)
    settings = PredictionSettings(probability=True, uncertainty=True)
    predict = predictor(Bands(sharpness=0.3), settings, spacing=(1.5, 1.5, 2.0))
    whole = predict(volume)
    monkeypatch.setattr(own_grid_module, "_SLAB_NUMBERS", 3 * 9 * 8 * 4)
    slabs = predict(volume)
    np.testing.assert_array_equal(slabs.labels, whole.labels)
    np.testing.assert_allclose(slabs.probabilities, whole.probabilities, atol=1e-5)
    np.testing.assert_allclose(slabs.uncertainty, whole.uncertainty, atol=1e-5)
    assert slabs.score == pytest.approx(whole.score, abs=1e-5)


def test_only_large_images_are_predicted_in_strips_whose_windows_are_computed_twice(monkeypatch):
    volume, predict, batches = image_of((12, 12, 12)), predictor(), []
    forward = predict.network.forward
    monkeypatch.setattr(predict.network, "forward", lambda x: batches.append(x) or forward(x))
    whole = predict(volume).labels
    assert sum(map(len, batches)) == 2**3
    monkeypatch.setattr(prediction_module, "_HELD_ANYWAY", 0)
    np.testing.assert_array_equal(predict(volume).labels, whole)
    assert sum(map(len, batches)) > 2 * 2**3


def test_probabilities_sum_to_one_and_uncertainty_is_a_share():
    settings = PredictionSettings(probability=True, uncertainty=True)
    found = predictor(Bands(sharpness=0.2), settings, spacing=(1.7, 1.3, 2.0))(image_of((11, 12, 13)))
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=0), found.labels)
    assert 0 <= found.uncertainty.min() <= found.uncertainty.max() <= 1
    assert 0 < found.score <= 1


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_score_of_a_case_is_the_uncertainty_of_what_is_left_of_its_structures(uncertainty):
    image = np.full((8, 10, 30), 5, np.float32)
    image[1:7, 1:9, 1:10], image[1:4, 1:5, 20:24] = 14, 10.5  # the smaller piece is the less certain one
    volume, settings = Volume(image, Geometry(image.shape[::-1])), PredictionSettings(uncertainty=uncertainty)
    whole, cut = (predictor(Bands(sharpness=0.3), settings, largest_component=each)(volume) for each in ((), (1,)))
    uncertain = predictor(Bands(sharpness=0.3), PredictionSettings(uncertainty=True))(volume).uncertainty
    assert (whole.labels > 0).sum() > (cut.labels > 0).sum() > 0
    for each in (whole, cut):
        assert each.score == pytest.approx(uncertain[each.labels > 0].mean(), abs=1e-3)
    assert whole.score - cut.score > 0.01


@pytest.mark.parametrize("is_cleaned", [False, True])
@pytest.mark.parametrize("uncertainty", [False, True])
def test_where_nothing_is_found_somebody_should_look_first(uncertainty, is_cleaned):
    results = _Results((1, 1, 4), 2, PredictionSettings(uncertainty=uncertainty), is_cleaned)
    background = torch.tensor([0.99, 0.9, 0.6, 1.0])
    results.take(np.s_[0:1, 0:1, 0:4], torch.stack([background, 1 - background]).view(2, 1, 1, 4))
    if is_cleaned:
        results.keep(results.labels.copy())
    found = results.prediction()
    assert not found.labels.any()
    assert found.score == 1


def test_two_equally_likely_classes_are_fully_uncertain():
    shares = binary_share_of_entropy(torch.tensor([[0.5, 1.0, 1 / 3], [0.5, 0.0, 1 / 3], [0.0, 0.0, 1 / 3]]))
    assert shares == pytest.approx([1.0, 0.0, 1.0], abs=1e-4)


def test_only_the_largest_component_of_chosen_classes_is_kept():
    array = np.full((8, 8, 16), 5, np.float32)
    array[1:4, 1:4, 1:4], array[6, 6, 12] = 15, 15
    array[1, 6, 6], array[6, 1, 6:9] = 25, 25
    volume = Volume(array, Geometry((16, 8, 8)))
    assert (predictor()(volume).labels == 1).sum() == 28
    found = predictor(largest_component=(1,))(volume).labels
    assert (found == 1).sum() == 27
    assert (found == 2).sum() == 4


def test_half_precision_is_used_only_where_it_is_fast(monkeypatch):
    for fast, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(prediction_module, "prefers_bfloat16", lambda device, fast=fast: fast)
        assert predictor(precision="bfloat16").precision == precision


def test_images_that_say_nothing_are_refused():
    with pytest.raises(VolumeError, match=r"'scan'.*constant"):
        predictor()(Volume(np.ones((4, 4, 4), np.float32), Geometry((4, 4, 4))), name="scan")


def test_a_prediction_can_be_stopped():
    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        predictor()(image_of((9, 9, 9)), stop)


# Files ----------------------------------------------------------------------------------------------------------------


def test_files_have_the_images_geometry_and_the_users_classes(tmp_path):
    geometry = Geometry((9, 8, 7), (0.5, 0.625, 5.0), (1 / 3, -20.1, 7.7), OBLIQUE)
    volume = image_of(geometry.shape, geometry)
    found = predictor(settings=PredictionSettings(probability=True, uncertainty=True))(volume)
    files = write_prediction(tmp_path, "case 1", volume, found, SCHEMA)
    assert set(files) == {"segmentation", "uncertainty", "probability left atrium", "probability Größe/ä"}
    labels, written = read_annotation(files["segmentation"], None, SCHEMA)
    np.testing.assert_array_equal(labels, found.labels)
    assert written == geometry
    for path in files.values():
        assert path.parent == tmp_path
    assert read_volume(files["uncertainty"]).geometry == geometry


def test_classes_whose_names_make_the_same_file_name_get_two_files(tmp_path):
    schema = LabelSchema((SegmentClass("a b"), SegmentClass("a/b")))
    volume = image_of((4, 5, 6))
    found = predictor(settings=PredictionSettings(probability=True))(volume)
    files = write_prediction(tmp_path, "case", volume, found, schema)
    assert len(set(files.values())) == 3
    np.testing.assert_array_equal(read_volume(files["probability a/b"]).array, found.probabilities[2])


# The task -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """A model with untrained weights."""
    folder = tmp_path_factory.mktemp("models") / "Modell für Vorhöfe"
    plan = tiny_plan(n_classes=3, size=8, features=(2, 4), strides=((2, 2, 2),))
    made = Model(folder, "a model", SCHEMA, "sp3", plan.to_json())
    folder.mkdir()
    torch.manual_seed(0)
    save_tensors(folder / "teacher.safetensors", build_planned_network(plan).state_dict())
    made.save_description()
    return made


def predict(folder: Path, model: Path, **request):
    """Exit code, events by name, and the folder of the run."""
    request = {"settings": {"prediction": {"device": "cpu", "threads": 1}}, **request}
    run = RunFolder.create(folder / "run", RunRequest("predict", model=str(model), exclusive=False, **request))
    events = []
    return run_locally(run, events.append), events, run


def error_of(events) -> dict:
    return next(event.fields for event in events if event.name == "error")


def test_loose_images_are_predicted_under_their_own_names(tmp_path, model):
    images = []
    for name in ("scan.1.nrrd", "scan.2.nii.gz", "Übersicht links.mha"):
        images.append(str(tmp_path / name))
        write_volume(Path(images[-1]), image_of((6, 7, 9), Geometry((9, 7, 6), (1, 1, 2))))
    code, events, run = predict(tmp_path, model.folder, images=tuple(images))
    assert code == 0
    summary = json.loads((run.predictions / "predictions.json").read_text())
    assert set(summary["uncertainty"]) == {"scan.1", "scan.2", "Übersicht links"}
    for name in summary["uncertainty"]:
        labels, geometry = read_annotation(run.predictions / f"{name}.seg.nrrd", None, SCHEMA)
        assert geometry.spacing == pytest.approx((1, 1, 2))
        assert labels.max() <= 2
    assert sum(event.name == "preview" for event in events) == 3
    run.verify_manifest()


def test_chosen_cases_of_a_cohort_go_where_they_are_wanted(tmp_path, model):
    cases = []
    for index in range(3):
        path = tmp_path / f"{index}.nrrd"
        write_volume(path, image_of((6, 7, 9)))
        cases.append(Case(f"case{index}", path))
    cohort = Cohort(SCHEMA, tuple(cases)).save(tmp_path / "cohort.json")
    settings = {"prediction": {"device": "cpu"}, "cases": ["case2"], "out": str(tmp_path / "out")}
    code, _, _ = predict(tmp_path, model.folder, cohort=str(cohort.path), settings=settings)
    assert code == 0
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["case2.seg.nrrd", "predictions.json"]


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (("missing.nrrd",), "missing-file", "There is no image"),
        ((), "internal", "nothing to predict"),
        (("good.nrrd", "sub/GOOD.nii.gz"), "bad-cohort", "Two images are called"),
        (("damaged.nrrd",), "unreadable-file", "damaged.nrrd"),
        (("constant.nrrd",), "bad-image", "constant"),
    ],
)
def test_what_cannot_be_predicted_says_why(tmp_path, model, names, code, words):
    (tmp_path / "sub").mkdir()
    write_volume(tmp_path / "good.nrrd", image_of((6, 7, 9)))
    write_volume(tmp_path / "sub" / "GOOD.nii.gz", image_of((6, 7, 9)))
    (tmp_path / "damaged.nrrd").write_bytes((tmp_path / "good.nrrd").read_bytes()[:300])
    write_volume(tmp_path / "constant.nrrd", Volume(np.ones((3, 3, 3), np.int16), Geometry((3, 3, 3))))
    exit_code, events, _ = predict(tmp_path, model.folder, images=tuple(str(tmp_path / name) for name in names))
    assert exit_code == 1
    assert error_of(events)["code"] == code
    assert words in error_of(events)["message"]


def test_a_missing_or_damaged_model_says_so(tmp_path, model):
    write_volume(tmp_path / "good.nrrd", image_of((6, 7, 9)))
    code, events, _ = predict(tmp_path, tmp_path / "nowhere", images=(str(tmp_path / "good.nrrd"),))
    assert (code, error_of(events)["code"]) == (1, "missing-file")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 10_000 if file.suffix == ".json" else 50])
    (tmp_path / "second").mkdir()
    code, events, _ = predict(tmp_path / "second", broken, images=(str(tmp_path / "good.nrrd"),))
    assert (code, error_of(events)["code"]) == (1, "bad-model")


def test_results_that_cannot_be_written_say_so(tmp_path, model):
    write_volume(tmp_path / "good.nrrd", image_of((6, 7, 9)))
    (tmp_path / "file").write_text("in the way")
    settings = {"prediction": {"device": "cpu"}, "out": str(tmp_path / "file" / "out")}
    code, events, _ = predict(tmp_path, model.folder, images=(str(tmp_path / "good.nrrd"),), settings=settings)
    assert code == 1
    assert error_of(events)["code"] in ("not-writable", "missing-file")


def test_a_model_predicts_with_what_it_recommends(tmp_path, model):
    plan = Plan.from_json(model.plan)
    torch.manual_seed(1)
    for file in model.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_tensors(tmp_path / "best.safetensors", build_planned_network(plan).state_dict())
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "recommended": "best"}))
    image = torch.randn(8, 8, 8)
    found = {
        network: Predictor.of_model(Model.load(tmp_path), PredictionSettings(device="cpu", network=network))
        .on_plan_grid(image)
        for network in ("auto", "best", "teacher")
    }  # fmt: skip
    assert torch.equal(found["auto"], found["best"])
    assert not torch.equal(found["auto"], found["teacher"])
