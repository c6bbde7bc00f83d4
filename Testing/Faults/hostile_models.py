"""Cohorts, settings, models, zips and checkpoints that a broken disk or somebody with bad intentions has made."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from SemiSupSegLib.models import Model, import_zip
from SemiSupSegLib.training_settings import PredictionSettings, TrainingSettings

from .damage import damaged_json, damaged_safetensors, flipped, mutated
from .examiner import SCHEMA, Examiner
from .hostile_images import Tally
from .laboratory import Laboratory, Result

_PLAN = {
    "dimensions": 3, "spacing": [1.0, 1.0, 1.0], "patch": [16, 16, 16], "batch_size": 2,
    "normalisation": {"kind": "zscore", "low": 0.0, "high": 0.0, "mean": 0.0, "std": 1.0}, "precision": "float32",
    "network": "unet", "features": [4, 8], "strides": [[2, 2, 2]], "norm": "batch", "dropout": 0.0, "n_classes": 3,
    "dropout_everywhere": False, "deep_supervision": False, "largest_component": [1],
}  # fmt: skip


def hostile_cohorts(lab: Laboratory) -> Result:
    """Mutated cohort.json files: a cohort or one sentence."""
    cases = [
        {
            "id": f"scan {index}",
            "image": f"images/{index}.nrrd",
            "role": "train",
            "labeled": True,
            "label": {"path": f"labels/{index}.nrrd", "values": {"left atrium": 1, "vein": 2}},
            "scribble": {"path": f"scribbles/{index}.seg.nrrd", "values": None},
            "proposals": None,
        }
        for index in range(3)
    ]
    body = {"schema_version": 1, "name": "hearts", "label_schema": SCHEMA.to_json(), "cases": cases}
    return _mutated_json(lab, "hostile cohort.json", {"cohort": body}, 2000)


def hostile_settings(lab: Laboratory) -> Result:
    """Mutated settings, as JSON and as --set texts: settings or one sentence."""
    bodies = {
        "training settings": TrainingSettings().to_json(),
        "prediction settings": PredictionSettings().to_json(),
        "overrides": ["optimizer.learning_rate=0.02", "plan.patch=64,64,[32]", "seed=3", "augmentation.mirror=true"],
    }
    return _mutated_json(lab, "hostile settings", bodies, 2000)


def hostile_models(lab: Laboratory) -> Result:
    """Mutated model.json files, also as far as networks built from them: a model or one sentence."""
    tally = Tally(Result("hostile models"))
    _, body = _sound_model(lab.folder / "sound", _fitting_weights())
    with Examiner() as examiner:
        for way in ("model", "network"):
            assert (verdict := examiner.look(way, lab.folder / "sound")).outcome == "read", verdict.text
        for index in lab.tries(2000, 60):
            folder = lab.folder / f"model {index}"
            shutil.copytree(lab.folder / "sound", folder)
            only_plan = {**body, "plan": json.loads("{}")}
            if index % 2:  # lies about the plan alone get as far as the network
                only_plan["plan"] = json.loads(damaged_plan(body["plan"], lab))
            content = json.dumps(only_plan).encode() if index % 2 else damaged_json(body, lab.random)
            (folder / "model.json").write_bytes(content)
            tally.count(examiner.look("network" if index % 2 else "model", folder), f"{index}: {content[:600]!r}")
            shutil.rmtree(folder)
    return tally.result


def damaged_plan(plan: dict, lab: Laboratory) -> bytes:
    """The text of a plan with lies in it that is still JSON."""
    while True:
        content = damaged_json(plan, lab.random)
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            continue
        return content


def hostile_tensors(lab: Laboratory) -> Result:
    """Mutated safetensors and checkpoints, with right checksums too: tensors or one sentence."""
    tally = Tally(Result("hostile safetensors and checkpoints"))
    sound = save({"a.weight": np.ones((3, 4), np.float32), "b": np.arange(5), "c": np.zeros((0, 2), np.float16)})
    state = {"iteration": 7, "state": {"method": {}, "rate_factor": 1.0}}
    with Examiner() as examiner:
        for index in lab.tries(2000, 100):
            content = _damaged_tensors(sound, lab)
            file = lab.folder / "weights.safetensors"
            file.write_bytes(content)
            tally.count(examiner.look("tensors", file), f"tensors {index}: {content[:400]!r}")
            folder = lab.folder / f"{index:08d}"
            folder.mkdir()
            _write_checkpoint(folder, state, [content if index % 2 else sound, sound, sound])
            if not index % 2:
                (folder / "state.json").write_bytes(
                    damaged_json(json.loads((folder / "state.json").read_bytes()), lab.random)
                )
            tally.count(examiner.look("checkpoint", folder), f"checkpoint {index}: {content[:400]!r}")
            shutil.rmtree(folder)
    return tally.result


def hostile_zips(lab: Laboratory) -> Result:
    """Zips with paths, links, pickles, bombs and lies: all refused, and nothing is written elsewhere."""
    result = Result("model zips: paths, links, pickles, bombs, passwords, mutations")
    tally = Tally(result)
    model, _ = _sound_model(lab.folder / "sound", save({"a": np.ones((3, 4), np.float32)}))
    sound = model.export_zip(lab.folder / "sound.zip")
    import_zip(sound, lab.folder / "copy")
    with Examiner() as examiner:
        for name, write in _attacks(model):
            verdict = _unpacked(lab, examiner, write)
            tally.count(verdict, name)
            if verdict.outcome == "read":
                result.failures.append(f"{name}: taken for a model")
                result.survived -= 1
        for index in lab.tries(2000, 60):
            content = mutated(sound.read_bytes(), lab.random) if index % 2 else _flipped_zip(sound, lab)
            tally.count(_unpacked(lab, examiner, lambda path, its=content: path.write_bytes(its)), f"mutated {index}")
    return result


def _unpacked(lab: Laboratory, examiner: Examiner, write: Callable[[Path], object]):
    place = lab.folder / "place"
    place.mkdir()
    path = lab.folder / "hostile.zip"
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write(path)
    before = sorted(lab.folder.rglob("*"))
    verdict = examiner.look("zip", path, place / "model", may_write=place)
    left = {each.name for each in place.iterdir()} - ({"model"} if verdict.outcome == "read" else set())
    shutil.rmtree(place)
    if left or sorted(lab.folder.rglob("*")) != [each for each in before if each != place]:
        return type(verdict)("broken", f"left {left or 'something elsewhere'}")
    return verdict


def _attacks(model: Model) -> Iterator[tuple[str, Callable[[Path], object]]]:
    files = {file.name: file.read_bytes() for file in sorted(model.folder.iterdir())}
    names = ("../evil.json", "../../evil.safetensors", "/tmp/evil.safetensors", "C:\\evil", "..\\evil.safetensors",
             "model.json/", "sub/teacher.safetensors", "./teacher.safetensors", "teacher.safetensors\0.pkl", "con", "",
             "evil.pkl", "TEACHER.safetensors", "model.json\n", "__MACOSX/x", "a" * 5000)  # fmt: skip
    for name in names:
        yield f"holds {name[:40]!r}", lambda path, its=name: _zip(path, {**files, its: b"x"})
        if "\0" in name:  # where a zip's name ends: these are teacher.safetensors
            continue
        yield (
            f"weights as {name[:40]!r}",
            lambda path, its=name: _zip(path, {"model.json": files["model.json"], its: files["teacher.safetensors"]}),
        )
    yield "a model twice", lambda path: _zip(path, [*files.items(), *files.items()])
    yield "no description", lambda path: _zip(path, {"teacher.safetensors": files["teacher.safetensors"]})
    yield "no weights", lambda path: _zip(path, {"model.json": files["model.json"]})
    for target in ("/etc/passwd", "../../secret", "model.json"):
        for name in ("teacher.safetensors", "model.json", "link"):
            yield (
                f"link {name} to {target}",
                lambda path, of=name, to=target: _zip(path, {**files, of: to.encode()}, links=(of,)),
            )
    for name, content in (("pickle", pickle.dumps(print)), ("text", b"hello"), ("empty", b""), ("zip", b"PK\3\4" * 9)):
        yield f"{name} as weights", lambda path, its=content: _zip(path, {**files, "teacher.safetensors": its})
    for megabytes in (100, 300):
        yield (
            f"bomb of {megabytes} MB weights",
            lambda path, size=megabytes: _bomb(path, files, "best.safetensors", size),
        )
    yield "bomb of description", lambda path: _bomb(path, {}, "model.json", 100)
    yield "bomb nested in JSON", lambda path: _zip(path, {**files, "model.json": b"[" * 4_000_000})
    yield "claims 1 TB", lambda path: _zip(path, files, claim=2**32 - 2)
    yield "password", lambda path: _zip(path, files, flags=1)
    yield "unknown compression", lambda path: _zip(path, files, method=99)
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"cut at {share}", lambda path, end=share: _cut_zip(path, files, end)
    yield "no zip at all", lambda path: path.write_bytes(b"model")
    yield "nothing", lambda path: path.write_bytes(b"")
    yield "a folder", Path.mkdir


def _zip(path: Path, files, *, links=(), claim: int = 0, flags: int = 0, method: int = 0) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so when names are there twice
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            if name in links:
                entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, content)
        for entry in archive.filelist:  # the directory is written when the archive is closed
            entry.file_size = claim or entry.file_size
            entry.flag_bits |= flags
            entry.compress_type = method or entry.compress_type


def _bomb(path: Path, files: dict[str, bytes], name: str, megabytes: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for each, content in files.items():
            archive.writestr(each, content)
        with archive.open(name, "w", force_zip64=True) as stream:
            for _ in range(megabytes):
                stream.write(bytes(1_000_000))


def _cut_zip(path: Path, files: dict[str, bytes], share: float) -> None:
    _zip(path, files)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _flipped_zip(sound: Path, lab: Laboratory) -> bytes:
    """Flips in the directory at a zip's end."""
    content = sound.read_bytes()
    return flipped(content[::-1], lab.random, 300)[::-1]


