"""The companion, as a real process: answers, cache, newest request first, deaths of either side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from slow_core import slowness

from SemiSupSegLib.companion import load_labels, make_room
from SemiSupSegLib.companion_client import BOOTSTRAP, CompanionClient, SuperpixelRequest
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError
from SemiSupSegLib.processes import ProcessIdentity
from SemiSupSegLib.superpixels import SuperpixelSettings, compute_superpixels
from SemiSupSegLib.volume import Geometry, Volume, write_volume

SPACING = (1.0, 1.0, 2.0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (12, 40, 40), dtype=np.int16)


@pytest.fixture
def big_image() -> np.ndarray:
    """Takes seconds, so that something can happen meanwhile."""
    return np.random.default_rng(1).integers(-1000, 1000, (120, 256, 256), dtype=np.int16)


@pytest.fixture
def client(tmp_path):
    client = CompanionClient(tmp_path / "cache")
    yield client
    client.close()


def wait(client: CompanionClient, request: SuperpixelRequest, seconds: float = 60) -> SuperpixelRequest:
    deadline = time.monotonic() + seconds
    while not request.is_over and time.monotonic() < deadline:
        client.poll()
        time.sleep(0.01)
    assert request.is_over
    return request


def until(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_labels_are_the_superpixels_plus_one(client, image):
    request = wait(client, client.compute_superpixels(image, SPACING, SuperpixelSettings(size_mm=6)))
    assert request.error is None
    expected = compute_superpixels(image, SPACING, SuperpixelSettings(size_mm=6)) + 1
    np.testing.assert_array_equal(request.labels(), expected)
    assert request.superpixels == expected.max()
    assert request.fraction == 1
    assert not request.cached


def test_the_second_time_comes_from_the_cache(client, image):
    wait(client, client.compute_superpixels(image, SPACING))
    request = wait(client, client.compute_superpixels(image, SPACING))
    assert request.cached
    assert not wait(client, client.compute_superpixels(image, (1, 1, 1))).cached


def test_a_damaged_cache_file_is_made_again(client, image):
    wait(client, client.compute_superpixels(image, SPACING))
    (path,) = client.cache.glob("*.npy")
    path.write_bytes(path.read_bytes()[:1000])
    request = wait(client, client.compute_superpixels(image, SPACING))
    assert not request.cached
    assert request.labels().min() == 1


def test_progress_grows_and_poll_never_waits(client, big_image):
    request = client.compute_superpixels(big_image, SPACING)
    fractions, on_core, on_clock = [], [], []
    while not request.is_over:
        begin, clock = time.thread_time(), time.perf_counter()
        client.poll()
        on_core.append(time.thread_time() - begin)
        on_clock.append(time.perf_counter() - clock)
        fractions.append(request.fraction)
        time.sleep(0.02)
    assert request.error is None
    assert fractions == sorted(fractions)
    assert len({each for each in fractions if 0 < each < 1}) >= 3
    assert max(on_core) < 0.05 * slowness()
    assert sorted(on_clock)[len(on_clock) // 2] < 0.02  # a busy machine holds up some polls; waiting would be most


def test_the_newest_request_wins(client, image, big_image):
    first = client.compute_superpixels(big_image, SPACING)
    until(lambda: client.poll() or first.fraction > 0.1)
    begin = time.monotonic()
    second = client.compute_superpixels(image, SPACING)
    assert first.is_over
    assert first.error.code is ErrorCode.CANCELLED
    wait(client, second)
    assert second.error is None
    assert time.monotonic() - begin < 5
    assert len(list(client.cache.glob("*.npy"))) == 1  # the first one was never finished


def test_asking_for_the_same_again_goes_on(client, big_image):
    first = client.compute_superpixels(big_image, SPACING, tag=("scan", 1))
    until(lambda: client.poll() or first.fraction > 0)
    assert client.compute_superpixels(big_image, SPACING, tag=("scan", 1)) is first
    assert client.compute_superpixels(big_image, SPACING, tag=("scan", 2)) is not first
    assert first.error.code is ErrorCode.CANCELLED


def test_a_cancelled_request_leaves_the_companion_warm(client, image, big_image):
    request = client.compute_superpixels(big_image, SPACING)
    until(lambda: client.poll() or request.fraction > 0)
    process = client._process
    client.cancel()
    assert request.error.code is ErrorCode.CANCELLED
    wait(client, client.compute_superpixels(image, SPACING))
    assert client._process is process


def test_the_scan_is_deleted_once_it_is_read(client, image):
    request = client.compute_superpixels(image, SPACING)
    exchange = client._exchange
    if sys.platform != "win32":
        assert exchange.stat().st_mode & 0o077 == 0
    wait(client, request)
    assert list(exchange.iterdir()) == []
    client.close()
    assert not exchange.exists()


def test_bad_input_is_one_sentence(client):
    request = wait(client, client.compute_superpixels(np.full((4, 4, 4), np.nan), SPACING))
    assert request.error.code is ErrorCode.BAD_IMAGE
    assert "NaN" in request.error.message
    assert client.is_running


def test_an_image_file_will_do(tmp_path, image):
    """Asked for by hand, as another owner might."""
    write_volume(tmp_path / "scan.nrrd", Volume(image, Geometry(image.shape[::-1], SPACING)))
    line = '{"v": 1, "command": "compute_superpixels", "id": "a", "image": "scan.nrrd", "cache": "cache"}\n'
    process = start_bare(cwd=tmp_path)
    process.stdin.write(line.encode())
    process.stdin.flush()
    answer = next(each for each in iter(process.stdout.readline, b"") if b'"answer"' in each)
    process.stdin.close()
    assert process.wait(10) == 4
    assert b'"ok": true' in answer
    assert (tmp_path / "scan.nrrd").exists()


def test_nonsense_is_answered_and_survived(tmp_path):
    process = start_bare(cwd=tmp_path)
    process.stdin.write(
        b'rubbish\n{"v": 1, "command": "compute_superpixels"}\n{"v": 1, "command": "cancel", "id": "c"}\n'
    )
    process.stdin.flush()
    lines = []
    while not lines or b'"id": "c"' not in lines[-1]:
        lines.append(process.stdout.readline())
    assert sum(b'"ok": false' in line for line in lines) == 2
    process.stdin.close()
    assert process.wait(10) == 4


def test_it_ends_with_its_owner_even_in_the_middle_of_a_computation(tmp_path, big_image):
    np.save(tmp_path / "big.npy", big_image)
    owner = (
        "import sys, time, numpy as np; from SemiSupSegLib.companion_client import CompanionClient\n"
        "client = CompanionClient('cache'); request = client.compute_superpixels(np.load('big.npy'), (1, 1, 2))\n"
        "while request.fraction < 0.1: client.poll(); time.sleep(0.01)\n"
        "print(client._worker_pid, client._exchange, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(BOOTSTRAP.parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", owner], cwd=tmp_path, stdout=subprocess.PIPE, env=environment, text=True
    )
    pid, exchange = process.stdout.readline().split(maxsplit=1)
    companion = ProcessIdentity.of(int(pid))
    assert companion.is_alive
    process.kill()
    process.wait()
    until(lambda: not companion.is_alive, 5)
    until(lambda: not Path(exchange.strip()).exists(), 5)


def test_a_companion_that_dies_is_told_of_and_started_again(client, image, big_image):
    request = client.compute_superpixels(big_image, SPACING)
    until(lambda: client.poll() or request.fraction > 0)
    client._process.kill()
    wait(client, request)
    assert request.error.code is ErrorCode.WORKER_LOST
    assert wait(client, client.compute_superpixels(image, SPACING)).error is None


def test_an_interpreter_that_is_missing_is_one_sentence(tmp_path, image):
    client = CompanionClient(tmp_path, python=tmp_path / "nowhere")
    with pytest.raises(SemiSupSegError, match="can't be started"):
        client.compute_superpixels(image, SPACING)


def test_it_starts_quickly_and_without_torch(client, image):
    begin = time.monotonic()
    wait(client, client.compute_superpixels(image, SPACING))
    assert time.monotonic() - begin < 10
    modules = subprocess.run(
        [sys.executable, "-c", "import SemiSupSegLib.companion, sys; print(*sys.modules)"],
        cwd=BOOTSTRAP.parents[1],
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "numpy" in modules
    assert "torch" not in modules


def test_the_cache_stays_within_its_limit(tmp_path):
    for age, name in enumerate(["new", "old", "oldest"]):
        path = tmp_path / f"{name}.npy"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    make_room(tmp_path, needed=100, limit=300)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "old"]


def test_mapped_labels_can_be_written_to_without_changing_the_file(client, image):
    request = wait(client, client.compute_superpixels(image, SPACING))
    request.labels()[...] = 7
    assert request.labels().max() == request.superpixels != 7


def test_labels_of_another_image_are_refused(client, image):
    request = wait(client, client.compute_superpixels(image, SPACING))
    with pytest.raises(SemiSupSegError, match="another image"):
        load_labels(request._path, (1, 2, 3))


def start_bare(cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-u", str(BOOTSTRAP)],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
