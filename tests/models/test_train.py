"""Training: the recipe, augmentation, exact resume, and networks that learn."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import models
from models import data
from models.data import normalise
from models.data.images import augment
from models.environment import environment
from models.train import main
from models.training import fit, judge
from models.training.parallel import Processes
from models.training.recipe import read, recipe_for
from models.training.runs import Run
from models.training.step import COMPILE_MODES

TIMING = ("images_per_second", "seconds")


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


# Guessing reaches 10 %; four epochs over 1,442 digits reached 99 %. Below 90 % the routers do not
# pass on what the paths have learned.
@pytest.mark.slow
@pytest.mark.parametrize("routers", ["fused", "eager"])
def test_learns_digits(routers):
    torch.use_deterministic_algorithms(False)
    images = data.load("digits")
    torch.manual_seed(0)
    model = models.create("basecnn_2_cc", routers=routers)
    metrics = fit(model, images, recipe_for("basecnn_2_cc", epochs=4), progress=False)
    assert metrics[-1]["test_accuracy"] > 0.9
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]


def losses(routers, steps, dtype=torch.float64):
    """The losses of the first steps on real digits, from one seed."""
    torch.manual_seed(0)
    model = models.create("basecnn_2_cp", routers=routers).to(dtype)
    images = data.load("digits", limit=64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    values = []
    for part in torch.arange(64).split(16)[:steps]:
        logits = model(normalise(images, images.train_x[part]).to(dtype))
        loss = torch.nn.functional.cross_entropy(logits, images.train_y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_fused_and_eager_cross_prediction_train_alike():
    # Float64, since in float32 rounding decides ties of max pools in flat regions of an image and
    # with them the third digit of gradients. A wrong gradient shows in the second loss.
    for fused, eager in zip(losses("fused", 4), losses("eager", 4), strict=True):
        assert abs(fused - eager) <= 2**-53 * 1e6 * eager


def test_cross_predicted_networks_train_from_the_command_line(tmp_path):
    losses = []
    for routers in ("fused", "eager"):
        arguments = ["basecnn_2_cp", "--data", "digits", "--limit", "32", "--epochs", "1"]
        out = ["--batch-size", "32", "--out", str(tmp_path / routers), "--routers", routers]
        assert main([*arguments, *out]) == 0
        losses.append(lines(tmp_path / routers)[0]["train_loss"])
    # One step in float32, whose loss is computed before its update.
    assert abs(losses[0] - losses[1]) <= 2**-24 * 1e3 * losses[1]


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
    expected = torch.nn.functional.cross_entropy(logits, y)
    for output in (logits, (logits, "more")):
        loss, judged = judge(torch.nn.Identity(), output, y)
        assert loss == expected and judged is logits
    for output, found in (({"logits": logits}, "dict"), ((), "tuple"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"the network must return logits.*got {found}$"):
            judge(torch.nn.Identity(), output, y)


def trained(images, compile=None, **values):
    """The only line of metrics and all weights of a small float64 network, from one seed."""
    torch.manual_seed(0)
    model = models.create("highway", stages=((4,),), size=32).double()
    recipe = recipe_for("highway", epochs=1, batch_size=8, **values)
    (line,) = fit(model, WideImages(images), recipe, progress=False, compile=compile)
    return line, torch.cat([p.detach().flatten() for p in model.parameters()])


def test_options_of_the_engine():
    for count in (24, 21):  # with 21 images the last batch has five, in four parts
        images = data.load("digits", limit=count)
        line, weights = trained(images)
        # Without batch norm the gradients of a batch's parts add up to the batch's.
        assert (trained(images, accumulate=4)[1] - weights).abs().max() <= 2**-53 * 1e6
    assert not torch.equal(trained(images, clip=1e-3)[1], weights)
    assert torch.equal(trained(images, clip=1e9)[1], weights)
    # The average changes what is evaluated, not how the weights are trained.
    average, same_weights = trained(images, ema=0.9)
    assert torch.equal(same_weights, weights) and average["test_loss"] != line["test_loss"]
    assert trained(images, label_smoothing=0.1)[0]["train_loss"] != line["train_loss"]
    with pytest.raises(ValueError, match="label_smoothing must be 0: the network has a loss"):
        fit(WithLoss(), images, recipe_for("own", epochs=1, label_smoothing=0.1))
    with pytest.raises(ValueError, match="ema must be 0 where the weights are spread"):
        fit(WithLoss(), images, recipe_for("own", ema=0.9), processes=Processes(kind="fsdp"))


def test_batch_norm_has_two_images_in_each_part_of_a_short_batch():
    images = data.load("digits", limit=21)  # batches of 16 and of five, the latter in several parts
    model = models.create("basecnn_2_cc", stages=((4,),), dense=(4, 4))
    recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=16, accumulate=4)
    (line,) = fit(model, images, recipe, progress=False)
    assert line["train_loss"] > 0


def test_the_environment_without_git(monkeypatch):
    assert environment("cpu")["commit"]
    monkeypatch.setenv("PATH", "/none")
    assert environment("cpu")["commit"] is None


@pytest.mark.slow
def test_compiled_training():
    torch.use_deterministic_algorithms(False)
    images = data.load("digits", limit=24)
    line, weights = trained(images)
    for mode in COMPILE_MODES:
        compiled_line, compiled_weights = trained(images, compile=mode)
        assert (compiled_weights - weights).abs().max() <= 2**-53 * 1e6
        assert abs(compiled_line["test_loss"] - line["test_loss"]) <= 2**-53 * 1e6


class WideImages:
    """Images in float64, so that sums in a different order stay close."""

    def __init__(self, images):
        self.images = images

    def __getattr__(self, name):
        return getattr(self.images, name)

    def train_batches(self, *arguments):
        return ((x.double(), y) for x, y in self.images.train_batches(*arguments))

    def test_batches(self, *arguments):
        return ((x.double(), y) for x, y in self.images.test_batches(*arguments))


def test_the_command_line(tmp_path, capsys):
    """The command takes network options, a recipe file, initial weights and a dry run."""
    (tmp_path / "mine.toml").write_text("epochs = 3\nbatch_size = 16\nmilestones = [2]\n")
    small = ["--option", "stages=((4,),(4,))", "--option", "dense=(4,4)", "--limit", "32"]
    arguments = [
        "basecnn_2_cc",
        "--data",
        "digits",
        *small,
        "--recipe",
        str(tmp_path / "mine.toml"),
    ]
    assert main([*arguments, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    options = json.loads((tmp_path / "run" / "checkpoint.json").read_text())["options"]
    assert options["batch_size"] == 16 and options["milestones"] == [1]
    assert options["network"]["stages"] == [[4], [4]]
    resolved = read(str(tmp_path / "run" / "recipe.toml"))
    assert (resolved.epochs, resolved.batch_size, resolved.milestones) == (1, 16, (1,))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    capsys.readouterr()
    again = [*arguments, "--pretrained", str(tmp_path / "run"), "--dry-run"]
    assert main([*again, "--out", str(tmp_path / "none")]) == 0
    output = capsys.readouterr().out
    assert "trainable parameters" in output and "epochs = 3" in output and "hours on" in output
    assert not (tmp_path / "none").exists()
    assert main([*arguments, "--option", "width=3"]) == 2
    assert "option must be NAME=VALUE with one of" in capsys.readouterr().err


def test_tensorboard_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="tensorboard is not installed: pip install tensorboard"):
        Run(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["basecnn_9", "--data", "digits"], "invalid choice: 'basecnn_9'"),
        (["basecnn", "--data", "mnist"], "invalid choice: 'mnist'"),
        (["basecnn", "--data", "digits", "--amp", "fp16", "--device", "cpu"], "amp fp16 needs"),
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
