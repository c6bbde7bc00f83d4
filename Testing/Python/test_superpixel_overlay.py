"""The overlay in real slice views without a screen: what the views' pipelines put out, pixel by pixel."""

from __future__ import annotations

import time

import numpy as np
import pytest
from vtk.util.numpy_support import vtk_to_numpy

slicer = pytest.importorskip("slicer", reason="slicer-core isn't installed")

from SemiSupSegLib.slicer_bridge.nodes import image_data, set_geometry  # noqa: E402
from SemiSupSegLib.slicer_bridge.superpixel_overlay import OUTLINE_COLOR, SuperpixelOverlay  # noqa: E402
from SemiSupSegLib.volume import Geometry  # noqa: E402

pytest_plugins = ["slicer_fixture"]

EDGE = 10
LABELS = np.kron(np.arange(1, 4 * 6 * 6 + 1).reshape(4, 6, 6), np.ones((EDGE, EDGE, EDGE))).astype(np.int32)
GEOMETRY = Geometry(LABELS.shape[::-1], (1, 1, 1))
RED, GREEN = np.array([255, 0, 0, 255], np.uint8), np.array([0, 255, 0, 255], np.uint8)


@pytest.fixture
def views(scene):
    """Three slice views of a black volume."""
    volume = slicer.vtkMRMLScalarVolumeNode()
    volume.SetName("scan")
    scene.AddNode(volume)
    set_geometry(volume, GEOMETRY)
    volume.SetAndObserveImageData(image_data(np.zeros(LABELS.shape, np.int16)))
    return [add_view(scene, name, volume) for name in ("Red", "Yellow", "Green")]


def add_view(scene, name, volume):
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    logic.SetMRMLScene(scene)
    logic.AddSliceNode(name)
    logic.GetSliceNode().SetDimensions(200, 200, 1)
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    logic.FitSliceToAll()
    return logic


def pixels(view) -> np.ndarray:
    connection = view.GetImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(connection.GetIndex())
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3].copy()


def colors(view) -> set[tuple[int, ...]]:
    return {tuple(int(part) for part in color) for color in np.unique(pixels(view).reshape(-1, 3), axis=0)}


@pytest.fixture
def overlay(scene, views):
    overlay = SuperpixelOverlay(scene, LABELS, GEOMETRY, int(LABELS.max()))
    yield overlay
    overlay.remove()


def test_outlines_lie_on_the_borders_of_superpixels(views, overlay):
    shown = pixels(views[0]).any(axis=-1)
    assert 0.1 < shown.mean() < 0.6
    assert overlay.outlines_on
    part = [round(each * OUTLINE_COLOR[3] / 255) for each in OUTLINE_COLOR[:3]]
    (line,) = colors(views[0]) - {(0, 0, 0)}
    np.testing.assert_allclose(line, part, atol=2)


def test_a_color_fills_its_superpixel_and_nothing_else(views, overlay):
    overlay.outlines_on = False
    overlay.opacity = 1.0
    logic = views[0]
    ras = np.array(logic.GetSliceNode().GetSliceToRAS().GetElement(2, 3))
    k = round(float(ras))
    superpixel = LABELS[k, 25, 35]
    overlay.set_colors(np.array([superpixel]), RED)
    filled = pixels(logic)[..., 0] == 255
    i, j = np.nonzero(filled.any(axis=0))[0], np.nonzero(filled.any(axis=1))[0]
    assert filled[j[0] : j[-1] + 1, i[0] : i[-1] + 1].all()
    spacing = logic.GetSliceNode().GetFieldOfView()[0] / 200
    assert len(i) * spacing == pytest.approx(EDGE, abs=2 * spacing)


def test_several_colors_at_once_and_clearing(views, overlay):
    overlay.outlines_on = False
    overlay.opacity = 1.0
    superpixels = np.arange(1, LABELS.max() + 1)
    overlay.set_colors(superpixels, np.where(superpixels[:, None] % 2 == 0, RED, GREEN))
    for view in views:
        assert colors(view) == {(0, 0, 0), (255, 0, 0), (0, 255, 0)}
    overlay.clear_colors()
    assert all(colors(view) == {(0, 0, 0)} for view in views)


def test_nothing_is_shown_outside_of_the_volume(views, overlay):
    overlay.opacity = 1.0
    overlay.outlines_on = False
    overlay.set_colors(np.arange(int(LABELS.max()) + 1), RED)
    field = views[0].GetSliceNode().GetFieldOfView()
    views[0].GetSliceNode().SetFieldOfView(2 * field[0], 2 * field[1], field[2])
    assert (0, 0, 0) in colors(views[0])


