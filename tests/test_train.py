"""Training: the recipe, augmentation, exact resume, and networks that learn."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import models
from models import data
from models.augment import augment
from models.data import normalise
from models.recipe import recipe_for
from models.train import main
from models.training import fit, judge

ROOT = Path(__file__).parents[1]
TIMING = ("images_per_second", "seconds")


def test_the_recipe_is_the_papers():
    recipe = recipe_for("basecnn_2_cc")
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.shift) == (200, 128, 0.9, 4)
    rates = [recipe.rate(epoch) for epoch in (0, 79, 80, 149, 150, 199)]
    assert rates == [0.1, 0.1, 0.1 / 10, 0.1 / 10, 0.1 / 100, 0.1 / 100]
    short = recipe_for("basecnn_2_cc", epochs=20)
    assert [short.rate(epoch) for epoch in (7, 8, 14, 15)] == [0.1, 0.01, 0.01, 0.001]
    for wrong in ({"epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"amp": "fp8"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            recipe_for("basecnn", **wrong)


def test_augmentation_shifts_and_mirrors():
    x = torch.arange(2 * 3 * 6 * 6).view(2, 3, 6, 6).float() + 1
    padded = torch.nn.functional.pad(x, (2,) * 4)

    for mirrored in (False, True):
        for row in range(5):
            for col in range(5):
                offsets, mirror = (
                    torch.tensor([[row, 2], [col, 2]]),
                    torch.tensor([mirrored, False]),
                )
                y = augment(x, 2, offsets, mirror)
                window = padded[0, :, row : row + 6, col : col + 6]
                assert torch.equal(y[0], window.flip(2) if mirrored else window)
                assert torch.equal(y[1], x[1])


def test_an_images_augmentation_follows_from_seed_epoch_and_image_alone():
    images = replace(data.load("digits", limit=40), flip=True)
    whole = torch.arange(40)

    def batches(parts, seed=0, epoch=0):
        return torch.cat([x for x, _ in images.train_batches(parts, 4, seed, epoch, "cpu")])

    together = batches([whole])
    assert torch.equal(together, batches(whole.split(7)))
    assert torch.equal(together[20:], batches([whole[20:]]))
    for other in (batches([whole], seed=1), batches([whole], epoch=1)):
        assert not torch.equal(together, other)
    plain = data.normalise(images, images.train_x)
    assert sum(torch.equal(a, b) for a, b in zip(together, plain)) < 4


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def command(out, *more):
    arguments = ["basecnn_2_cc", "--data", "digits", "--limit", "256", "--epochs", "3"]
    fixed = [*arguments, "--batch-size", "32", "--out", str(out)]
    return [sys.executable, "-m", "models.train", *fixed, *more]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)


def test_an_interrupted_run_resumes_exactly(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    part = tmp_path / "part"
    process = subprocess.Popen(command(part), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    seen = ""
    while "epoch 2/3:  " not in seen or "loss" not in seen.rpartition("epoch 2/3:")[2]:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "--resume" in message
    place = torch.load(part / "checkpoint.pt", weights_only=True)["place"]
    assert place[0] == 1 and 0 < place[1] < 8, "it must stop inside the second epoch"
    assert len(lines(part)) == 1

    again = run(part, "--resume")
    assert again.returncode == 0, again.stderr
    assert lines(part) == lines(tmp_path / "whole") and len(lines(part)) == 3
    states = [
        torch.load(folder / "checkpoint.pt", weights_only=True)
        for folder in (part, tmp_path / "whole")
    ]
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name
    assert (part / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(p.name for p in part.iterdir()) == [
        "checkpoint.pt",
        "curves.png",
        "metrics.jsonl",
    ]

    before = (part / "checkpoint.pt").read_bytes()
    for arguments, reason in (
        ((), "exists: resume it, or choose another folder"),
        (("--resume", "--seed", "1"), "seed must be 0"),
        (("--resume", "--routers", "eager"), "routers must be 'fused'"),
        (("--resume", "--limit", "128"), "images must be 256"),
    ):
        refused = run(part, *arguments)
        assert refused.returncode == 2 and reason in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert (part / "checkpoint.pt").read_bytes() == before


# A network that guesses reaches 10 %; four epochs over 1,442 digits reached 99 %. Below 90 % the
# routers do not pass on what the paths have learned.
@pytest.mark.parametrize("routers", ["fused", pytest.param("eager", marks=pytest.mark.slow)])
def test_learns_digits(routers):
    torch.use_deterministic_algorithms(False)
    images = data.load("digits")
    torch.manual_seed(0)
    model = models.create("basecnn_2_cc", routers=routers)
    metrics = fit(model, images, recipe_for("basecnn_2_cc", epochs=4), progress=False)
    assert metrics[-1]["test_accuracy"] > 0.9
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]


def losses(routers, steps, dtype=torch.float64):
    """Of the first steps on real digits, from one seed."""
    torch.manual_seed(0)
    model = models.create("basecnn_2_cp", routers=routers).to(dtype)
    images = data.load("digits", limit=64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    found = []
    for part in torch.arange(64).split(16)[:steps]:
        logits = model(normalise(images, images.train_x[part]).to(dtype))
        loss = torch.nn.functional.cross_entropy(logits, images.train_y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_fused_and_eager_cross_prediction_train_alike():
    # Float64, since in float32 rounding decides ties of max pools in the even parts of an image,
    # and with them the third digit of gradients. A wrong gradient shows in the second loss.
    for fused, eager in zip(losses("fused", 4), losses("eager", 4), strict=True):
        assert abs(fused - eager) <= 2**-53 * 1e6 * eager


def test_cross_predicted_networks_train_from_the_command_line(tmp_path):
    found = []
    for routers in ("fused", "eager"):
        arguments = ["basecnn_2_cp", "--data", "digits", "--limit", "32", "--epochs", "1"]
        out = ["--batch-size", "32", "--out", str(tmp_path / routers), "--routers", routers]
        assert main([*arguments, *out]) == 0
        found.append(lines(tmp_path / routers)[0]["train_loss"])
    # One step of float32: the loss before its update.
    assert abs(found[0] - found[1]) <= 2**-24 * 1e3 * found[1]


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_other_ways_to_train(amp, channels_last):
    images = data.load("digits", limit=64)
    model = models.create("basecnn_2_cc", channels_last=channels_last)
    recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=32, amp=amp)
    (line,) = fit(model, images, recipe, progress=False)
    assert 0 < line["train_loss"] < 10


class WithLoss(torch.nn.Module):
    """Returns more than logits, and has a loss that needs it."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3 * 32 * 32, 10)
        self.targets = []

    def forward(self, x):
        logits = self.head(x.flatten(1))
        return logits, x.mean((1, 2, 3))

    def loss(self, output, target):
        logits, brightness = output
        self.targets.append(len(target))
        return torch.nn.functional.cross_entropy(logits, target) + 100 + 0 * brightness.sum()


