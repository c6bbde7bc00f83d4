"""Files appear whole or not at all, and what the operating system refuses is said in a sentence."""

from __future__ import annotations

import errno
import json
import os
import sys

import pytest

from SemiSupSegLib import files
from SemiSupSegLib.errors import ErrorCode, SemiSupSegError


def test_text_is_written_whole_and_replaces_the_old(tmp_path):
    target = tmp_path / "Größe µ.txt"
    files.write_text_atomically(target, "first")
    files.write_text_atomically(target, "zweite Zeile ü\n")
    assert target.read_text(encoding="utf-8") == "zweite Zeile ü\n"
    assert [each.name for each in tmp_path.iterdir()] == [target.name]


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path, monkeypatch):
    target = tmp_path / "status.json"
    files.write_json_atomically(target, {"state": "old"})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(SemiSupSegError) as caught:
        files.write_json_atomically(target, {"state": "new"})
    assert caught.value.code is ErrorCode.DISK_FULL
    assert json.loads(target.read_text()) == {"state": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_takes_its_name_in_one_step(tmp_path):
    temporary = files.temporary_beside(tmp_path / "000100")
    temporary.mkdir()
    (temporary / "state.json").write_text("{}")
    files.replace_atomically(temporary, tmp_path / "000100")
    assert (tmp_path / "000100" / "state.json").read_text() == "{}"


def test_a_name_of_full_length_can_be_written(tmp_path):
    target = tmp_path / ("x" * 255)
    files.write_text_atomically(target, "whole")
    assert target.read_text() == "whole"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b'{"a": NaN}',
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"a": 1e999}',
        b'{"a": 1} x',
        b"\x00" * 64,
    ],
    ids=["empty", "cut", "utf-16", "nan", "deep", "long number", "infinite", "trailing", "zeros"],
)
def test_what_isnt_json_is_said_so(tmp_path, content):
    path = tmp_path / "cohort.json"
    path.write_bytes(content)
    with pytest.raises(SemiSupSegError) as caught:
        files.read_json(path, "the cohort")
    assert caught.value.code is ErrorCode.UNREADABLE_FILE
    assert caught.value.message.startswith("The cohort in ")
    assert "cohort.json" in caught.value.message


def test_json_with_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert files.read_json(tmp_path / "a.json", "the cohort") == {}


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json_atomically(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_missing_file_names_itself(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        files.read_json(tmp_path / "nowhere" / "cohort.json", "the cohort")
    assert caught.value.code is ErrorCode.MISSING_FILE
    assert "cohort.json" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ErrorCode.DISK_FULL),
        (errno.EACCES, ErrorCode.NOT_WRITABLE),
        (errno.EROFS, ErrorCode.NOT_WRITABLE),
        (errno.ENAMETOOLONG, ErrorCode.NOT_WRITABLE),
        (errno.ENOENT, ErrorCode.MISSING_FILE),
        (errno.EXDEV, ErrorCode.INTERNAL),
    ],
)
def test_refusals_of_the_system_have_a_code_and_a_remedy(number, code):
    error = files.explain_os_error(OSError(number, os.strerror(number), "scan.nrrd"), "write")
    assert error.code is code
    assert "scan.nrrd" in error.message
    assert error.message.endswith(".")
    assert error.remedy.endswith((".", "?"))


def test_a_missing_folder_is_named_where_something_is_to_be_written(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        files.write_text_atomically(tmp_path / "gone" / "further" / "a.txt", "x")
    assert caught.value.message == (
        f"Can't write '{tmp_path / 'gone' / 'further' / 'a.txt'}': the folder '{tmp_path / 'gone'}' doesn't exist."
    )


def test_a_file_that_may_not_be_read_is_unreadable_not_unwritable():
    error = files.explain_os_error(PermissionError(errno.EACCES, "x"), "read the cohort", "c.json")
    assert error.code is ErrorCode.UNREADABLE_FILE


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_with_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SemiSupSegError) as caught:
        files.write_text_atomically(tmp_path / "a.txt", "x")
    assert caught.value.code is ErrorCode.NOT_WRITABLE


def test_a_path_beyond_the_systems_limit_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        files.write_text_atomically(tmp_path.joinpath(*["long" * 50] * 30) / "a.txt", "x")
    assert caught.value.code in (ErrorCode.NOT_WRITABLE, ErrorCode.MISSING_FILE)


@pytest.mark.parametrize(
    "name", ["CON", "nul", "aux.nii", "Com1", "lpt9.seg", "COM²", "conin$", "PRN .x", "a\tb", " .", "a:b"]
)
def test_no_file_is_named_what_some_system_refuses(name):
    assert not files.is_file_name(name)
    assert files.is_file_name(files.as_file_name(name, "case"))


@pytest.mark.parametrize("name", ["CONTROL_1", "com10", "auxiliary.nii", "größe 1", "x.con", "lpt"])
def test_names_that_only_look_like_devices_stay(name):
    assert files.is_file_name(name)
    assert files.as_file_name(name, "case") == name


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_free_space_is_known_before_the_folder_exists(tmp_path):
    assert files.free_disk_bytes(tmp_path / "not" / "yet") > 0


def test_appending_closes_off_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"whole": 1}\n{"cut": ')
    appender = files.LineAppender(path)
    appender.append(b'{"next": 2}\n')
    appender.append(b'{"next": 3}\n')
    appender.close()
    assert path.read_bytes().split(b"\n") == [b'{"whole": 1}', b'{"cut": ', b'{"next": 2}', b'{"next": 3}', b""]


def test_leftovers_of_killed_processes_are_swept(tmp_path):
    (tmp_path / ".tmp-1-a").write_text("half")
    (tmp_path / ".tmp-1-b").mkdir()
    (tmp_path / ".tmp-1-b" / "x").write_text("half")
    (tmp_path / "kept").write_text("whole")
    files.delete_temporaries(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
