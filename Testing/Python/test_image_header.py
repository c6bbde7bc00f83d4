"""Headers that ITK would crash on, hang on, follow elsewhere or misread are refused; sound ones pass."""

from __future__ import annotations

import gzip
import os
import struct
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from SemiSupSegLib.errors import ErrorCode, SemiSupSegError, VolumeError
from SemiSupSegLib.geometry import Geometry, Volume
from SemiSupSegLib.image_header import check_header
from SemiSupSegLib.volume import read_fields, read_geometry, read_volume, write_volume

_VOXELS = bytes(range(64))


def _nrrd(*lines, voxels=_VOXELS):
    head = ("NRRD0004", "type: uint8", "dimension: 3", "sizes: 4 4 4", "encoding: raw")
    return "\n".join((*head, *lines, "", "")).encode() + voxels


def _mha(**changes):
    fields = {"ObjectType": "Image", "NDims": 3, "DimSize": "4 4 4", "ElementSpacing": "1 1 2"}
    fields |= {"ElementType": "MET_UCHAR", **changes, "ElementDataFile": changes.get("ElementDataFile", "LOCAL")}
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode() + _VOXELS


def _nifti(offset=0, layout="", *values, order="<"):
    image = sitk.GetImageFromArray(np.arange(64, dtype=np.uint8).reshape(4, 4, 4))
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, 4, 4, 4, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, 2, 8)
    struct.pack_into(f"{order}8f", header, 76, 1, 1, 1, 2, 1, 1, 1, 1)
    struct.pack_into(f"{order}f", header, 108, 352)
    struct.pack_into(f"{order}2h", header, 252, 1, 1)
    struct.pack_into(f"{order}12f", header, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0)
    header[344:348] = b"n+1\0"
    struct.pack_into(f"{order}{layout}", header, offset, *values)
    return bytes(header) + sitk.GetArrayFromImage(image).tobytes()


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.nrrd", _nrrd()),
        ("a.mha", _mha()),
        ("a.nii", _nifti()),
        ("big-endian.nii", _nifti(order=">")),
        ("a.nii.gz", gzip.compress(_nifti())),
    ],
)
def test_sound_files_pass_and_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert check_header(tmp_path / name) == tmp_path / name
    assert read_volume(tmp_path / name).array.ravel().tolist() == list(range(64))


@pytest.mark.parametrize("name, content", [("a.nhdr", _nrrd("data file: ./sub/a.raw", voxels=b"")),
                                           ("a.nrrd", _nrrd("DataFile: sub/a.raw", voxels=b"")),
                                           ("a.mhd", _mha(ElementDataFile="sub/a.raw"))])  # fmt: skip
def test_voxels_beside_the_header_are_read(tmp_path, name, content):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.raw").write_bytes(_VOXELS)
    (tmp_path / name).write_bytes(content)
    assert check_header(tmp_path / name) == tmp_path / "sub" / "a.raw"
    assert read_volume(tmp_path / name).array.ravel().tolist() == list(range(64))


