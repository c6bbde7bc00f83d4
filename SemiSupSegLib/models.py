"""A trained model as a folder that can be renamed, exported, imported, deleted and shared.

``model.json`` says what it segments, how images are prepared and how it was trained; the weights lie beside it as
safetensors. Reading it needs no torch, so the desk lists and manages models too.
"""

from __future__ import annotations

import errno
import json
import shutil
import stat
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import ErrorCode, ModelError, SemiSupSegError
from .files import explained, read_json, replace_atomically, temporary_beside, write_json_atomically
from .labels import LabelSchema

SCHEMA_VERSION = 1
WEIGHTS = ("student", "teacher", "best")
"""Networks that a model may hold: the last student and teacher, and the best on validation cases."""

_LARGEST_ZIP_BYTES = 8 * 2**30
_LARGEST_JSON_BYTES = 16 * 2**20
_BEST_COMPRESSION = 20  # weights hardly shrink: what shrinks more is a bomb
_LARGEST_SMALL_ZIP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Model:
    """A trained model on disk.

    Attributes
    ----------
    folder : pathlib.Path
        Holds ``model.json`` and ``<network>.safetensors``.
    name : str
        What people call it.
    schema : LabelSchema
        What it segments.
    method : str
        What trained it.
    plan : dict
        Preprocessing and network, as `learning.plan.Plan` reads it.
    recommended : str
        The network that predicts unless another is asked for.
    largest_component : tuple of int
        Classes of which only the largest component is kept by default.
    mirror : tuple of bool
        Axes (i, j, k) along which training mirrored, so that prediction may too.
    whereabouts : dict
        Where each class lies, as `learning.whereabouts.Whereabouts` reads it; empty if unknown.
    summary : dict
        About the training: iterations, minutes, cases, device, versions, date, curves' ends.
    """

    folder: Path
    name: str
    schema: LabelSchema
    method: str
    plan: dict[str, Any]
    recommended: str = "teacher"
    largest_component: tuple[int, ...] = ()
    mirror: tuple[bool, bool, bool] = (False, False, False)
    whereabouts: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str) -> Model:
        """The model in a model folder or in a run folder.

        Raises
        ------
        ModelError
            If there is none, or its description can't be read.
        """
        folder = Path(path)
        if not (folder / "model.json").is_file() and (folder / "model" / "model.json").is_file():
            folder = folder / "model"
        if not (folder / "model.json").is_file():
            raise ModelError(
                f"There is no trained model in '{path}'.",
                "Give a model folder, or the folder of a run that has saved its model.",
                code=ErrorCode.MISSING_FILE,
            )
        body = read_json(folder / "model.json", "the model")
        try:
            if int(body["schema_version"]) > SCHEMA_VERSION:
                raise ModelError(f"The model '{path}' was made by a newer version.", "Update the extension.")
            if body["recommended"] not in WEIGHTS or len(body["mirror"]) != 3:
                raise ValueError
            return cls(
                folder=folder,
                name=str(body["name"]),
                schema=LabelSchema.from_json(body["classes"]),
                method=str(body["method"]),
                plan=dict(body["plan"]),
                recommended=str(body["recommended"]),
                largest_component=tuple(int(each) for each in body["largest_component"]),
                mirror=tuple(bool(each) for each in body["mirror"]),
                whereabouts=dict(body.get("whereabouts", {})),
                summary=dict(body["summary"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"The description of the model '{path}' can't be read.", "Train again.") from error

    def save_description(self) -> None:
        """Write ``model.json``."""
        write_json_atomically(
            self.folder / "model.json",
            {
                "schema_version": SCHEMA_VERSION,
                "name": self.name,
                "classes": self.schema.to_json(),
                "method": self.method,
                "plan": self.plan,
                "recommended": self.recommended,
                "largest_component": list(self.largest_component),
                "mirror": list(self.mirror),
                "whereabouts": self.whereabouts,
                "summary": self.summary,
            },
        )

    def weights_file(self, network: str = "auto") -> Path:
        """The file of a network's weights; ``auto`` is the recommended one."""
        file = self.folder / f"{self.recommended if network == 'auto' else network}.safetensors"
        if not file.is_file():
            raise ModelError(
                f"The model '{self.name}' has no weights of its {file.stem} network.",
                "Choose another network, or train again.",
                code=ErrorCode.MISSING_FILE,
            )
        return file

    @property
    def size_bytes(self) -> int:
        """Space that the model takes on disk."""
        return sum(file.stat().st_size for file in self._files())

    def _files(self) -> list[Path]:
        candidates = [self.folder / "model.json", *(self.folder / f"{name}.safetensors" for name in WEIGHTS)]
        return [file for file in candidates if file.is_file()]

    def renamed(self, name: str) -> Model:
        """The model under another name, which is written to disk."""
        if not name.strip():
            raise ModelError("The name is empty.", "Give the model a name.")
        renamed = replace(self, name=name.strip())
        renamed.save_description()
        return renamed

    def export_zip(self, path: Path | str) -> Path:
        """The model as one zip file, for sharing; holds no image and no file name of the training data."""
        path = Path(path)
        with explained("write the model to", path):
            temporary = temporary_beside(path)
            try:
                with zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
                    for file in self._files():
                        archive.write(file, file.name)
                replace_atomically(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path

    def delete(self) -> None:
        """Delete the model's files, and its folder if nothing else is in it."""
        with explained("delete the model in", self.folder):
            for file in self._files():
                file.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def import_zip(path: Path | str, folder: Path | str) -> Model:
    """Unpack a model that `Model.export_zip` wrote.

    Only ``model.json`` and the known weight files are taken, each under its own plain name; whatever else a zip holds,
    paths that lead elsewhere included, is refused.

    Parameters
    ----------
    path : path-like
        The zip file.
    folder : path-like
        The new model's folder, which must not exist yet.

    Raises
    ------
    ModelError
        If the file is no such zip, or the folder exists.
    """
    path, folder = Path(path), Path(folder)
    if folder.exists():
        raise ModelError(f"'{folder}' exists already.", "Choose another folder for the model.")
    allowed = {"model.json", *(f"{name}.safetensors" for name in WEIGHTS)}
    with explained("import the model to", folder):
        temporary = temporary_beside(folder)
        temporary.mkdir(parents=True)
        try:
            with zipfile.ZipFile(path) as archive:
                _check_members(archive.infolist(), allowed, path)
                for member in archive.infolist():
                    with archive.open(member) as source, open(temporary / member.filename, "wb") as target:
                        shutil.copyfileobj(source, target)
            model = Model.load(temporary)
            model.weights_file()
            for name in WEIGHTS:
                if (temporary / f"{name}.safetensors").exists():
                    _check_weights(temporary / f"{name}.safetensors")
            replace_atomically(temporary, folder)
        except SemiSupSegError:
            raise
        except Exception as error:  # whatever zipfile and its decompressors make of a damaged file
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a seek to a place that isn't
                raise
            raise ModelError(f"'{path.name}' isn't a model file.", "Choose a zip that was exported here.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Model.load(folder)


def _check_members(members: list[zipfile.ZipInfo], allowed: set[str], path: Path) -> None:
    names = [member.filename for member in members]
    strange = [member.filename for member in members if member.filename not in allowed or _is_link(member)]
    if strange or "model.json" not in names or len(set(names)) != len(names):
        what = f"it holds {strange[0][:100]!r}" if strange else "its description is missing or there twice"
        raise ModelError(f"'{path.name}' isn't a model file: {what}.", "Choose a zip that was exported here.")
    n_bytes = sum(member.file_size for member in members)
    most = min(_LARGEST_ZIP_BYTES, max(_LARGEST_SMALL_ZIP_BYTES, _BEST_COMPRESSION * path.stat().st_size))
    description = next(member for member in members if member.filename == "model.json")
    if n_bytes > most or description.file_size > _LARGEST_JSON_BYTES:
        raise ModelError(f"'{path.name}' is too large for a model file.", "Choose a zip that was exported here.")


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _check_weights(file: Path) -> None:
    """Refuse what isn't a safetensors file, a pickle for example, by its header: torch isn't at hand here.

    It begins with the length of a JSON text (8 bytes), which says of each tensor where its bytes are behind it.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            n_bytes = file.stat().st_size - 8 - size
            if n_bytes < 0 or size > _LARGEST_JSON_BYTES:
                raise ValueError
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        places = [tensor["data_offsets"] for tensor in header.values()]
        if not places or not all(0 <= begin <= end <= n_bytes for begin, end in places):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"'{file.name}' holds no weights.", "Choose a zip that was exported here.") from error
