"""The fault laboratory in its short form; the long one is ``python -m Testing.Faults``."""

from __future__ import annotations

import sys

import pytest

from Testing.Faults.__main__ import EXPERIMENTS
from Testing.Faults.laboratory import Laboratory


@pytest.mark.skipif(sys.platform == "win32", reason="signals and mounts of POSIX")
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.__name__)
def test_nothing_is_lost_and_nobody_is_orphaned(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMISUPSEG_LOCKS", str(tmp_path / "locks"))
    result = experiment(Laboratory(tmp_path, quick=True))
    assert not result.failures
    assert result.orphans == 0
    if not result.tried:
        pytest.skip(result.note or "only in the long form")
