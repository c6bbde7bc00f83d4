"""Which annotation file belongs to which image: by their names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from .errors import CohortError, ErrorCode
from .volume import extension_of

FileSource = Path | str | Iterable[Path | str]
"""A folder, a pattern such as ``scans/*_t1c.nrrd``, one file or a list of files."""

_ANNOTATION_SUFFIX = re.compile(
    r"[ _.-](labels?|labelmap|seg|segs|segmentations?|scribbles?|gt|mask|annotations?)$", re.IGNORECASE
)
_NNUNET_CHANNEL = re.compile(r"_\d{4}$")

# What is taken from a folder. Pictures and single DICOM slices lie in folders for other reasons; name them to use them.
_VOLUME_EXTENSIONS = {
    ".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr", ".gipl", ".gipl.gz", ".mgz",
}  # fmt: skip


def image_files(images: FileSource, annotations: Iterable[FileSource | None] = ()) -> dict[str, Path]:
    """The images of a cohort by case ID, in natural order (``LA_2`` before ``LA_10``).

    Parameters
    ----------
    images : folder, pattern or list of files
    annotations : iterable of the same or None
        Where the annotations are: where that is the same folder, they aren't taken for images.

    Returns
    -------
    dict of str to Path
        The case ID is the file's name without extension and without nnU-Net's ``_0000``.

    Raises
    ------
    CohortError
        If there is no image, or two have the same name.
    """
    files = [path for path in listed_files(images, "images") if extension_of(path).lower() != ".seg.nrrd"]
    if any(_is_same_folder(images, each) for each in annotations):
        files = [path for path in files if not _ANNOTATION_SUFFIX.search(_stem(path))]
    found: dict[str, Path] = {}
    for path in files:
        case_id = _NNUNET_CHANNEL.sub("", _stem(path))
        if case_id in found:
            raise CohortError(
                f"Two images belong to case '{case_id}': '{found[case_id].name}' and '{path.name}'.",
                "Keep one image a case, for example by giving a pattern such as 'images/*_0000.nii.gz'.",
            )
        found[case_id] = path
    if not found:
        raise CohortError(f"There are no images in '{images}'.", "NRRD, MHA and NIfTI files are taken for images.")
    return dict(sorted(found.items(), key=lambda item: natural_key(item[0])))


def annotation_files(source: FileSource, kind: str, images: FileSource, others: FileSource | None) -> list[Path]:
    """The annotation files of one kind.

    Parameters
    ----------
    source : folder, pattern or list of files
    kind : {"label", "scribble"}
    images, others : folder, pattern or list of files
        Where the images and the annotations of the other kind are. In a shared folder the names tell them apart.
    """
    files = listed_files(source, f"{kind}s")
    if _is_same_folder(source, images):
        files = [path for path in files if _is_named_as_annotation(path)]
    if others is not None and _is_same_folder(source, others):
        files = [path for path in files if ("scribble" in path.name.lower()) == (kind == "scribble")]
    return files


def paired(annotations: Iterable[Path], case_ids: Iterable[str], kind: str) -> dict[str, Path]:
    """Annotation files by the ID of the case that their names point to.

    ``LA_001_label.nrrd`` points to ``LA_001``; so do ``LA_001.nrrd``, ``LA_001_seg.nii.gz``, ``LA_001.seg.nrrd`` and so
    on. Where no ID fits exactly, one that goes on behind the name does (``pat1_t1c`` for ``pat1_label``).

    Raises
    ------
    CohortError
        If a file points to no case or to several, or two files to one case.
    """
    case_ids = list(case_ids)
    found: dict[str, Path] = {}
    for path in annotations:
        case_id = _case_of(path, case_ids, kind)
        if case_id in found:
            raise CohortError(
                f"Two {kind} files belong to case '{case_id}': '{found[case_id].name}' and '{path.name}'.",
                "Keep one of them in the folder.",
            )
        found[case_id] = path
    return found


def listed_files(source: FileSource, what: str) -> list[Path]:
    """The files that a folder, a pattern or a list stands for, in natural order; absolute paths."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            files = [each for each in path.iterdir() if _is_volume_file(each)]
        elif path.is_file():
            files = [path]
        else:
            files = [Path(each) for each in glob.glob(str(source))] if glob.has_magic(str(source)) else []
            if not files:
                raise CohortError(
                    f"The {what} '{source}' don't exist.",
                    "Give a folder, a file or a pattern such as 'images/*_t1c.nrrd'.",
                    code=ErrorCode.MISSING_FILE,
                )
    else:
        files = [Path(each) for each in source]
        missing = next((each for each in files if not each.is_file()), None)
        if missing is not None:
            raise CohortError(
                f"'{missing}', one of the {what}, doesn't exist.", "Check the list.", code=ErrorCode.MISSING_FILE
            )
    return sorted((each.absolute() for each in files), key=lambda each: natural_key(each.name))


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sorting key that puts ``LA_2`` before ``LA_10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in re.split(r"(\d+)", text) if part]


def _case_of(path: Path, case_ids: list[str], kind: str) -> str:
    stem = _stem(path)
    names = [stem, _ANNOTATION_SUFFIX.sub("", stem)]
    names += [_NNUNET_CHANNEL.sub("", name) for name in names]
    for name in names:
        if name in case_ids:
            return name
    beginning = names[1]
    longer = [case_id for case_id in case_ids if re.match(re.escape(beginning) + r"[ _.-]", case_id)]
    if len(longer) == 1:
        return longer[0]
    if longer:
        raise CohortError(
            f"The {kind} file '{path.name}' could belong to {len(longer)} images: {_some(longer)}.",
            "Give only one image a case, for example with a pattern such as 'images/*_t1c.nrrd'.",
        )
    raise CohortError(
        f"The {kind} file '{path.name}' belongs to no image: there is none named '{beginning}'.",
        f"Name it like its image (there are {_some(case_ids)}), or take it out of the folder.",
    )


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown}, …"


def _stem(path: Path) -> str:
    extension = extension_of(path)
    return path.name[: -len(extension)] if extension else path.stem


def _is_volume_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and extension_of(path).lower() in _VOLUME_EXTENSIONS


def _is_named_as_annotation(path: Path) -> bool:
    return extension_of(path).lower() == ".seg.nrrd" or _ANNOTATION_SUFFIX.search(_stem(path)) is not None


def _is_same_folder(first: FileSource | None, second: FileSource | None) -> bool:
    folders = [Path(each) for each in (first, second) if isinstance(each, (str, Path))]
    return len(folders) == 2 and all(each.is_dir() for each in folders) and folders[0].samefile(folders[1])
