"""The line carries what it was given, and takes whatever comes from the other side."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_core import slowness

from SemiSupSegLib import events
from SemiSupSegLib.events import Command, RateLimit, decode_command, decode_line, encode_command, encode_event

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def line(**body) -> bytes:
    return json.dumps({"v": 1, **body}).encode()


def test_an_event_comes_back_as_it_was_sent():
    sent = encode_event("progress", {"stage": "Größe 脳", "fraction": 0.5, "iteration": 3, "iterations": 6}, time=12.5)
    assert sent.endswith(b"\n")
    event = decode_line(sent)
    assert (event.name, event.time) == ("progress", 12.5)
    assert (event["stage"], event["fraction"], event["iteration"]) == ("Größe 脳", 0.5, 3)
    assert event["seconds_left"] is None


def test_an_absent_field_has_a_neutral_value():
    event = decode_line(line(event="metric"))
    assert event["iteration"] == 0
    assert event["values"] == {}


def test_nan_travels_as_null_and_comes_back_as_nan():
    sent = encode_event("metric", {"iteration": 1, "values": {"loss": math.nan, "dice": 0.5}})
    assert json.loads(sent)["values"] == {"loss": None, "dice": 0.5}
    assert math.isnan(decode_line(sent)["values"]["loss"])


@pytest.mark.parametrize("value", [Path("a"), np.float32(1.5), np.int64(3), {1, 2}, object(), b"x", np.nan, 10**400])
def test_nothing_is_impossible_to_encode(value):
    assert json.loads(encode_event("plan", {"plan": {"x": value}}))["event"] == "plan"


def test_a_value_that_contains_itself_is_encoded_all_the_same():
    circle = {}
    circle["self"] = circle
    assert json.loads(encode_event("plan", {"plan": circle}))["event"] == "plan"


def test_numpy_numbers_become_numbers():
    assert json.loads(encode_event("metric", {"values": {"loss": np.float32(0.5)}}))["values"] == {"loss": 0.5}


def test_an_event_that_is_too_long_loses_its_long_fields_only():
    sent = encode_event("error", {"code": "internal", "message": "x" * 10**6, "remedy": "Try again."})
    assert len(sent) <= events.MAXIMUM_LINE_BYTES
    assert decode_line(sent)["remedy"] == "Try again."


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"":1},', b"1,", b'"\\u00e9",'])
def test_the_worst_line_is_decoded_in_a_part_of_a_polls_budget(unit):
    head, tail = b'{"v": 1, "event": "plan", "plan": {"x": [', b"0]}}"
    worst = head + unit * ((events.MAXIMUM_LINE_BYTES - len(head) - len(tail)) // len(unit)) + tail
    assert len(worst) > events.MAXIMUM_LINE_BYTES - 20
    seconds = []
    for _ in range(5):
        began = time.thread_time()  # not the time that a busy machine takes from us
        assert decode_line(worst) is not None
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.006 * slowness()


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"plain text",
        b"\xff\xfe\x00",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"v": 1, "event": "metric", "values": {"loss": NaN}}',
        b'{"v": 1, "event": "metric", "values": {"loss": 1e999}}',
        b'{"v": 1, "event": "metric", "values": {"loss": "0"}}',
        b'{"v": 1, "event": "metric", "values": {"loss": true}}',
        b'{"v": 1, "event": "metric", "iteration": -1}',
        b'{"v": 1, "event": "metric", "iteration": 1.5}',
        b'{"v": 1, "event": "metric", "iteration": ' + b"9" * 400 + b"}",
        b'{"v": 1, "event": "metric", "iteration": ' + b"9" * 9000 + b"}",
        b'{"v": 1, "event": "progress", "fraction": 1.1}',
        b'{"v": 1, "event": "preview", "files": {"a": 1}}',
        b'{"v": 1, "event": "finished", "time": "now"}',
        b'{"v": 1, "event": ["finished"]}',
        b'{"v": 1, "event": "unheard of"}',
        b'{"v": 2, "event": "finished"}',
        b'{"v": true, "event": "finished"}',
        b'{"event": "finished"}',
        b'"v"',
        b'{"v": 1, "event": "warning", "message": "' + b"x" * 300_000 + b'"}',
    ],
    ids=lambda value: value[:60].decode("latin-1"),
)
def test_hostile_lines_are_log(hostile):
    assert decode_line(hostile) is None


def test_half_a_surrogate_pair_can_be_shown():
    decode_line(b'{"v": 1, "event": "warning", "message": "\\ud800"}')["message"].encode("utf-8")


@given(st.binary(max_size=300))
def test_no_bytes_make_decoding_raise(content):
    decode_line(content)
    decode_command(content)


@given(st.sampled_from([*events._EVENTS]), st.dictionaries(st.text(max_size=9), JSON_VALUES, max_size=5), st.data())
def test_fields_are_of_the_promised_types_or_the_line_is_log(name, extra, data):
    known = {key: data.draw(JSON_VALUES) for key in events._EVENTS[name]}
    event = decode_line(json.dumps({**extra, **known, "v": 1, "event": name}).encode())
    if event is None:
        return
    for key, (check, absent) in events._EVENTS[name].items():
        value = event[key]
        assert value == absent or (callable(absent) and value == absent()) or check(value) is not None


@given(st.sampled_from([*events._EVENTS]), st.dictionaries(st.text(max_size=9), JSON_VALUES, max_size=5))
def test_whatever_is_encoded_is_one_line_of_json(name, fields):
    sent = encode_event(name, fields)
    assert sent.count(b"\n") == 1
    assert json.loads(sent)["event"] == name


def test_a_command_comes_back_as_it_was_sent():
    command = decode_command(encode_command(Command("preview", fields={"case": "LA_001"})))
    assert not command.problem
    assert command.name == "preview"
    assert command["case"] == "LA_001"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "JSON"),
        (line(command="dance", id="a"), "unknown"),
        (line(command=["cancel"], id="a"), "unknown"),
        (line(command="preview", id="a"), "'case'"),
        (line(command="preview", id="a", case=3), "'case'"),
        (line(command="preview", id="a", case=""), "'case'"),
    ],
)
def test_a_malformed_command_says_what_is_wrong(content, words):
    assert words in decode_command(content).problem


def test_few_events_pass_and_the_newest_of_every_kind_arrives():
    now = [0.0]
    limit = RateLimit(10, now=lambda: now[0])
    passed = []
    for index in range(1000):
        now[0] = index / 1000
        passed += limit.offer("loss", b"loss %d" % index)
        if index == 500:
            passed += limit.offer("dice", b"dice")
    passed += limit.flush()
    assert len(passed) <= 12
    assert b"dice" in passed
    assert passed[-1] == b"loss 999"
    assert passed[0] == b"loss 0", "the first isn't held back"
