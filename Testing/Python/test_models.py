"""Models as folders: found, renamed, exported, imported; nothing in a zip leads elsewhere."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from SemiSupSegLib.errors import ErrorCode, ModelError, SemiSupSegError
from SemiSupSegLib.labels import LabelSchema, SegmentClass
from SemiSupSegLib.models import Model, import_zip


def _weights(content: bytes, **changes) -> bytes:
    """A safetensors file of one tensor."""
    tensor = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)], **changes}
    header = json.dumps({"a": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + content


@pytest.fixture
def model(tmp_path) -> Model:
    folder = tmp_path / "my model é"
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(_weights(b"teacher"))
    (folder / "student.safetensors").write_bytes(_weights(b"student"))
    schema = LabelSchema((SegmentClass("left atrium", color=(0.1, 0.2, 0.3)), SegmentClass("Vene, ü")))
    made = Model(folder, "first", schema, "sp3", {"dimensions": 3}, largest_component=(1,), mirror=(True, False, False))
    made.save_description()
    return made


def test_a_model_is_read_back_as_it_was_written(model):
    assert Model.load(model.folder) == model


def test_a_model_is_found_in_its_run(model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    model.folder.rename(run / "model")
    assert Model.load(run).folder == run / "model"


def test_a_folder_without_model_says_so(tmp_path):
    with pytest.raises(ModelError, match="no trained model") as caught:
        Model.load(tmp_path)
    assert caught.value.code is ErrorCode.MISSING_FILE


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": 99},
        {"schema_version": 1e999},
        {"schema_version": None},
        {"classes": 3},
        {"recommended": "../../somewhere/else"},
        {"mirror": [True]},
        {"largest_component": ["x"]},
        {"plan": 5},
    ],
)
def test_a_description_that_cannot_be_is_refused(model, damage):
    file = model.folder / "model.json"
    text = json.dumps({**json.loads(file.read_text()), **damage}).replace("Infinity", "1e999")
    file.write_text(text)
    with pytest.raises(SemiSupSegError):
        Model.load(model.folder)


def test_renaming_changes_the_name_alone(model):
    assert Model.load(model.renamed(" second ").folder).name == "second"
    assert model.weights_file().read_bytes() == _weights(b"teacher")
    with pytest.raises(ModelError):
        model.renamed("  ")


def test_missing_weights_are_named(model):
    assert model.weights_file("student").name == "student.safetensors"
    with pytest.raises(ModelError, match="'first' has no weights of its best network"):
        model.weights_file("best")


def test_export_and_import_give_the_same_model_elsewhere(model, tmp_path):
    copy = import_zip(model.export_zip(tmp_path / "shared model.zip"), tmp_path / "new" / "folder")
    assert copy.schema == model.schema
    assert copy.weights_file().read_bytes() == _weights(b"teacher")
    assert copy.size_bytes == model.size_bytes
    assert not list(tmp_path.glob("**/.tmp-*"))


def test_import_never_overwrites(model, tmp_path):
    file = model.export_zip(tmp_path / "model.zip")
    with pytest.raises(ModelError, match="exists already"):
        import_zip(file, model.folder)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/tmp/evil", "sub/teacher.safetensors", "evil.pkl", "teacher.safetensors/"]
)
def test_a_zip_that_holds_anything_else_is_refused(model, tmp_path, name):
    file = model.export_zip(tmp_path / "model.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(ModelError, match="isn't a model file"):
        import_zip(file, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
    assert not list(tmp_path.glob("**/evil*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"weights",
        pickle.dumps({"weight": [1.0]}),
        _weights(b"abc")[:-1],
        _weights(b"abc", data_offsets=[0, 2**40]),
        _weights(b"abc", data_offsets=[-1, 3]),
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
    ],
)
def test_a_zip_whose_weights_are_none_is_refused(model, tmp_path, content):
    (model.folder / "student.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="holds no weights"):
        import_zip(model.export_zip(tmp_path / "model.zip"), tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_a_zip_without_the_recommended_weights_is_refused(model, tmp_path):
    (model.folder / "teacher.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights of its teacher"):
        import_zip(model.export_zip(tmp_path / "model.zip"), tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_links_in_a_zip_are_refused(model, tmp_path):
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for each in model.folder.iterdir():
            entry = zipfile.ZipInfo(each.name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, each.read_bytes())
    with pytest.raises(ModelError, match="isn't a model file"):
        import_zip(file, tmp_path / "imported")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(model, tmp_path):
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(model.folder / "model.json", "model.json")
        with archive.open("teacher.safetensors", "w") as stream:
            for _ in range(80):
                stream.write(bytes(2**20))
    with pytest.raises(ModelError, match="too large"):
        import_zip(file, tmp_path / "imported")
    assert {each.name for each in tmp_path.iterdir()} == {model.folder.name, "model.zip"}


def test_a_zip_whose_entries_lie_at_impossible_places_is_refused(model, tmp_path):
    content = bytearray(model.export_zip(tmp_path / "model.zip").read_bytes())
    directory = content.rindex(b"PK\x05\x06")
    content[directory + 16 : directory + 20] = (2**31).to_bytes(4, "little")
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ModelError, match="isn't a model file"):
        import_zip(tmp_path / "model.zip", tmp_path / "imported")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_is_refused_or_gives_a_model(model, tmp_path, data):
    deflated = tmp_path / "deflated.zip"
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in model.folder.iterdir():
            archive.write(file, file.name)
    content = bytearray(deflated.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    refusals = []
    try:
        import_zip(damaged, tmp_path / "imported").delete()
    except SemiSupSegError as error:
        refusals.append(error.message)
    assert all(message.endswith(".") for message in refusals)
    assert not (tmp_path / "imported").exists()


def test_deleting_spares_what_else_is_in_the_folder(model):
    (model.folder / "notes.txt").write_text("mine")
    model.delete()
    assert [file.name for file in model.folder.iterdir()] == ["notes.txt"]
