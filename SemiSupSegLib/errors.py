"""What can go wrong, said to a person: what happened, where, and what to do."""

from __future__ import annotations

from enum import StrEnum

_LONGEST_SENTENCE = 800


class ErrorCode(StrEnum):
    """The closed list of reasons for which the software stops; travels in events and reports."""

    MISSING_FILE = "missing-file"
    UNREADABLE_FILE = "unreadable-file"
    BAD_GEOMETRY = "bad-geometry"
    BAD_IMAGE = "bad-image"
    NO_ANNOTATION = "no-annotation"
    BAD_COHORT = "bad-cohort"
    BAD_SETTING = "bad-setting"
    BAD_MODEL = "bad-model"
    CHECKPOINT_DAMAGED = "checkpoint-damaged"
    RUN_BUSY = "run-busy"
    NOT_WRITABLE = "not-writable"
    DISK_FULL = "disk-full"
    OUT_OF_MEMORY = "out-of-memory"
    DEVICE_UNAVAILABLE = "device-unavailable"
    PACKAGES_MISSING = "packages-missing"
    DIVERGED = "diverged"
    WORKER_LOST = "worker-lost"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class SemiSupSegError(Exception):
    """An error that a person can act on.

    Parameters
    ----------
    message : str
        One sentence that says what happened, and to which file, case or setting.
    remedy : str, optional
        One sentence that says what to do about it.
    code : ErrorCode, optional
        Reason from the closed list; subclasses carry their own default.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, remedy: str = "", *, code: ErrorCode | None = None):
        self.message = message = _shortened(message)
        self.remedy = remedy = _shortened(remedy)
        if code is not None:
            self.code = code
        super().__init__(f"{message} {remedy}".strip())

    def to_json(self) -> dict[str, str]:
        """The error as the body of an ``error`` event."""
        return {"code": str(self.code), "message": self.message, "remedy": self.remedy}


def _shortened(text: str) -> str:
    """A sentence that quotes a damaged file may have no end; its middle is what nobody needs."""
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[: _LONGEST_SENTENCE - 200]} … {text[-190:]}"


class VolumeError(SemiSupSegError):
    """A volume that can't be read, written or brought onto the grid it is needed on."""

    code = ErrorCode.BAD_IMAGE


class CohortError(SemiSupSegError):
    """A cohort that doesn't hold together: files that pair with nothing, unknown cases, no labels."""

    code = ErrorCode.BAD_COHORT


class SettingsError(SemiSupSegError):
    """A setting that doesn't exist or has a value out of its range."""

    code = ErrorCode.BAD_SETTING


class RunError(SemiSupSegError):
    """A run that can't be started, resumed or read back."""

    code = ErrorCode.WORKER_LOST


class ModelError(SemiSupSegError):
    """A model or checkpoint that is incomplete, damaged or made for something else."""

    code = ErrorCode.BAD_MODEL
