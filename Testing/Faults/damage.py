"""What happens to files: accidents with their bytes, and lies in their headers, their JSON and their zip entries."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from typing import Any

_PIECES = (
    b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"true", b'""', b"[]", b"{}", b"[" * 2000,
    b'{"a":' * 2000, b"\xff\xfe", b"\0", b"\\ud800", b'"' + b"A" * 5000 + b'"', b"../../etc/passwd",
    b",", b":", b'"', b"}",
)  # fmt: skip

_NUMBERS = (
    "0", "-1", "1", "255", "65536", "2147483648", "4294967295", "-9223372036854775808", "99999999999999999999", "nan",
    "inf", "-inf", "1e308", "-1e-308", "1e-40", "0.5", "0x10", "", "x", "1,5", "7 7 7 7",
)  # fmt: skip

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 0.5, 255, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -1e-308, float("nan"),
    float("inf"), "", " ", "x", "\0", "\ud800", "a" * 5000, "../../../etc/passwd", "/etc/passwd", "\\\\host\\share\\x",
    "C:\\x", "CON", "con\n", "1", "nan", "__class__", [], {}, [[]], [None], ["x"] * 3, [1, 2, 3], [1e999] * 3,
    {"a": {"b": [None]}}, {"path": 3}, {"": 1},
)  # fmt: skip
"""Values that don't belong into a JSON file that people made, or not at every place."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four accidents: flipped, cut, doubled, moved, or a nasty piece put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        here = chance.randrange(len(data) + 1)
        there = min(len(data), here + chance.randint(1, 24))
        kind = chance.randrange(6)
        if kind == 0 and here < len(data):
            data[here] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[here:there]
        elif kind == 2:
            data[here:here] = data[here:there]
        elif kind == 3:
            data[here:there] = chance.choice(_PIECES)
        elif kind == 4:
            data[here:here] = chance.choice(_PIECES)
        else:
            del data[here:]
    return bytes(data)


def flipped(content: bytes, chance: random.Random, within: int) -> bytes:
    """The bytes with one to eight bits flipped, most of them in the first so many bytes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        end = len(data) if chance.random() < 0.2 else min(within, len(data))
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(data)


def lying_json(body: Any, chance: random.Random) -> Any:
    """The body with one to three values, keys or items replaced, left out or doubled."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(body))
        if not places:
            return chance.choice(_VALUES)
        parent, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == 1:
            parent[str(chance.choice(_VALUES))] = parent.pop(key)
        elif kind == 2:
            parent[key] = copy.deepcopy(chance.choice(places)[0])  # a value from elsewhere
        else:
            parent[key] = copy.deepcopy(chance.choice(_VALUES))
    return body


def damaged_json(body: Any, chance: random.Random) -> bytes:
    """The text of a JSON file with lies, or with accidents."""
    if chance.random() < 0.7:
        return json.dumps(lying_json(body, chance)).encode()
    return mutated(json.dumps(body, indent=chance.choice((None, 2))).encode(), chance)


def _places(body: Any):
    if isinstance(body, dict | list):
        for key in list(body) if isinstance(body, dict) else range(len(body)):
            yield body, key
            yield from _places(body[key])


def damaged_nrrd(content: bytes, chance: random.Random) -> bytes:
    """An NRRD file with one to three fields of its header replaced, left out, doubled or added."""
    header, _, voxels = content.partition(b"\n\n")
    lines = header.decode("latin-1").split("\n")
    for _ in range(chance.randint(1, 3)):
        index = chance.randrange(1, len(lines)) if len(lines) > 1 else 0
        kind = chance.randrange(8)
        if kind == 0 and len(lines) > 1:
            del lines[index]
        elif kind == 1:
            lines.insert(index, lines[index])
        elif kind == 2:
            lines.insert(index, chance.choice(_NRRD_LINES))
        elif kind in (3, 4):
            name, separator, _ = lines[index].partition(":=" if ":=" in lines[index] else ": ")
            lines[index] = name + separator + chance.choice((*_NUMBERS, *_NRRD_WORDS))
        else:
            lines[index] = _with_other_number(lines[index], chance)
    return "\n".join(lines).encode("latin-1") + b"\n\n" + voxels


