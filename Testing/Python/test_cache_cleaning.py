"""A cache stays small, and nothing that somebody may be using is deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from SemiSupSegLib.cache_cleaning import clean_cache
from SemiSupSegLib.learning.array_cache import ArrayCache
from SemiSupSegLib.superpixels import SuperpixelSettings, cached_superpixels

DAY = 24 * 3600


def put(folder: Path, name: str, days: float, size: int = 100) -> Path:
    """A file that was used so many days ago."""
    path = folder / name
    path.write_bytes(b"x" * size)
    date = time.time() - days * DAY
    os.utime(path, (date, date))
    return path


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_what_was_not_used_for_a_month_goes(tmp_path):
    put(tmp_path, "old.npy", 31)
    put(tmp_path, "recent.npy", 29)
    clean_cache(tmp_path)
    assert names(tmp_path) == {"recent.npy"}


def test_what_a_killed_process_left_half_written_goes_after_a_day(tmp_path):
    put(tmp_path, ".tmp-1-dead", 1.1)
    put(tmp_path, ".tmp-2-alive", 0.9)
    clean_cache(tmp_path)
    assert names(tmp_path) == {".tmp-2-alive"}


def test_beyond_the_limit_what_was_used_longest_ago_goes_first_but_nothing_of_today(tmp_path):
    for days in (0.1, 0.2, 2, 3, 4):
        put(tmp_path, f"{days}.npy", days)
    clean_cache(tmp_path, most_bytes=350)
    assert names(tmp_path) == {"0.1.npy", "0.2.npy", "2.npy"}
    clean_cache(tmp_path, most_bytes=50)
    assert names(tmp_path) == {"0.1.npy", "0.2.npy"}


def test_what_is_no_array_is_left_alone(tmp_path):
    put(tmp_path, "notes.txt", 100)
    (tmp_path / "folder.npy").mkdir()
    os.utime(tmp_path / "folder.npy", (0, 0))
    clean_cache(tmp_path)
    clean_cache(tmp_path / "missing")
    assert names(tmp_path) == {"notes.txt", "folder.npy"}


@pytest.mark.skipif(os.name != "posix", reason="on Windows, a file that is open stays")
def test_an_array_that_another_process_deletes_meanwhile_is_no_problem(tmp_path, monkeypatch):
    put(tmp_path, "old.npy", 31)
    put(tmp_path, "older.npy", 32)
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: [unlink(path), unlink(path)])  # the second time it isn't there
    clean_cache(tmp_path)
    assert names(tmp_path) == set()


def test_what_is_used_again_stays(tmp_path):
    source = tmp_path / "scan.nrrd"
    source.write_bytes(b"voxels")
    cache = ArrayCache(tmp_path / "cache")
    image = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)

    def use() -> None:
        cache.get(source, "image", 0, lambda: np.ones(3), shape=(3,), dtype=np.float64)
        cached_superpixels(cache.folder, image, (1.0, 1.0, 1.0), SuperpixelSettings())

    use()
    kept = names(cache.folder)
    assert len(kept) == 2
    for each in cache.folder.iterdir():
        os.utime(each, (0, 0))
    use()
    clean_cache(cache.folder)
    assert names(cache.folder) == kept
    for each in cache.folder.iterdir():
        os.utime(each, (0, 0))
    clean_cache(cache.folder)
    assert not names(cache.folder)