@pytest.mark.parametrize("extension", [".nhdr", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize(
    "elsewhere", ["../secret.raw", "a/../../secret.raw", "..\\secret.raw", "{}/secret.raw", "/dev/zero", "/etc/passwd",
                  "\\\\host\\share\\secret.raw", "LIST", "%s%s%n", "slice%99999d.raw 1 4 1", "pipe"],
)  # fmt: skip
def test_voxels_elsewhere_are_never_read(tmp_path, extension, elsewhere):
    (tmp_path / "secret.raw").write_bytes(_VOXELS)
    folder = tmp_path / "scans"
    folder.mkdir()
    if sys.platform != "win32":
        os.mkfifo(folder / "pipe")  # reading it would wait for ever
    elsewhere = elsewhere.format(tmp_path)
    is_nrrd = extension in (".nhdr", ".nrrd")
    content = _nrrd(f"data file: {elsewhere}", voxels=b"") if is_nrrd else _mha(ElementDataFile=elsewhere)
    (folder / f"scan{extension}").write_bytes(content)
    for read in (read_geometry, read_volume):
        with pytest.raises(VolumeError) as caught:
            read(folder / f"scan{extension}")
        assert caught.value.code in (ErrorCode.UNREADABLE_FILE, ErrorCode.MISSING_FILE)


def test_missing_voxels_are_named(tmp_path):
    (tmp_path / "scan.mhd").write_bytes(_mha(ElementDataFile="gone.raw"))
    with pytest.raises(Exception, match=r"gone\.raw|scan\.mhd") as caught:
        read_volume(tmp_path / "scan.mhd")
    assert caught.value.code in (ErrorCode.UNREADABLE_FILE, ErrorCode.MISSING_FILE)


@pytest.mark.parametrize(
    "name, content, code",
    [
        # all of these crashed the interpreter or hung it with SimpleITK 2.5.7
        ("dimensions.mha", _mha(NDims=255), ErrorCode.UNREADABLE_FILE),
        ("negative.mha", _mha(NDims=-1), ErrorCode.UNREADABLE_FILE),
        ("long field.nrrd", _nrrd("space: " + "A" * 5000), ErrorCode.UNREADABLE_FILE),
        ("long name.nrrd", _nrrd("x" * 5000 + ": 1"), ErrorCode.UNREADABLE_FILE),
        ("infinite row.nii", _nifti(300, "f", float("inf")), ErrorCode.BAD_GEOMETRY),
        ("infinite row.nii.gz", gzip.compress(_nifti(300, "f", float("inf"))), ErrorCode.BAD_GEOMETRY),
        ("big-endian.nii", _nifti(300, "f", float("inf"), order=">"), ErrorCode.BAD_GEOMETRY),
        ("other length.nii", _nifti(0, "i", -32768), ErrorCode.UNREADABLE_FILE),
        # and these were read with 1 or 0 for what isn't a number
        ("spacing.nii", _nifti(80, "f", float("nan")), ErrorCode.BAD_GEOMETRY),
        ("origin.mha", _mha(Offset="nan 0 0"), ErrorCode.BAD_GEOMETRY),
        ("text.mha", _mha(ElementSpacing="1 one 1"), ErrorCode.BAD_GEOMETRY),
        # out of this world
        ("far.mha", _mha(Offset="0 1e19 0"), ErrorCode.BAD_GEOMETRY),
        ("long axis.mha", _mha(TransformMatrix="1 0 4294967295 0 1 0 0 0 1"), ErrorCode.BAD_GEOMETRY),
    ],
)
def test_lies_that_itk_believes_are_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / name)
    assert caught.value.code == code
    assert name in caught.value.message


def test_long_texts_and_keys_that_are_not_utf8_stay_readable(tmp_path):
    lines = ("content: " + "c" * 5000, "key:=" + "v" * 5000)
    (tmp_path / "long.nrrd").write_bytes(_nrrd(*lines).replace(b"key:=", b"good:=1\nk\xe9y:="))
    assert read_volume(tmp_path / "long.nrrd").array.size == 64
    assert read_fields(tmp_path / "long.nrrd")["good"] == "1"


@pytest.mark.parametrize("lost", [1, 3, 300])
def test_plain_nifti_that_lost_its_last_bytes_is_refused(tmp_path, lost):
    write_volume(tmp_path / "whole.nii", Volume(np.ones((8, 8, 8), np.int16), Geometry((8, 8, 8))))
    (tmp_path / "cut.nii").write_bytes((tmp_path / "whole.nii").read_bytes()[:-lost])
    with pytest.raises(VolumeError, match="is damaged"):
        read_volume(tmp_path / "cut.nii")


def test_a_path_that_is_too_long_gets_a_sentence(tmp_path):
    with pytest.raises(SemiSupSegError) as caught:
        read_geometry(tmp_path / ("a" * 3000 + ".nrrd"))
    assert caught.value.code in (ErrorCode.UNREADABLE_FILE, ErrorCode.MISSING_FILE)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.nrrd")
    with pytest.raises(VolumeError, match="pipe"):
        read_volume(tmp_path / "pipe.nrrd")