_NRRD_WORDS = (
    "float", "double", "block", "unsigned long long int", "gzip", "raw", "bzip2", "hex", "ascii", "zrl", "big",
    "(nan,0,0) (0,1,0) (0,0,1)", "none (1,0,0) (0,1,0) (0,0,1)", "right-anterior-superior-time", "scanner-xyz",
    "3D-color", "vector domain domain domain", "RGB-color domain domain", "1000000 1000000 1", "1000000000 1 1",
    "\xff\xfe", "0 0 0",
)  # fmt: skip
_NRRD_LINES = (
    "byte skip: -1", "byte skip: 1000000000000", "line skip: 1000000000", "spacings: 1 nan 1", "axis mins: 0 0 inf",
    "content: \xff", "old min: nan", "space units: \"mm\" \"mm\" \"\"", "measurement frame: (nan,0,0) (0,1,0) (0,0,1)",
    "block size: -5", "sample units: x", "thicknesses: nan nan -1", "labels: \"a", "number: 3", "# comment",
    "Segment0_Layer:=1000000000", "Segment1_ID:=", "key:=" + "v" * 10000, "centers: node cell x", "dimension: 16",
)  # fmt: skip


def damaged_metaimage(content: bytes, chance: random.Random) -> bytes:
    """An MHA file with one to three fields of its header replaced, left out, doubled or added."""
    header, mark, voxels = content.partition(b"ElementDataFile = LOCAL\n")
    lines = [*header.decode("latin-1").rstrip("\n").split("\n"), mark.decode().rstrip("\n")]
    for _ in range(chance.randint(1, 3)):
        index = chance.randrange(len(lines))
        kind = chance.randrange(7)
        if kind == 0 and len(lines) > 1:
            del lines[index]
        elif kind == 1:
            lines.insert(index, lines[index])
        elif kind == 2:
            lines.insert(0, chance.choice(_METAIMAGE_LINES))
        elif kind == 3:
            name, separator, _ = lines[index].partition(" = ")
            lines[index] = name + separator + chance.choice((*_NUMBERS, "True", "MET_FLOAT", "MET_STRING", "MET_NONE"))
        else:
            lines[index] = _with_other_number(lines[index], chance)
    return "\n".join(lines).encode("latin-1") + b"\n" + voxels


_METAIMAGE_LINES = (
    "HeaderSize = -1", "HeaderSize = 100000000000", "ElementNumberOfChannels = 1000000", "CompressedDataSize = 1",
    "CompressedDataSize = 99999999999999", "ElementSize = 0 0 0", "BinaryDataByteOrderMSB = True", "BinaryData = False",
    "ElementByteOrderMSB = True", "NDims = 11", "NDims = 0", "DimSize = 1000000000 1 1", "ObjectType = Tube",
    "ElementMin = nan", "Comment = " + "c" * 20000, "CompressedData = True", "ElementToIntensityFunctionSlope = nan",
)  # fmt: skip

_NIFTI_FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "intent_code": (68, "h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"),
    "xyzt_units": (123, "b"), "cal_max": (124, "f"), "descrip": (148, "20i"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "6f"), "srow": (280, "12f"), "magic": (344, "i"),
    "extender": (348, "i"), "extension": (352, "2i"),
}  # fmt: skip
_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-40, 1e38, 0.5, 352.0, 1e9)
_INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 2304, 32767, -32768)


def damaged_nifti(content: bytes, chance: random.Random) -> bytes:
    """An uncompressed NIfTI-1 file with one to three numbers of its header replaced."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        offset, layout = _NIFTI_FIELDS[chance.choice(list(_NIFTI_FIELDS))]
        values = list(struct.unpack_from(f"<{layout}", data, offset))
        values[chance.randrange(len(values))] = chance.choice(_FLOATS if layout.endswith("f") else _INTEGERS)
        if layout.endswith("b"):
            values = [max(-128, min(127, value)) for value in values]
        struct.pack_into(f"<{layout}", data, offset, *values)
    return bytes(data)


def damaged_safetensors(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header lies about its length, or about names, types, shapes and places."""
    length = int.from_bytes(content[:8], "little")
    if chance.random() < 0.15:
        claim = chance.choice((0, 1, length - 1, length + 1, 2**30, 2**40, 2**64 - 1))
        return claim.to_bytes(8, "little") + content[8:]
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(lying_json(header, chance)).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _with_other_number(text: str, chance: random.Random) -> str:
    numbers = list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?", text))
    if not numbers:
        return text + chance.choice(_NUMBERS)
    found = chance.choice(numbers)
    return text[: found.start()] + chance.choice(_NUMBERS) + text[found.end() :]
