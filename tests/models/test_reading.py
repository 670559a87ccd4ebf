"""A checkpoint is read whole and right, or refused with the name of its file."""

import copy
import json
import os
import random
import threading
import time

import pytest
import torch

from models.training import checkpoint, schema

STATE = {
    "run": "0123456789abcdef",
    "options": {"name": "basecnn", "data": "digits", "network": {"size": 8}, "seed": 0},
    "model": {"w": torch.randn(3, 4), "count": torch.tensor(7)},
    "optimizer": {
        "state": {"w": {"momentum_buffer": torch.randn(3, 4)}},
        "param_groups": [{"params": ["w"], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}],
    },
    "average": {"w": torch.randn(3, 4)},
    "scaler": {"scale": 4.0},
    "place": [1, 0],
    "seen": [0.0, 0.0, 0.0],
    "metrics": [
        dict.fromkeys(
            ("epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
             "images_per_second", "seconds", "gates/a/entropy"), 0.5,
        )
    ],
}  # fmt: skip


def written(folder, **changes):
    """The path and the content of the checkpoint of STATE with changes."""
    checkpoint.save(folder, {**copy.deepcopy(STATE), **changes})
    return folder / "checkpoint.json", json.loads((folder / "checkpoint.json").read_text())


def places(value, at=()):
    """The keys that lead to every value within a JSON value."""
    yield at
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def changed(whole, at, value):
    """A copy with another value at a place; without it if the value is ..."""
    copied = copy.deepcopy(whole)
    part = copied
    for key in at[:-1]:
        part = part[key]
    if value is ...:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("run",), ..., "run is missing"),
        (("run",), 5, "run must be text, got 5"),
        (("options",), ..., "options is missing"),
        (("options",), [], "options must be an object, got a list"),
        (("options", "name"), None, "options.name must be text, got null"),
        (("options", "network"), 3, "options.network must be an object, got 3"),
        (("model",), ..., "model is missing"),
        (("model", "w"), 1.0, "model.w must be a tensor, got 1.0"),
        (("optimizer", "state"), ..., "optimizer.state is missing"),
        (("optimizer", "state", "w"), None, "optimizer.state.w must be an object, got null"),
        (("optimizer", "param_groups", 0, "lr"), "1", "groups.0.lr must be a number, got '1'"),
        (("optimizer", "param_groups", 0, "params"), ["w", 2], "params.1 must be text, got 2"),
        (("average",), 0, "average must be an object or null, got 0"),
        (("scaler", "scale"), True, "scaler.scale must be a number, got True"),
        (("place",), [1], r"place must be 2 numbers from 0 on, got \[1\]"),
        (("place",), [1, -1], r"place must be 2 numbers from 0 on, got \[1, -1\]"),
        (("place", 0), 1.0, "place.0 must be a whole number, got 1.0"),
        (("place", 0), 2, "metrics must have a line for each of 2 epochs, got 1"),
        (("seen",), {}, "seen must be a list, got an object"),
        (("metrics", 0, "test_loss"), ..., "metrics.0.test_loss is missing"),
        (("metrics", 0, "gates/a/entropy"), None, "entropy must be a number, got null"),
        (("tensors",), ..., "tensors must be tensors-N.safetensors beside it, got None"),
        (("tensors",), 5, "tensors must be tensors-N.safetensors beside it, got 5"),
        (("tensors",), "../tensors-0.safetensors", "tensors must be tensors-N.safetensors beside"),
        (("tensors",), "/tensors-0.safetensors", "tensors must be tensors-N.safetensors beside"),
        (("tensors",), "tensors-0.safetensors/", "tensors must be tensors-N.safetensors beside"),
        (("tensors",), "tensors-0.safetensors\n", "tensors must be tensors-N.safetensors beside"),
        (("tensors",), "tensors-5.safetensors", "names tensors-5.safetensors, which is not there"),
        (("sha256",), ..., "tensors-0.safetensors is damaged or not whole: its SHA-256 is"),
        (("sha256",), "0" * 64, "tensors-0.safetensors is damaged or not whole: its SHA-256 is"),
        (("model",), {"items": 5}, "'int' object is not iterable"),
        (("model",), {"items": [[[], 1]]}, "unhashable type"),
        (("model", "w"), {"tensor": "none"}, "tensors-0.safetensors lacks none, which checkpoint"),
        (("format",), "mpkernels checkpoint 3", "format must be 'mpkernels checkpoint 2', got"),
    ],
)  # fmt: skip
def test_every_key_and_its_type_are_checked(at, value, message, tmp_path):
    path, whole = written(tmp_path)
    path.write_text(json.dumps(changed(whole, at, value)))
    with pytest.raises(ValueError, match=f"{tmp_path}/.*{message}"):
        checkpoint.load(tmp_path)


def test_the_table_names_every_key_of_a_state():
    assert STATE.keys() == schema.STATE.keys()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 9999])