def _mutated_json(lab: Laboratory, fault: str, bodies: dict[str, object], full: int) -> Result:
    tally = Tally(Result(fault))
    ways = list(bodies)
    with Examiner() as examiner:
        for index in lab.tries(full, 150):
            way = ways[index % len(ways)]
            content = damaged_json(bodies[way], lab.random)
            if way == "overrides" and content.startswith(b"["):
                content = content.strip(b'[]"').replace(b'", "', b"\n")
            file = lab.folder / "hostile.json"
            file.write_bytes(content)
            tally.count(examiner.look(way, file), f"{way} {index}: {content[:600]!r}")
    return tally.result


def _sound_model(folder: Path, weights: bytes) -> tuple[Model, dict]:
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(weights)
    model = Model(folder, "sound", SCHEMA, "sp3", dict(_PLAN), largest_component=(1,))
    model.save_description()
    return model, json.loads((folder / "model.json").read_bytes())


def _fitting_weights() -> bytes:
    """What fits `_PLAN`."""
    import torch
    from safetensors.torch import save as save_torch

    from SemiSupSegLib.learning.plan import Plan
    from SemiSupSegLib.learning.prediction import build_planned_network

    torch.manual_seed(0)
    state = build_planned_network(Plan.from_json(_PLAN)).state_dict()
    return save_torch({name: tensor.contiguous() for name, tensor in state.items()})


def _damaged_tensors(sound: bytes, lab: Laboratory) -> bytes:
    kind = lab.random.random()
    if kind < 0.2:
        return mutated(sound, lab.random)
    return flipped(sound, lab.random, 200) if kind < 0.4 else damaged_safetensors(sound, lab.random)


def _write_checkpoint(folder: Path, body: dict, contents: list[bytes]) -> None:
    """A checkpoint with right checksums, whatever its files hold."""
    checksums = {}
    for name, content in zip(("student", "teacher", "optimizer"), contents, strict=True):
        (folder / f"{name}.safetensors").write_bytes(content)
        checksums[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
    checksums["state.json"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps({**body, "checksums": checksums}))