def test_a_network_with_its_own_loss():
    images = data.load("digits", limit=64)
    model = WithLoss()
    (line,) = fit(model, images, recipe_for("own", epochs=1, batch_size=32), progress=False)
    assert line["train_loss"] > 100 and line["test_loss"] > 100
    assert model.targets == [32, 32, len(images.test_y)]
    assert line["train_accuracy"] > 0 and line["test_accuracy"] > 0


def test_a_network_without_one_has_cross_entropy():
    logits, y = torch.randn(5, 10), torch.arange(5)
    wanted = torch.nn.functional.cross_entropy(logits, y)
    for output in (logits, (logits, "more")):
        loss, found = judge(torch.nn.Identity(), output, y)
        assert loss == wanted and found is logits


def test_a_loss_that_is_not_finite_stops():
    images = data.load("digits", limit=64)
    recipe = recipe_for("basecnn", epochs=3, batch_size=32, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="the loss is .* in epoch .* try a lower --lr"):
        fit(models.create("basecnn"), images, recipe, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["basecnn_9", "--data", "digits"], "invalid choice: 'basecnn_9'"),
        (["basecnn", "--data", "mnist"], "invalid choice: 'mnist'"),
        (["basecnn", "--data", "digits", "--amp", "fp16", "--device", "cpu"], "--amp fp16 needs"),
        (["basecnn", "--data", "digits", "--epochs", "0"], "epochs must be positive, got 0"),
        (["basecnn", "--data", "folder"], "name it with --data-dir"),
        (["basecnn", "--data", "digits", "--resume"], "there is no checkpoint at"),
    ],
)
def test_bad_commands(arguments, message, capsys, tmp_path):
    try:
        status = main([*arguments, "--out", str(tmp_path / "none")])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_first_epoch_always_trains_at_the_full_rate():
    assert recipe_for("basecnn", epochs=1).rate(0) == 0.1
    rates = [recipe_for("basecnn", epochs=200).rate(epoch) for epoch in (0, 79, 80, 149, 150)]
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001]
