"""Images and annotations that a broken disk, another program or somebody with bad intentions has made."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SemiSupSegLib.geometry import Geometry, Volume, to_simpleitk
from SemiSupSegLib.segmentation_file import write_segmentation
from SemiSupSegLib.volume import write_volume

from .damage import damaged_metaimage, damaged_nifti, damaged_nrrd, flipped, mutated
from .examiner import SCHEMA, Examiner, Verdict
from .laboratory import Laboratory, Result

_HEADERS = {".nrrd": damaged_nrrd, ".mha": damaged_metaimage, ".nii": damaged_nifti}
_HEADER_BYTES = {".nrrd": 400, ".mha": 400, ".nii": 352, ".gz": 60}
_GEOMETRY = Geometry((12, 10, 8), (0.7, 0.7, 1.5), (-20.0, 13.0, 4.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))


def hostile_images(lab: Laboratory) -> Result:
    """Mutated NRRD, MHA and NIfTI files as scans: a volume or one sentence."""
    return _mutated(lab, "hostile scans (nrrd, mha, nii, nii.gz)", "volume", _scans(lab.folder / "sound"), 2000)


def hostile_annotations(lab: Laboratory) -> Result:
    """Mutated .seg.nrrd files and label maps: labels of the cohort's classes or one sentence."""
    return _mutated(
        lab, "hostile annotations (seg.nrrd, label maps)", "annotation", _annotations(lab.folder / "sound"), 2000
    )


def lying_images(lab: Laboratory) -> Result:
    """Truncated files, claims of up to 1 TB, impossible grids, voxels elsewhere: every one is refused."""
    result = Result("scans cut, of 1 GB or 1 TB by their header, with voxels elsewhere")
    (lab.folder / "secret.raw").write_bytes(b"\1" * 960 * 2)
    inside = lab.folder / "inside"
    with Examiner() as examiner:
        inside.mkdir()
        for name, whole, content in _cut(lab, 40, 3):
            (inside / name).write_bytes(content)
            verdict = examiner.look("cut volume", inside / name, whole)
            result.count(f"{name}: {verdict.text}" if verdict.outcome == "broken" else "")
        for name, content in _lies(lab):
            (inside / name).write_bytes(content)
            verdict = examiner.look("volume", inside / name)
            result.count("" if verdict.outcome == "refused" else f"{name}: {verdict.outcome} {verdict.text}")
    return result


class Tally:
    """Counts verdicts into a result, and how many files were read and refused."""

    def __init__(self, result: Result):
        self.result = result
        self.read = self.refused = 0
        self.slowest = self.most_memory = 0.0

    def count(self, verdict: Verdict, what: str) -> None:
        """Adds one file; `what` finds it again."""
        self.read += verdict.outcome == "read"
        self.refused += verdict.outcome == "refused"
        self.slowest = max(self.slowest, verdict.seconds)
        self.most_memory = max(self.most_memory, verdict.memory_bytes)
        self.result.count(f"{verdict.text}: {what}" if verdict.outcome == "broken" else "")
        self.result.note = (
            f"{self.read} read, {self.refused} refused; at most {self.slowest:.1f} s, {self.most_memory / 1e6:.0f} MB"
        )


def _mutated(lab: Laboratory, fault: str, way: str, sound: list[Path], full: int) -> Result:
    tally = Tally(Result(fault))
    with Examiner() as examiner:
        for path in sound:
            verdict = examiner.look(way, path)
            assert verdict.outcome == "read", f"{path.name}: {verdict.text}"
        for index in lab.tries(full, 150):
            path = sound[index % len(sound)]
            file = lab.folder / f"{index}-{path.name}"
            file.write_bytes(_damaged(path, lab))
            verdict = examiner.look(way, file)
            tally.count(verdict, file.name)
            file.unlink()
    return tally.result


def _damaged(path: Path, lab: Laboratory) -> bytes:
    content, chance = path.read_bytes(), lab.random
    kind = chance.random()
    if kind < 0.15:
        return mutated(content, chance)
    if kind < 0.35:
        return flipped(content, chance, _HEADER_BYTES[path.suffix])
    if path.suffix == ".gz":
        return gzip.compress(damaged_nifti(gzip.decompress(content), chance), 1)
    return _HEADERS[path.suffix](content, chance)


def _scans(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    array = np.random.default_rng(0).integers(0, 1000, _GEOMETRY.shape).astype(np.int16)
    names = ("gzip.nrrd", "raw.nrrd", "deflated.mha", "raw.mha", "plain.nii", "small.nii.gz")
    for name in names:
        write_volume(folder / name, Volume(array, _GEOMETRY), compress=not name.startswith("raw"))
    return [folder / name for name in names]


def _annotations(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), _GEOMETRY.shape)
    write_segmentation(folder / "painted.seg.nrrd", labels, _GEOMETRY, SCHEMA, kind="scribble")
    write_segmentation(folder / "raw.seg.nrrd", labels, _GEOMETRY, SCHEMA, compress=False, kind="scribble")
    for name in ("map.nrrd", "map.mha", "map.nii", "map.nii.gz"):
        write_volume(folder / name, Volume(labels, _GEOMETRY), compress=name != "map.mha")
    write_volume(folder / "float.nrrd", Volume(labels.astype(np.float32), _GEOMETRY))
    return sorted(each for each in folder.iterdir() if each.name[0] in "mprf" and "gzip" not in each.name)


