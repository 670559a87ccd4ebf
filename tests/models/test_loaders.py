"""The trainer as a library: a user's module, datasets and DataLoaders."""

import json
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from models.data import Loaders, Preparation
from models.training import Recipe, fit
from proof.where import ROOT


class Noisy(Dataset):
    """Pictures of two classes, bright and dark, with noise from three generators."""

    def __init__(self, count, noise=0.1):
        self.count, self.noise = count, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = torch.full((3, 8, 8), float(index % 2))
        x += self.noise * (torch.randn(()) + random.gauss(0, 1) + float(np.random.randn()))
        return x, index % 2


class Two(nn.Module):
    """A network of the user's, with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def loaders(workers=0, count=37):
    more = {"num_workers": workers}
    return Loaders(
        DataLoader(Noisy(count), **more), DataLoader(Noisy(20, 0.0), **more), ("dark", "bright")
    )


def run(folder=None, epochs=3, resume=False, images=None, extend=False):
    torch.manual_seed(0)
    model = Two()
    recipe = Recipe(epochs=epochs, batch_size=8, milestones=(9,), learning_rate=0.1)
    options = {"out": folder, "resume": resume, "extend": extend, "progress": False}
    return model, fit(model, images or loaders(), recipe, **options)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_it_learns():
    assert run(epochs=4)[1][-1]["test_accuracy"] == 1


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    """Random transforms follow from (seed, epoch, image), whichever generator they draw from."""
    whole, _ = run()
    run(tmp_path, epochs=1)
    random.seed(5), np.random.seed(6), torch.rand(7)
    longer, metrics = run(tmp_path, resume=True, extend=True)
    assert same(whole, longer) and len(metrics) == 3


STUCK = """
import sys, time, torch
from torch.utils.data import DataLoader, TensorDataset
from models.data import Loaders
from models.training import Recipe, fit

class Stuck(TensorDataset):
    def __getitem__(self, index):
        print("reading", flush=True)
        while True:
            time.sleep(60)

