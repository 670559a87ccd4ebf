"""Checkpoints are read as they were written, damage is named, and nothing is lost."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import models
from models.data import Images
from models.data.images import seeded
from models.training import checkpoint, fit, weights
from models.training.recipe import Recipe, recipe_for
from proof.where import ROOT

STATE = {
    "run": "0123",
    "options": {"name": "basecnn", "network": {"stages": [[4], [4]]}, "seed": 0},
    "model": {"a.weight": torch.randn(3, 4), "count": torch.tensor(7), "b": torch.ones(2).half()},
    "optimizer": {
        "state": {"a.weight": {"momentum_buffer": torch.randn(3, 4)}, "b": {}},
        "param_groups": [
            {"params": ["a.weight"], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
        ],
    },
    "average": None,
    "scaler": {},
    "place": [0, 1],
    "seen": [1.5, 2, 4],
    "metrics": [],
    "more": {0: torch.arange(4.0), "tensor": 1, "items": 2},
}  # fmt: skip


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return a == b


def test_what_is_read_is_what_was_written(tmp_path):
    checkpoint.save(tmp_path, STATE)
    assert equal(checkpoint.load(tmp_path), STATE)
    changed = {**STATE, "average": {"a.weight": torch.zeros(1)}}
    checkpoint.save(tmp_path, changed)
    assert equal(checkpoint.load(tmp_path / "checkpoint.json"), changed)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint.json", "tensors-1.safetensors"]


def test_a_kill_between_both_files_leaves_the_previous_checkpoint(tmp_path):
    checkpoint.save(tmp_path, STATE)
    (tmp_path / "tensors-1.safetensors").write_bytes(b"the next tensors, whole or not")
    assert equal(checkpoint.load(tmp_path), STATE)
    checkpoint.save(tmp_path, STATE)
    assert equal(checkpoint.load(tmp_path), STATE)
    assert len(list(tmp_path.iterdir())) == 2


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=original: (calls.append(n), f(*a)))
    checkpoint.save(tmp_path, STATE)
    assert calls == ["fsync", "replace"] * 2


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from models.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    checkpoint.save(Path(sys.argv[1]), {"model": {"w": torch.zeros(10**6)}})
except OSError as error:
    print("OSError:", error)
"""


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    """A limit of 64 KB per file makes the system refuse to write, as a full disk does."""
    checkpoint.save(tmp_path, STATE)
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "OSError:" in result.stdout and "tensors-1.safetensors" in result.stdout, result.stderr
    assert equal(checkpoint.load(tmp_path), STATE)
    assert len(list(tmp_path.iterdir())) == 2


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at .*checkpoint.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path, STATE)
    tensors, path = tmp_path / "tensors-0.safetensors", tmp_path / "checkpoint.json"
    whole, text = tensors.read_bytes(), path.read_text()
    for broken in (whole[:-5], whole[:20], b"", b"PK\x03\x04" + whole[4:]):
        tensors.write_bytes(broken)
        with pytest.raises(ValueError, match="tensors-0.safetensors is damaged or not whole"):
            checkpoint.load(tmp_path)
    tensors.unlink()
    with pytest.raises(ValueError, match="names tensors-0.safetensors, which is not there"):
        checkpoint.load(tmp_path)
    tensors.write_bytes(whole)
    path.write_text(text.replace('"model.a.weight"', '"model.b.weight"'))
    with pytest.raises(ValueError, match="safetensors lacks model.b.weight, which checkpoint.json"):
        checkpoint.load(tmp_path)
    for foreign in (text[:100], "{}", "[]", '{"format": "other"}'):
        path.write_text(foreign)
        with pytest.raises(ValueError, match="checkpoint.json is not a checkpoint that training"):
            checkpoint.load(tmp_path)


class Runs:
    """An object whose pickle runs code when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_no_code_runs(tmp_path):
    pickled = pickle.dumps(Runs())
    (tmp_path / "checkpoint.json").write_bytes(pickled)
    with pytest.raises(ValueError, match="is not a checkpoint that training wrote"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path / "other", STATE)
    (tmp_path / "other" / "tensors-0.safetensors").write_bytes(pickled)
    with pytest.raises(ValueError, match="is damaged or not whole"):
        checkpoint.load(tmp_path / "other")


def images_of(count=8, size=8):
    x = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=seeded(0))
    y = torch.arange(count) % 10
    return Images(x, y, x, y, tuple("0123456789"), (0.5,) * 3, (0.3,) * 3, flip=False)


SMALL = {"stages": ((4,), (4,)), "dense": (4, 4), "size": 8}


def test_a_network_comes_back_with_what_training_knew(tmp_path):
    for routers in ("fused", "eager"):
        model = models.create("basecnn_2_cc", routers=routers, **SMALL)
        recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=4, ema=0.5)
        names = {"name": "basecnn_2_cc", "data": "digits", "network": {"routers": routers, **SMALL}}
        fit(model, images_of(), recipe, out=tmp_path / routers, names=names, progress=False)
        network, record = weights.load_network(tmp_path / routers)
        assert not network.training and record["data"] == "digits" and len(record["metrics"]) == 1
        # The network comes back with the average, which was evaluated.
        state = checkpoint.load(tmp_path / routers)
        for name, value in network.state_dict().items():
            assert torch.equal(value, state["average"][name])
        assert any(not torch.equal(v, state["model"][k]) for k, v in state["average"].items())
    plain = json.loads((tmp_path / "fused" / "checkpoint.json").read_text())
    assert plain["options"]["network"]["dense"] == [4, 4]


def test_checkpoints_that_do_not_fit(tmp_path):
    state = {**STATE, "options": {"name": "basecnn"}, "model": {}}
    checkpoint.save(tmp_path, state)
    with pytest.raises(ValueError, match="holds basecnn, not widecnn"):
        models.create("widecnn", pretrained=tmp_path)
    with pytest.raises(ValueError, match="does not fit basecnn: (?s:.*)Missing key"):
        models.create("basecnn", pretrained=tmp_path)
    layer = {"weight": torch.zeros(2, 2), "more": torch.zeros(1)}
    checkpoint.save(tmp_path, {**state, "options": {}, "model": layer})
    with pytest.raises(ValueError, match="does not fit own: (?s:.*)Unexpected key.*more"):
        weights.load_weights(nn.Linear(2, 2, bias=False), "own", tmp_path)
    with pytest.raises(ValueError, match="does not name its network"):
        weights.load_network(tmp_path)


def test_a_run_that_began_before_a_value_of_the_recipe_existed(tmp_path):
    now = {"name": "basecnn", **Recipe().as_dict()}
    older = {name: value for name, value in now.items() if name != "balance"}
    weights.check_options(tmp_path, older, now)
    with pytest.raises(ValueError, match="resume: balance must be 0.0 as in .*, got 0.5"):
        weights.check_options(tmp_path, older, {**now, "balance": 0.5})


def test_images_that_have_changed_are_named_before_their_mean(tmp_path):
    before = {"names": ["a"], "mean": [0.5] * 3}
    held = {"preparation": before, **Recipe().as_dict()}
    weights.check_options(tmp_path, held, held)
    text = r"resume: the images have changed: their mean must be \[0.5, 0.5, 0.5\] as in"
    with pytest.raises(ValueError, match=text):
        weights.check_options(tmp_path, held, {**held, "preparation": {**before, "mean": [0] * 3}})