def _cut(lab: Laboratory, full: int, quick: int) -> Iterator[tuple[str, Path, bytes]]:
    """Files that end too early, also by a single byte."""
    for path in _scans(lab.folder / "sound"):
        content = path.read_bytes()
        for index in lab.tries(full, quick):
            end = len(content) - 1 - index if index < 3 else lab.random.randrange(len(content) - 3)
            yield f"cut at {end} of {len(content)} {path.name}", path, content[:end]


def _lies(lab: Laboratory) -> Iterator[tuple[str, bytes]]:
    geometry = ("space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)")
    voxels = b"\1" * 960 * 2
    for claim in ("1024 1024 512", "1024 1024 524288", "4294967296 4294967296 1", "9223372036854775807 2 1"):
        for encoding in ("raw", "gzip", "ascii", "hex"):
            lines = (f"sizes: {claim}", f"encoding: {encoding}", *geometry)
            yield f"claims {claim} {encoding}.nrrd", _nrrd(voxels, *lines)
        for packed in ("True", "False"):
            yield f"claims {claim} {packed}.mha", _mha(voxels, DimSize=claim, CompressedData=packed)
    for size in ((1024, 1024, 512), (32767, 32767, 1000), (-1, 10, 8), (0, 10, 8)):
        content = _nifti(lab, 40, "<4h", 3, *size)
        yield f"claims {size}.nii", content
        yield f"claims {size}.nii.gz", gzip.compress(content)
    for number in ("nan", "inf", "0", "-0.0", "1e-400", "1e400"):
        vectors = f"space directions: ({number},0,0) (0,1,0) (0,0,1)"
        yield f"spacing {number}.nrrd", _nrrd(voxels, "sizes: 12 10 8", geometry[0], vectors, "encoding: raw")
        yield f"spacing {number}.mha", _mha(voxels, ElementSpacing=f"{number} 1 1", ElementSize=f"{number} 1 1")
        if number in ("nan", "inf", "1e400"):
            yield f"origin {number}.mha", _mha(voxels, Offset=f"{number} 0 0")
    for place in (80, 84, 88, 108, 256, 268, 280, 300, 324):
        for number in (float("nan"), float("inf")):
            yield f"{number} at {place}.nii", _nifti(lab, place, "<f", number)
    elsewhere = ("../secret.raw", "a/../../secret.raw", os.fspath(lab.folder / "secret.raw"), "/dev/zero")
    elsewhere += (
        "/etc/passwd",
        "\\\\host\\share\\secret.raw",
        "C:\\secret.raw",
        "LIST",
        "../secret%d.raw 1 1 1",
        "../%s 0 9 1",
    )
    for name in (*elsewhere, "fifo"):
        for key in ("data file", "DataFile", "datafile"):
            lines = ("type: short", "dimension: 3", "sizes: 12 10 8", *geometry, "encoding: raw", "endian: little")
            tail = "\n../secret.raw\n" if name == "LIST" else "\n\n"
            text = "\n".join(("NRRD0005", *lines, f"{key}: {name}"))
            yield f"voxels at {name.replace('/', '_')} by {key}.nrrd", (text + tail).encode()
            yield f"voxels at {name.replace('/', '_')} by {key}.nhdr", (text + tail).encode()
        for extension in (".mha", ".mhd"):
            yield f"voxels at {name.replace('/', '_')}{extension}", _mha(b"", ElementDataFile=name)
    os.mkfifo(lab.folder / "inside" / "fifo")
    for kind in ("complex.nrrd", "complex.mha"):
        file = lab.folder / kind
        sitk.WriteImage(sitk.Cast(to_simpleitk(Volume(np.zeros((2, 2, 2), np.float32), Geometry((2, 2, 2)))),
                                  sitk.sitkComplexFloat32), str(file))  # fmt: skip
        yield kind, file.read_bytes()


def _nrrd(voxels: bytes, *lines: str) -> bytes:
    return "\n".join(("NRRD0004", "type: short", "dimension: 3", "endian: little", *lines, "", "")).encode() + voxels


def _mha(voxels: bytes, **changes: str) -> bytes:
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "1 1 1", "DimSize": "12 10 8", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL",
    } | changes  # fmt: skip
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode() + voxels


def _nifti(lab: Laboratory, offset: int, layout: str, *values: float) -> bytes:
    data = bytearray((lab.folder / "sound" / "plain.nii").read_bytes())
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)
