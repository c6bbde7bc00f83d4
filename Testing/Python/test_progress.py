from __future__ import annotations

import io

import pytest

from SemiSupSegLib.progress import ProgressBar, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands on the screen: what was overwritten is gone."""
        return [line.rsplit("\r", 1)[-1] for line in self.getvalue().split("\n")]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_terminal_shows_one_line_that_grows(clock):
    terminal = Terminal()
    with ProgressBar("Training", stream=terminal, clock=clock) as bar:
        clock.now = 10
        bar.update(0.5, "loss 0.3")
        bar.write("A warning.")
        bar.update(1.0)
    assert terminal.lines() == ["A warning.", "Training  [########################]  100 %  0:10", ""]


def test_time_left_is_extrapolated_unless_it_is_known(clock):
    terminal = Terminal()
    bar = ProgressBar("Training", stream=terminal, clock=clock)
    clock.now = 60
    bar.update(0.25)
    assert "1:00, 3:00 left" in terminal.lines()[-1]
    clock.now = 61
    bar.update(0.25, seconds_left=5)
    assert "1:01, 0:05 left" in terminal.lines()[-1]


def test_a_new_stage_has_its_own_time(clock):
    terminal = Terminal()
    bar = ProgressBar("Loading", stream=terminal, clock=clock)
    clock.now = 60
    bar.update(0.9)
    bar.title = "Training"
    clock.now = 61
    bar.update(0.0)
    clock.now = 71
    bar.update(0.5)
    assert terminal.lines()[-1] == "Training  [############............]   50 %  0:10, 0:10 left"


def test_a_log_gets_a_line_every_ten_seconds(clock):
    log = io.StringIO()
    with ProgressBar("Predicting", stream=log, clock=clock) as bar:
        for second in range(26):
            clock.now = second
            bar.update(second / 25)
    assert log.getvalue().splitlines() == [
        "Predicting   40 %  0:10, 0:15 left",
        "Predicting   80 %  0:20, 0:05 left",
    ]


def test_what_is_quick_leaves_no_trace_in_a_log():
    log = io.StringIO()
    with ProgressBar("Loading", stream=log) as bar:
        bar.update(1.0)
    assert log.getvalue() == ""


def test_a_long_note_does_not_break_the_line(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    bar = ProgressBar("Training", stream=terminal, clock=clock)
    clock.now = 1
    bar.update(0.5, "x" * 200)
    assert len(terminal.lines()[-1]) == 39
    assert terminal.lines()[-1].endswith("…")


def test_track_hands_out_every_item():
    assert list(track("abc", "Counting")) == ["a", "b", "c"]
    assert list(track(iter("abc"), "Counting")) == ["a", "b", "c"]
