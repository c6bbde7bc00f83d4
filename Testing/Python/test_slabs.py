"""Files read slab by slab hold what they hold when they are read at once."""

from __future__ import annotations

import numpy as np
import pytest

from SemiSupSegLib import slabs
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.geometry import Geometry, Volume
from SemiSupSegLib.nrrd_file import TYPES
from SemiSupSegLib.slabs import Slabs
from SemiSupSegLib.volume import read_volume, write_volume

GEOMETRY = Geometry((5, 7, 11), (0.5, 0.75, 2.0))


def volume(dtype="float32") -> Volume:
    array = (np.random.default_rng(0).random(GEOMETRY.shape) * 200).astype(dtype)
    return Volume(array, GEOMETRY)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_slabs_cover_the_file_once_and_hold_its_voxels(tmp_path, monkeypatch, dtype, compress):
    monkeypatch.setattr(slabs, "SLAB_BYTES", 3 * 35 * np.dtype(dtype).itemsize)
    path = tmp_path / "größe.nrrd"
    write_volume(path, volume(dtype), compress=compress)
    read = Slabs.of(path)
    where = []
    for slab in read:
        where.append(slab)
        np.testing.assert_array_equal(read.array[slab], volume(dtype).array[slab])
    assert [(each.start, each.stop) for each in where] == [(0, 3), (3, 6), (6, 9), (9, 11)]
    np.testing.assert_array_equal(read.array, read_volume(path).array)


@pytest.mark.parametrize("name", ["scan.nii", "scan.mha"])
def test_other_formats_are_left_to_others(tmp_path, name):
    write_volume(tmp_path / name, volume())
    assert Slabs.of(tmp_path / name) is None


def test_file_that_is_cut_off_is_left_to_whoever_explains_it(tmp_path):
    path = tmp_path / "scan.nrrd"
    write_volume(path, volume(), compress=False)
    path.write_bytes(path.read_bytes()[:-4])
    assert Slabs.of(path) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:-9] + b"x" + data[-8:]])
def test_damage_in_what_is_compressed_is_said_in_a_sentence(tmp_path, damage):
    path = tmp_path / "scan.nrrd"
    write_volume(path, volume())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SemiSupSegError, match="damaged") as caught:
        for _ in Slabs.of(path):
            pass
    assert caught.value.code is ErrorCode.UNREADABLE_FILE


def test_missing_file_is_said_in_a_sentence(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        Slabs.of(tmp_path / "nothing.nrrd")
    assert caught.value.code is ErrorCode.MISSING_FILE
