"""Files that are either whole or absent, also after a crash, a power cut or a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ErrorCode, SemiSupSegError

TEMPORARY_PREFIX = ".tmp-"
"""Begin of the names of files that are still being written; whatever bears it may be deleted when no run lives."""

MAXIMUM_JSON_BYTES = 256 * 1024 * 1024
"""A larger JSON file is refused before it is read into memory."""

_NOT_IN_A_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
"""What Windows takes for a device, whatever extension follows."""

_WINDOWS_REPLACE_SECONDS = 2.0
"""On Windows a file can't be replaced while somebody reads it: how long to try again."""


def is_file_name(text: str) -> bool:
    """Whether files can be named after a text on every system; on Windows, ``CON`` and ``aux.nii`` are devices.

    Examples
    --------
    >>> is_file_name("LA_001"), is_file_name("a/b"), is_file_name("aux.nii"), is_file_name("auxiliary")
    (True, False, False, True)
    """
    return bool(text.strip(" .")) and not _NOT_IN_A_NAME.search(text) and not _DEVICE_NAME.fullmatch(text)


def as_file_name(text: str, otherwise: str) -> str:
    """A name for files that is as near to a text as every system allows; `otherwise` if nothing is left of it.

    Examples
    --------
    >>> as_file_name("T1/T2: brain", "case"), as_file_name("NUL", "case"), as_file_name(" . ", "case")
    ('T1_T2_ brain', '_NUL', 'case')
    """
    name = _NOT_IN_A_NAME.sub("_", text).strip(" .") or otherwise
    return name if is_file_name(name) else f"_{name}"


def temporary_beside(final: str | os.PathLike) -> Path:
    """A fresh name in the folder of `final`, to write to before `replace_atomically`.

    The name is short, so that it's possible wherever `final` is.
    """
    return Path(final).parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"


def replace_atomically(temporary: str | os.PathLike, final: str | os.PathLike, *, durable: bool = True) -> None:
    """Gives a completely written file (or folder) its final name, in one step.

    Parameters
    ----------
    temporary : path
        The written file or folder, on the same file system (see `temporary_beside`). A folder can only take
        a name that is free.
    final : path
        Its name from now on; a file of this name is replaced.
    durable : bool
        Wait until the data are on the disk, so that a power cut leaves either the old or the new content. Without
        it, a power cut (but no crash of a process) may leave an empty file.

    Raises
    ------
    SemiSupSegError
        Where the file system refuses (``disk-full``, ``not-writable``, ``missing-file``).
    """
    temporary, final = Path(temporary), Path(final)
    with explained("write", final):
        if durable:
            _flush_tree(temporary)
        _replace(temporary, final)
        if durable:
            _flush_folder(final.parent)


def write_bytes_atomically(path: str | os.PathLike, content: bytes, *, durable: bool = True) -> None:
    """Writes a whole file or leaves the old one as it was; see `replace_atomically`."""
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with explained("write", path), open(temporary, "wb") as file:
            file.write(content)
        replace_atomically(temporary, path, durable=durable)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path: str | os.PathLike, text: str, *, durable: bool = True) -> None:
    """Writes a whole UTF-8 text file or leaves the old one as it was; see `replace_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8", errors="surrogatepass"), durable=durable)


def write_json_atomically(path: str | os.PathLike, body: Any, *, durable: bool = True) -> None:
    """Writes `body` as indented JSON; raises `ValueError` for NaN and infinity, which JSON doesn't know."""
    text = json.dumps(body, indent=2, ensure_ascii=True, allow_nan=False)
    write_text_atomically(path, text + "\n", durable=durable)


