"""The companion that Slicer's editors share, and the superpixels that are made before anybody asks for them."""

from __future__ import annotations

import time

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core isn't installed")

from SemiSupSegLib.slicer_bridge.nodes import image_data, volume_of  # noqa: E402
from SemiSupSegLib.slicer_bridge.shared_companion import (  # noqa: E402
    PROPOSAL_VOXELS,
    close_shared_companion,
    prepare_superpixels,
    proposal_settings,
    shared_companion,
    source_tag,
)
from SemiSupSegLib.volume import write_volume  # noqa: E402

pytest_plugins = ["slicer_fixture"]


@pytest.fixture
def volume_node(scene, monkeypatch, tmp_path):
    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path), raising=False)
    shared_companion.cache_clear()
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetSpacing(0.5, 0.5, 2.0)
    node.SetAndObserveImageData(image_data(np.random.default_rng(0).integers(0, 99, (20, 60, 60), dtype=np.int16)))
    scene.AddNode(node)
    yield node
    close_shared_companion()


def test_prepared_superpixels_are_those_that_the_effect_asks_for(volume_node, tmp_path):
    prepared = prepare_superpixels(volume_node)
    voxels = slicer.util.arrayFromVolume(volume_node)
    settings = proposal_settings(volume_node.GetSpacing())
    tag = source_tag(volume_node, voxels.shape)
    asked = shared_companion().compute_superpixels(voxels, volume_node.GetSpacing(), settings, tag=tag)
    assert asked is prepared
    _wait(asked)
    assert asked.labels().max() == asked.superpixels > 10
    assert list(tmp_path.glob("SemiSupSeg/superpixels/*.npy"))
    again = shared_companion().compute_superpixels(voxels, volume_node.GetSpacing(), settings, tag=tag)
    assert again is prepared, "what is computed already is there at once"


def test_a_case_file_is_read_where_it_is_and_stays(volume_node, tmp_path):
    path = tmp_path / "case.nrrd"
    write_volume(path, volume_of(volume_node))
    request = prepare_superpixels(volume_node, file=path)
    _wait(request)
    assert path.is_file()
    np.testing.assert_array_equal(request.labels(), _wait(_asked_with_voxels(volume_node)).labels())


def test_a_closed_companion_is_gone_and_the_next_request_gets_another(volume_node):
    _wait(prepare_superpixels(volume_node))
    first = shared_companion()
    close_shared_companion()
    assert not first.is_running
    close_shared_companion()
    assert _wait(prepare_superpixels(volume_node)).cached
    assert shared_companion() is not first


def _asked_with_voxels(volume_node):
    voxels, spacing = slicer.util.arrayFromVolume(volume_node), volume_node.GetSpacing()
    return shared_companion().compute_superpixels(voxels, spacing, proposal_settings(spacing))


def _wait(request):
    deadline = time.monotonic() + 60
    while not request.is_over and time.monotonic() < deadline:
        shared_companion().poll()
        time.sleep(0.01)
    assert request.error is None
    return request


def test_a_changed_volume_is_another_source(volume_node):
    before = source_tag(volume_node, (1, 1, 1))
    slicer.util.arrayFromVolume(volume_node)[0] = 7
    volume_node.GetImageData().Modified()
    assert source_tag(volume_node, (1, 1, 1)) != before


def test_automatic_superpixels_can_be_seen_and_clicked():
    spacing = (0.7, 0.7, 1.0)
    assert proposal_settings(spacing).size_mm ** 3 == pytest.approx(PROPOSAL_VOXELS * np.prod(spacing), rel=0.01)
    assert proposal_settings(spacing, size_mm=3.0).size_mm == 3.0
    thick = proposal_settings((0.7, 0.7, 8.0))
    assert 6 * 0.7 < thick.size_mm < 16 * 0.7
    assert proposal_settings(spacing, within_slices=True).dimensions == 2