x, y = torch.zeros(8, 3, 4, 4), torch.zeros(8, dtype=torch.long)
images = Loaders(DataLoader(Stuck(x, y)), DataLoader(TensorDataset(x, y)), ("dark", "bright"))
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
fit(model, images, Recipe(epochs=1, batch_size=8), out=sys.argv[1])
"""


def test_a_second_ctrl_c_ends_a_step_that_never_does(tmp_path):
    command = [sys.executable, "-c", STUCK, str(tmp_path / "text")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as child:
        try:
            assert child.stdout.readline() == "reading\n"
            child.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.5)
            child.send_signal(signal.SIGINT)
            assert child.wait(5) == -signal.SIGINT
        finally:
            child.kill()
    assert (tmp_path / "text/recipe.toml").exists()


def test_signals_are_as_before_when_training_has_ended():
    before = signal.getsignal(signal.SIGINT)
    run(epochs=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_change_nothing():
    assert same(run()[0], run(images=loaders(workers=2))[0])


def test_images_do_not_depend_on_their_batch_nor_disturb_generators():
    images = loaders()
    state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    (a, _), (b, _) = images.train_batches([torch.tensor([3]), torch.tensor([5, 3])], 0, 1, 2, "cpu")
    assert torch.equal(a[0], b[1]) and not torch.equal(a[0], b[0])
    assert random.getstate() == state[0] and (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(torch.get_rng_state(), state[2])
    ((c, _),) = images.train_batches([torch.tensor([3])], 0, 1, 3, "cpu")
    assert not torch.equal(a, c)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_what_loaders_must_hold():
    dataset = TensorDataset(torch.zeros(2, 3, 8, 8), torch.zeros(2))
    good = DataLoader(dataset)
    prepared = Preparation(("b", "a"), (0.0,) * 3, (1.0,) * 3, 8, 8)
    for arguments, kind, reason in (
        (
            (DataLoader(Stream()), good, ("a",)),
            TypeError,
            "train must hold .* got Stream",
        ),
        ((good, DataLoader(Stream()), ("a",)), TypeError, "test must hold a dataset"),
        ((good, dataset, ("a",)), TypeError, "test must be a DataLoader, got TensorDataset"),
        (
            (DataLoader(dataset, sampler=WeightedRandomSampler([1, 2], 2)), good, ("a",)),
            ValueError,
            "train must have no sampler of its own",
        ),
        ((good, good, ("a", "b"), prepared), ValueError, "names must be those of preparation"),
        (
            (good, good, ("a", "a"), Preparation(("a", "a"), (0.0,), (1.0,), 8, 4)),
            ValueError,
            "names of a preparation",
        ),
    ):
        with pytest.raises(kind, match=reason):
            Loaders(*arguments)
    with pytest.raises(ValueError, match="crops must be 1, got 10"):
        loaders().test_batches([], "cpu", 10)


X, Y = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "batch, reason",
    [
        ((X, Y, Y), "a pair of images and labels, got tuple of 3"),
        ({"x": X, "y": Y}, "a pair of images and labels, got dict"),
        ((X[:2], Y[:2]), r"for a batch of 4, got \[2, 3, 8, 8\] and \[2\]"),
        ((X, Y[:, None]), r"labels \[4\] for a batch of 4"),
        ((X.byte(), Y), "images must be torch.float32 .* got torch.uint8"),
        ((X, Y.float()), "labels must be torch.int64 .* got torch.float32"),
        ((X, Y.tolist()), "labels must be torch.int64 .* got list"),
        ((X, Y - 100), "labels must be from 0 to 1, got -100"),
        ((X, Y + 1), "labels must be from 0 to 1, got 1 to 2"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_that_would_be_counted_wrongly(batch, reason, workers):
    dataset = TensorDataset(X, Y)
    good = DataLoader(dataset)
    bad = DataLoader(dataset, collate_fn=lambda items: batch, num_workers=workers)
    begin = time.monotonic()
    for images, read in (
        (Loaders(bad, good, ("a", "b")), lambda i, p: i.train_batches(p, 0, 0, 0, "cpu")),
        (Loaders(good, bad, ("a", "b")), lambda i, p: i.test_batches(p, "cpu")),
    ):
        with pytest.raises((TypeError, ValueError), match=reason):
            next(read(images, [torch.arange(4)]))
    assert time.monotonic() - begin < 5


class OwnGenerator(Noisy):
    """A transform that has a generator of its own, seeded as PyTorch's guide says."""

    generator = None

    def __getitem__(self, index):
        if self.generator is None:
            self.generator = np.random.default_rng(torch.utils.data.get_worker_info().seed)
        return torch.full((3, 8, 8), self.generator.random(), dtype=torch.float32), index % 2


def test_workers_are_seeded_anew_each_epoch():
    begun = []
    made = DataLoader(OwnGenerator(8), num_workers=1, worker_init_fn=begun.append)
    images = Loaders(made, made, ("dark", "bright"))
    drawn = [
        next(images.train_batches([torch.arange(8)], 0, 0, epoch, "cpu"))[0] for epoch in (0, 1, 0)
    ]
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_other_names_are_another_run(tmp_path):
    run(tmp_path, epochs=1)
    other = loaders()
    other = Loaders(other.train, other.test, ("bright", "dark"))
    with pytest.raises(ValueError, match=r"resume: classes must be \['dark', 'bright'\]"):
        run(tmp_path, resume=True, extend=True, images=other)


def test_a_cosine_is_not_extended(tmp_path):
    run(tmp_path, epochs=1)
    recipe = Recipe(epochs=2, batch_size=8, schedule="cosine")
    for options, reason in (
        ({"resume": True}, "schedule must be steps"),
        ({}, "a run that goes on is wanted"),
    ):
        with pytest.raises(ValueError, match=f"extend: {reason}"):
            fit(Two(), loaders(), recipe, out=tmp_path, extend=True, **options)


def test_training_in_a_thread():
    done = []
    thread = threading.Thread(target=lambda: done.append(run(epochs=1)))
    thread.start()
    thread.join()
    assert len(done[0][1]) == 1


def test_the_example_in_the_documentation(tmp_path):
    text = (ROOT / "docs/training.md").read_text()
    code = text.partition("## The trainer as a library")[2].partition("```python")[2]
    code = code.partition("```")[0]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    run = next((tmp_path / "runs").iterdir())
    held = json.loads((run / "checkpoint.json").read_text())["options"]
    assert held["epochs"] == 2