def read_json(path: str | os.PathLike, what: str) -> Any:
    """The content of a JSON file.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What the file is to a person, as in "the cohort": begins the sentence of an error.

    Raises
    ------
    SemiSupSegError
        ``missing-file`` if there is none, ``unreadable-file`` if it isn't JSON.
    """
    path = Path(path)
    with explained(f"read {what}", path), open(path, "rb") as file:
        content = file.read(MAXIMUM_JSON_BYTES + 1)
    try:
        if len(content) > MAXIMUM_JSON_BYTES:
            raise ValueError(f"larger than {MAXIMUM_JSON_BYTES // 1024**2} MB")
        return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise SemiSupSegError(
            f"{what[:1].upper()}{what[1:]} in '{path}' isn't valid JSON ({_first_line(error)}).",
            "Restore the file from a copy, or create it again.",
            code=ErrorCode.UNREADABLE_FILE,
        ) from error


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with explained("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_disk_bytes(path: str | os.PathLike) -> int:
    """Free bytes where `path` is, or will be: of the nearest folder above it that exists."""
    path = Path(os.path.abspath(path))
    while not path.exists() and path != path.parent:
        path = path.parent
    with explained("look at the disk of", path):
        return shutil.disk_usage(path).free


def delete_temporaries(folder: str | os.PathLike) -> None:
    """Deletes what a killed process left half written in `folder` (not in folders below)."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                leftover.unlink()


class LineAppender:
    """Appends whole lines to a file that others read meanwhile.

    Each line is one system call on a descriptor in append mode, so lines of several processes don't mix. A line that
    a crash or a full disk cut short is closed off by the next one, and readers skip it.

    Parameters
    ----------
    path : path
        The file; created if absent.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        with explained("write", self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
        self._mid_line = self._ends_mid_line()

    def append(self, line: bytes) -> None:
        """Appends one line; `line` ends in a newline."""
        with explained("write", self.path):
            content = b"\n" + line if self._mid_line else line
            self._mid_line = True
            written = os.write(self._descriptor, content)
            if written < len(content):  # a full disk takes a part and refuses the rest
                os.write(self._descriptor, content[written:])
            self._mid_line = False

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def flush(self) -> None:
        """Waits until everything is on the disk."""
        with explained("write", self.path):
            _flush(self._descriptor)

    def close(self) -> None:
        """Closes the file; appending afterwards is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ends_mid_line(self) -> bool:
        if self.size == 0:
            return False
        os.lseek(self._descriptor, -1, os.SEEK_END)
        return os.read(self._descriptor, 1) != b"\n"


_SENTENCES: dict[int, tuple[ErrorCode, str, str]] = {
    errno.ENOSPC: (ErrorCode.DISK_FULL, "the disk is full", "Free some disk space, then try again."),
    errno.EFBIG: (ErrorCode.DISK_FULL, "a file may not grow further here", "Choose another disk."),
    errno.EACCES: (ErrorCode.NOT_WRITABLE, "access is denied", "Choose a folder that you may write to."),
    errno.EPERM: (ErrorCode.NOT_WRITABLE, "it isn't permitted", "Choose a folder that you may write to."),
    errno.EROFS: (ErrorCode.NOT_WRITABLE, "the disk is read-only", "Choose a folder on another disk."),
    errno.EISDIR: (ErrorCode.NOT_WRITABLE, "it is a folder", "Choose another name."),
    errno.ENOTDIR: (ErrorCode.MISSING_FILE, "a part of the path is a file", "Choose another folder."),
    errno.EEXIST: (ErrorCode.NOT_WRITABLE, "something of this name is in the way", "Choose another name."),
    errno.ENAMETOOLONG: (ErrorCode.NOT_WRITABLE, "the path is too long", "Choose a folder with a shorter path."),
    errno.ENOENT: (ErrorCode.MISSING_FILE, "it doesn't exist", "Check the path; was it moved or deleted?"),
    errno.EMFILE: (ErrorCode.INTERNAL, "too many files are open", "Close other programs, then try again."),
    errno.ENOMEM: (ErrorCode.OUT_OF_MEMORY, "the memory is full", "Close other programs, then try again."),
    errno.EIO: (ErrorCode.UNREADABLE_FILE, "the disk reports an error", "Copy your data to another disk."),
}
if hasattr(errno, "EDQUOT"):
    _SENTENCES[errno.EDQUOT] = (
        ErrorCode.DISK_FULL,
        "your disk quota is used up",
        "Free some disk space, then try again.",
    )

_WINDOWS_NAME_TOO_LONG = 206
_READING_REMEDY = "Ask for the permission to read it, or copy it elsewhere."


def explain_os_error(error: OSError, doing: str, path: str | os.PathLike = "") -> SemiSupSegError:
    """The error for people that an `OSError` stands for.

    Parameters
    ----------
    error : OSError
        What the operating system said.
    doing : str
        What was tried, as it follows "Can't": "write", "read the cohort".
    path : path, optional
        On which file; the error's own if not given.
    """
    number = error.errno if getattr(error, "winerror", None) != _WINDOWS_NAME_TOO_LONG else errno.ENAMETOOLONG
    code, reason, remedy = _SENTENCES.get(
        number, (ErrorCode.INTERNAL, _first_line(error.strerror or error), "Try again, or choose another folder.")
    )
    if code is ErrorCode.NOT_WRITABLE and doing.startswith("read"):
        code, remedy = ErrorCode.UNREADABLE_FILE, _READING_REMEDY
    where = os.fspath(path) or error.filename or ""
    if number == errno.ENOENT and not doing.startswith("read"):
        reason = _missing_folder(where) or reason
    return SemiSupSegError(f"Can't {doing}{f' {where!r}' if where else ''}: {reason}.", remedy, code=code)


def _missing_folder(path: str) -> str:
    """Which folder is missing where something was to be written; empty if all are there."""
    parents = Path(os.path.abspath(path)).parents if path else ()
    missing = [parent for parent in parents if not parent.exists()]
    return f"the folder {str(missing[-1])!r} doesn't exist" if missing else ""


@contextlib.contextmanager
def explained(doing: str, path: str | os.PathLike = "") -> Iterator[None]:
    """Turns an `OSError` of the block into a `SemiSupSegError`; see `explain_os_error`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing, path) from error


def _replace(temporary: Path, final: Path) -> None:
    deadline = time.monotonic() + _WINDOWS_REPLACE_SECONDS
    while True:
        try:
            return os.replace(temporary, final)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _flush_tree(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _flush_tree(Path(folder) / name)
            _flush_folder(Path(folder))
        return
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # a folder can't be opened there, and NTFS journals the names
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to flush folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        # fsync of macOS leaves the data in the drive's own cache
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} isn't a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