def test_the_views_are_as_they_were_afterwards(scene, views):
    users_own = slicer.vtkMRMLLabelMapVolumeNode()
    scene.AddNode(users_own)
    for view in views:
        view.GetSliceCompositeNode().SetLabelVolumeID(users_own.GetID())
        view.GetSliceCompositeNode().SetLabelOpacity(0.3)
    views[0].GetSliceNode().SetUseLabelOutline(True)
    before = scene.GetNumberOfNodes()
    overlay = SuperpixelOverlay(scene, LABELS, GEOMETRY, int(LABELS.max()))
    assert views[0].GetSliceCompositeNode().GetLabelVolumeID() != users_own.GetID()
    overlay.remove()
    for view, outline in zip(views, (True, False, False), strict=True):
        composite = view.GetSliceCompositeNode()
        assert composite.GetLabelVolumeID() == users_own.GetID()
        assert composite.GetLabelOpacity() == 0.3
        assert bool(view.GetSliceNode().GetUseLabelOutline()) is outline
        assert composite.GetNumberOfAdditionalLayers() == 0
    assert scene.GetNumberOfNodes() == before
    assert not overlay.is_shown
    overlay.remove()  # a second time does no harm


def test_without_outlines_the_users_label_layer_is_back(scene, views, overlay):
    assert views[0].GetSliceCompositeNode().GetLabelVolumeID() == overlay.nodes[0].GetID()
    overlay.outlines_on = False
    assert views[0].GetSliceCompositeNode().GetLabelVolumeID() is None
    assert not views[0].GetSliceNode().GetUseLabelOutline()


def test_a_label_volume_that_the_user_chose_meanwhile_stays(scene, views):
    overlay = SuperpixelOverlay(scene, LABELS, GEOMETRY, int(LABELS.max()))
    chosen = slicer.vtkMRMLLabelMapVolumeNode()
    scene.AddNode(chosen)
    views[0].GetSliceCompositeNode().SetLabelVolumeID(chosen.GetID())
    overlay.remove()
    assert views[0].GetSliceCompositeNode().GetLabelVolumeID() == chosen.GetID()


def test_a_layer_of_somebody_else_is_left_alone(scene, views):
    other = slicer.vtkMRMLLabelMapVolumeNode()
    scene.AddNode(other)
    composite = views[0].GetSliceCompositeNode()
    composite.SetNthLayerVolumeID(3, other.GetID())
    overlay = SuperpixelOverlay(scene, LABELS, GEOMETRY, int(LABELS.max()))
    assert composite.GetNthLayerVolumeID(3) == other.GetID()
    assert composite.GetNthLayerVolumeID(4) == overlay.nodes[1].GetID()
    overlay.remove()
    assert composite.GetNthLayerVolumeID(3) == other.GetID()
    assert composite.GetNumberOfAdditionalLayers() == 1


def test_a_view_that_comes_later_is_attached(scene, views, overlay):
    later = add_view(scene, "Slice4", scene.GetFirstNodeByName("scan"))
    overlay.attach()
    assert len(colors(later)) > 1


def test_its_nodes_are_not_saved(scene, views, overlay, tmp_path):
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    assert "uperpixel" not in (tmp_path / "scene.mrml").read_text()
    assert "LabelMapVolume " not in (tmp_path / "scene.mrml").read_text()


def test_closing_the_scene_removes_it(scene, views):
    overlay = SuperpixelOverlay(scene, LABELS, GEOMETRY, int(LABELS.max()))
    scene.Clear(0)
    assert not overlay.is_shown
    overlay.remove()


def test_it_is_hidden_from_people_and_follows_transforms(scene, views, overlay):
    transform = slicer.vtkMRMLLinearTransformNode()
    scene.AddNode(transform)
    overlay.set_transform(transform.GetID())
    for node in overlay.nodes:
        assert node.GetHideFromEditors()
        assert not node.GetSaveWithScene()
        assert node.GetTransformNodeID() == transform.GetID()


def test_both_nodes_share_one_image(overlay):
    first, second = overlay.nodes
    assert first.GetImageData().GetPointData().GetScalars() is second.GetImageData().GetPointData().GetScalars()


def test_a_stroke_costs_milliseconds_with_half_a_million_superpixels(scene, views):
    labels = np.arange(1, 500_001, dtype=np.int32).reshape(50, 100, 100)
    overlay = SuperpixelOverlay(scene, labels, Geometry((100, 100, 50)), 500_000)
    [pixels(view) for view in views]
    seconds = []
    for first in range(1, 100_000, 20_000):
        begin = time.perf_counter()
        overlay.set_colors(np.arange(first, first + 300), RED)
        [pixels(view) for view in views]
        seconds.append(time.perf_counter() - begin)
    overlay.remove()
    assert min(seconds) < 0.1
