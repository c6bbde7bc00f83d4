"""Errors for people stay short, whatever they quote."""

from __future__ import annotations

from SemiSupSegLib.errors import SemiSupSegError


def test_a_message_that_quotes_something_endless_loses_its_middle():
    error = SemiSupSegError("There is no setting '" + "a" * 5000 + "'.", "b" * 5000)
    assert len(error.message) <= 800
    assert len(error.remedy) <= 800
    assert error.message.startswith("There is no setting 'aaa")
    assert error.message.endswith("aaa'.")


def test_a_message_with_a_long_path_is_kept():
    message = f"'/{'folder/' * 60}scan.nrrd' doesn't exist."
    assert SemiSupSegError(message).message == message
