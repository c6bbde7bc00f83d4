"""Lines come whole, in order and in bounded memory, however the bytes arrive."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from SemiSupSegLib.events import MAXIMUM_LINE_BYTES
from SemiSupSegLib.streams import FileLines, LineBuffer, PipeLines


def drain(source) -> list[bytes]:
    lines = []
    while (line := source.next_line()) is not None:
        lines.append(line)
    return lines


@given(st.lists(st.binary(max_size=20)))
def test_lines_dont_depend_on_how_the_bytes_are_cut(chunks):
    buffer = LineBuffer()
    lines = []
    for chunk in chunks:
        buffer.feed(chunk)
        lines += drain(buffer)
    buffer.finish()
    lines += drain(buffer)
    whole = b"".join(chunks).split(b"\n")
    assert lines == (whole if whole[-1] else whole[:-1])


def test_of_a_line_without_end_only_the_begin_is_kept():
    buffer = LineBuffer()
    for _ in range(100):
        buffer.feed(b"x" * 65536)
    buffer.feed(b"rest\nnext\n")
    lines = drain(buffer)
    assert [len(line) > MAXIMUM_LINE_BYTES for line in lines] == [True, False]
    assert len(lines[0]) <= MAXIMUM_LINE_BYTES + 65536
    assert lines[1] == b"next"


def test_a_pipe_is_read_without_waiting_and_its_end_is_seen():
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe:
        lines = PipeLines(pipe)
        assert lines.next_line() is None
        assert not lines.at_end
        os.write(writing, b"one\ntw")
        assert drain(lines) == [b"one"]
        os.write(writing, b"o\nlast")
        os.close(writing)
        assert drain(lines) == [b"two", b"last"]
        assert lines.at_end


@pytest.mark.skipif(sys.platform == "win32", reason="the size of a pipe of POSIX")
def test_what_isnt_taken_stays_in_the_pipe():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb", buffering=0) as pipe:
        lines = PipeLines(pipe)
        written = 0
        for _ in range(1000):
            try:
                written += os.write(writing, b"0123456789abcde\n" * 1024)
            except BlockingIOError:
                break
            lines.next_line()
        assert written < 10 * 2**20, "the writer is held back, not buffered here"
    os.close(writing)


def test_a_growing_file_is_read_on_and_its_offset_is_where_to_go_on(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = FileLines(path)
    assert lines.next_line() is None, "it isn't there yet"
    path.write_bytes(b"one\ntwo\nthr")
    assert drain(lines) == [b"one", b"two"]
    with open(path, "ab") as file:
        file.write(b"ee\n")
    assert drain(FileLines(path, lines.offset)) == [b"three"]
    assert drain(lines) == [b"three"]
    assert drain(FileLines(path, 4, 8)) == [b"two"]


def test_a_line_without_end_isnt_read_on_past_the_deadline():
    reading, writing = os.pipe()

    def talk():
        try:
            while True:
                os.write(writing, b"x" * 65536)
        except OSError:
            os.close(writing)

    with open(reading, "rb", buffering=0) as pipe:
        lines = PipeLines(pipe)
        talker = threading.Thread(target=talk)
        talker.start()
        begin = None
        while begin is None:  # the kept begin of the line; from then on all is dropped
            begin = lines.next_line(time.perf_counter() + 0.01)
        for _ in range(5):
            began = time.perf_counter()
            assert lines.next_line(began + 0.01) is None
            assert time.perf_counter() - began < 1.0, "there is always more, so only the deadline ends it"
        assert not lines.at_end
    talker.join()


def test_a_long_line_of_a_file_comes_in_several_goes(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 10_000_000 + b"\nnext\n")
    lines = FileLines(path)
    goes, found = 0, []
    while b"next" not in found:
        goes += 1
        line = lines.next_line(time.perf_counter() + 0.0005)
        found += [] if line is None else [line]
    assert goes > 3
    assert len(found) == 2
    assert len(found[0]) < 200_000
