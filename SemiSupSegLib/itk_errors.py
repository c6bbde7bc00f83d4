"""What ITK throws and warns of, as sentences for people."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from .errors import ErrorCode, VolumeError


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's C++ warnings off stderr, for as long as it takes only: inside Slicer the switch is everybody's."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextlib.contextmanager
def itk_errors(path: Path) -> Iterator[None]:
    """Turn what ITK throws into one sentence about `path`."""
    try:
        with quiet_itk():
            yield
    except MemoryError as error:
        raise VolumeError(
            f"There isn't enough memory to read '{path}'.",
            "Close other programs, or crop the volume.",
            code=ErrorCode.OUT_OF_MEMORY,
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        if "rthonormal" in str(error) or "spacing" in str(error).lower():
            raise VolumeError(
                f"The geometry in the header of '{path}' is impossible: {reason_of(error)}.",
                "Load it in Slicer, correct its spacing and orientation and save it as .nrrd.",
                code=ErrorCode.BAD_GEOMETRY,
            ) from error
        raise VolumeError(
            f"'{path}' can't be read as an image: {reason_of(error)}.",
            "Check that it is complete and an image; NRRD, MHA and NIfTI are read.",
            code=ErrorCode.UNREADABLE_FILE,
        ) from error


def reason_of(error: BaseException) -> str:
    """The telling line of an exception, without ITK's source positions, function names and addresses."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The innermost cause is last, but for MetaIO's "Reason", which is a stale errno.
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    text = lines[-1] if lines else type(error).__name__
    text = re.sub(r"^(\[nrrd\] \w+:|(sitk::|itk::|ITK )ERROR:( \w+\(0x[0-9a-f]+\):)?)\s*", "", text)
    if text.startswith("Unable to determine ImageIO reader"):
        return "its format is unknown, or its first bytes are damaged"
    return text.rstrip(". :!")[:200]