def test_numbers_that_are_none(text, tmp_path):
    path, whole = written(tmp_path)
    path.write_text(json.dumps({**whole, "more": "HERE"}).replace('"HERE"', text))
    with pytest.raises(ValueError, match=f"{path} is not a checkpoint that training wrote"):
        checkpoint.load(tmp_path)


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    path, whole = written(tmp_path)
    with pytest.raises(
        FloatingPointError, match=r"seen\.0 is not finite: the checkpoint is not wr"
    ):
        written(tmp_path, seen=[float("nan"), 0, 0])
    assert json.loads(path.read_text()) == whole


def test_any_damaged_byte_of_the_tensors_is_found(tmp_path):
    written(tmp_path)
    tensors = tmp_path / "tensors-0.safetensors"
    whole = tensors.read_bytes()
    for at in range(len(whole)):
        tensors.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="tensors-0.safetensors is damaged or not whole"):
            checkpoint.load(tmp_path)


def test_links_are_not_followed(tmp_path):
    written(tmp_path / "other")
    path, _ = written(tmp_path / "own")
    (tmp_path / "own/tensors-0.safetensors").unlink()
    (tmp_path / "own/tensors-0.safetensors").symlink_to(tmp_path / "other/tensors-0.safetensors")
    with pytest.raises(ValueError, match=r"own/tensors-0\.safetensors is a link"):
        checkpoint.load(path)


def older(folder):
    """Writes a checkpoint as version 1 wrote it."""
    path, whole = written(folder)
    new = {key: value for key, value in whole.items() if key not in ("run", "sha256")}
    path.write_text(json.dumps({**new, "format": "mpkernels checkpoint 1"}))
    return path


def test_checkpoints_of_the_first_version_are_read(tmp_path):
    older(tmp_path)
    state = checkpoint.load(tmp_path)
    assert state["run"] == "" and torch.equal(state["model"]["w"], STATE["model"]["w"])
    checkpoint.save(tmp_path, {**STATE, "run": "1"})
    assert checkpoint.load(tmp_path)["run"] == "1"


def test_a_run_that_is_being_written_is_read(tmp_path):
    """Saves follow each other as fast as they can; a reader must see one of them, whole."""
    written(tmp_path)
    ended, seen = threading.Event(), set()

    def write():
        for at in range(60):
            written(tmp_path, model={"w": torch.full((1000,), float(at))}, scaler={"at": at})
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        state = checkpoint.load(tmp_path)
        if "at" in state["scaler"]:
            seen.add(state["scaler"]["at"])
            assert (state["model"]["w"] == state["scaler"]["at"]).all()
    writer.join()
    assert len(seen) > 5


def test_reading_again_has_an_end(tmp_path, monkeypatch):
    path, _ = written(tmp_path)
    reads = []

    def state(path, data):
        reads.append(data)
        path.write_bytes(data + b" ")
        raise ValueError(f"{path} changes")

    monkeypatch.setattr(checkpoint, "_state", state)
    with pytest.raises(ValueError, match="changes"):
        checkpoint.load(path)
    assert len(reads) == 10


def refused_or_read(folder):
    """Whether a checkpoint is read; else it must be refused in the right way."""
    try:
        checkpoint.load(folder)
    except (ValueError, FileNotFoundError, OSError) as error:
        assert str(folder) in str(error), error
        return False
    return True


VALUES = (None, True, 0, -1, 1.5, "", "w", [], {}, [[]], {"tensor": "model.w"}, {"tensor": 5},
          {"tensor": []}, {"items": 5}, {"items": [1]}, {"items": [[1, 2, 3]]}, "\ud800",
          10**30)  # fmt: skip


@pytest.mark.parametrize("writer", [written, older])
def test_mutations_of_the_text_are_refused_by_name(writer, tmp_path):
    writer(tmp_path)
    path = tmp_path / "checkpoint.json"
    text = path.read_text()
    whole, chance = json.loads(text), random.Random(0)
    mutations = [json.dumps(value) for value in VALUES]
    for at in list(places(whole))[1:]:
        mutations += [json.dumps(changed(whole, at, value)) for value in (*VALUES, ...)]
    for _ in range(1500):
        at, length = chance.randrange(len(text)), chance.choice((0, 1, 1, 2, 20))
        new = chance.choice(("", "9", '"', "{", "}", "[", ",", "\x00", "é", "e999", text[:20]))
        mutations.append(text[:at] + new + text[at + length :])
    assert len(mutations) > 2400
    outcomes = []
    for mutation in mutations:
        path.write_text(mutation, "utf-8")
        outcomes.append(refused_or_read(tmp_path))
    assert 0.5 < 1 - sum(outcomes) / len(outcomes) < 1


@pytest.mark.parametrize("writer", [written, older])
def test_mutations_of_the_tensors_are_refused_by_name(writer, tmp_path):
    writer(tmp_path)
    path = tmp_path / "tensors-0.safetensors"
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(1500):
        at = chance.randrange(chance.choice((10, 400, len(whole))))
        new = bytes(chance.randrange(256) for _ in range(chance.choice((0, 1, 4))))
        path.write_bytes(whole[:at] + new + whole[at + chance.choice((0, 1, 4)) :])
        read = refused_or_read(tmp_path)
        assert writer is older or not read or path.read_bytes() == whole


def test_what_is_no_file_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.json")
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        checkpoint.load(tmp_path)
    assert time.monotonic() - begin < 5
