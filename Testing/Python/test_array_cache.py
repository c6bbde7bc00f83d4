"""Arrays kept from run to run: found again while their file is the same, made anew otherwise, never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from SemiSupSegLib.cohort import Cohort
from SemiSupSegLib.labels import LabelSchema
from SemiSupSegLib.learning import array_cache
from SemiSupSegLib.learning.array_cache import ArrayCache, cache_folder, file_identity


class Maker:
    """Counts how often it makes an array."""

    def __init__(self, value: int = 1):
        self.value, self.times = value, 0

    def __call__(self) -> np.ndarray:
        self.times += 1
        return np.full((2, 3), self.value, np.uint8)


def get(cache: ArrayCache, source: Path, make: Maker, about: object = 0, kind: str = "image") -> np.ndarray:
    return cache.get(source, kind, about, make, shape=(2, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "scan Größe.nrrd"
    path.write_bytes(b"voxels")
    return path


@pytest.fixture
def cache(tmp_path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


def test_what_was_made_once_is_found_by_another_process(cache, source):
    make = Maker()
    for each in (cache, cache, ArrayCache(cache.folder)):
        np.testing.assert_array_equal(get(each, source, make), np.ones((2, 3)))
    assert make.times == 1


def test_a_changed_file_is_read_again_also_if_it_has_its_old_size_and_date(cache, source):
    get(cache, source, Maker(1))
    date = source.stat().st_mtime_ns
    source.write_bytes(b"others")
    os.utime(source, ns=(date, date))
    assert get(cache, source, Maker(2))[0, 0] == (2 if os.name == "posix" else 1)


def test_other_wishes_make_another_array_and_the_last_one_is_kept(cache, source):
    get(cache, source, Maker(1), about={"spacing": 1})
    assert get(cache, source, Maker(2), about={"spacing": 2})[0, 0] == 2
    assert get(cache, source, Maker(3), kind="sample")[0, 0] == 3
    assert len(list(cache.folder.iterdir())) == 2
    make = Maker(4)
    assert get(cache, source, make, about={"spacing": 2})[0, 0] == 2
    assert make.times == 0


@pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr", "scan.HDR"])
def test_of_a_header_whose_voxels_lie_in_another_file_nothing_is_kept(cache, tmp_path, name):
    header = tmp_path / name
    header.write_text("the voxels lie elsewhere")
    get(cache, header, Maker(1))
    assert get(cache, header, Maker(2))[0, 0] == 2
    assert not cache.folder.exists()


def test_a_file_that_takes_anothers_place_within_a_tick_of_the_clock_is_another(source, tmp_path, monkeypatch):
    def at_one_time(path: Path) -> SimpleNamespace:
        found = os.stat(path)
        return SimpleNamespace(st_size=found.st_size, st_ino=found.st_ino, st_mtime_ns=1, st_ctime_ns=1)

    monkeypatch.setattr(type(source), "stat", at_one_time)
    before = file_identity(source)
    assert file_identity(source) == before
    (tmp_path / "new").write_bytes(source.read_bytes())
    os.replace(tmp_path / "new", source)
    assert file_identity(source) != before


DAMAGED_HEADER = b"\x93NUMPY\x01\x00\x04\x00{'(\n"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array at all", b"PK\x03\x04", DAMAGED_HEADER])
def test_a_damaged_entry_is_made_again(cache, source, content):
    get(cache, source, Maker(1))
    next(cache.folder.iterdir()).write_bytes(content)
    assert get(cache, source, Maker(2))[0, 0] == 2
    assert get(cache, source, Maker(3))[0, 0] == 2


def test_an_entry_of_another_shape_is_made_again(cache, source):
    get(cache, source, Maker(1))
    np.save(next(cache.folder.iterdir()), np.zeros((9, 9), np.uint8))
    assert get(cache, source, Maker(2))[0, 0] == 2


def test_errors_of_making_are_passed_on_and_nothing_is_kept(cache, source):
    def fail() -> np.ndarray:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        get(cache, source, fail)
    assert not cache.folder.exists()


def test_without_a_folder_without_room_and_where_a_file_is_in_the_way_arrays_are_made(source, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("in the way")
    for cache in (ArrayCache(), ArrayCache(blocked)):
        make = Maker()
        get(cache, source, make)
        assert get(cache, source, make).sum() == 6
        assert make.times == 2
    monkeypatch.setattr(array_cache, "free_disk_bytes", lambda path: 1000)
    get(ArrayCache(tmp_path / "full"), source, Maker())
    assert not list((tmp_path / "full").iterdir())


def test_the_cache_lies_beside_the_cohort_or_in_the_run(tmp_path):
    schema = LabelSchema.from_names(["organ"])
    saved = Cohort(schema, ()).save(tmp_path / "cohort" / "cohort.json")
    assert cache_folder(saved, tmp_path / "run") == tmp_path / "cohort" / ".semisupseg-cache"
    assert cache_folder(Cohort(schema, ()), tmp_path / "run") == tmp_path / "run" / "cache"
    blocked = tmp_path / "cohort" / ".semisupseg-cache"
    blocked.rmdir()
    blocked.write_text("in the way")
    assert cache_folder(saved, tmp_path / "run") == tmp_path / "run" / "cache"
