"""Fused against eager routers: the same network, the same accuracy, the time that routers take.

`python -m benchmarks.demo` trains basecnn_2_cc on scanned digits with either kind of routers from
one seed, times both in one process, round by round, and shows what the gates differ by.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import machine
from benchmarks.demo import gates, timing
from benchmarks.demo.timing import BATCH, KINDS, PARTS
from benchmarks.training import build
from models import data
from models.columns import columns
from models.data import Images
from models.environment import environment
from models.paper.ablation import ablation
from models.training.files import write_text
from models.training.loop import fit
from models.training.recipe import Recipe, recipe_for

NAME = "basecnn_2_cc"
EPOCHS, ROUNDS = 5, 15
# The paper's recipe is for 50,000 images. An epoch has 45 such batches here: enough that the
# running statistics of batch norm follow the weights, which are what the test sees.
SMALL = {"batch_size": 32, "learning_rate": 0.01}
IMAGES = 45 * 32  # of 1,442: batch norm over the two that are left could throw a network off


def _build(routers: str, images: Images, seed: int, device: str) -> nn.Module:
    return build(NAME, routers, device, channels_last=True, classes=images.classes, seed=seed)


def _conditions(device: str, rounds: int) -> dict[str, str | int]:
    here = environment(device)
    # cuDNN rounds the operands of float32 convolutions unless told otherwise.
    rounded = device == "cuda" and machine.tf32()["convolution"]
    return {
        "device": here["device"],
        "threads": here["threads"],
        "batch": BATCH,
        "dtype": "float32, TF32 allowed in convolutions" if rounded else "float32",
        "torch": here["torch"],
        "rounds": rounds,
    }


def tolerance(accuracy: float, count: int) -> int:
    """The number of test images by which runs may differ if they differ in rounding alone.

    Rounding errors grow over training until the runs are two samples of one distribution: hence
    three standard errors of the difference of two such accuracies, and one image.

    Args:
        accuracy: the mean of both runs, 0 to 1.
        count: images in the test set.
    """
    return 1 + math.ceil(3 * math.sqrt(2 * count * accuracy * (1 - accuracy)))


def compare(runs: dict[str, list[dict[str, float]]], count: int) -> dict[str, Any]:
    """Last accuracies of both runs on `count` test images, and whether they differ by chance."""
    accuracy = {kind: runs[kind][-1]["test_accuracy"] for kind in KINDS}
    return {
        "accuracy": accuracy,
        "test_images": count,
        "apart": round(count * abs(accuracy["fused"] - accuracy["eager"])),
        "allowed": tolerance(statistics.fmean(accuracy.values()), count),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="per training, default %(default)s"
    )
    parser.add_argument(
        "--limit", type=int, default=IMAGES,
        help="number of training images, at least 2, default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="of timing, at least 2, default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default %(default)s")
    return parser


def _announcement(recipe: Recipe, images: Images, options: argparse.Namespace) -> str:
    return (
        f"{NAME} learns {images.train_count} scanned digits with fused and with eager routers:\n"
        f"{recipe.epochs} epochs each, SGD at {recipe.learning_rate:g} in batches of "
        f"{recipe.batch_size}; then both are timed in {options.rounds} rounds.\n"
        f"{EPOCHS} epochs and {ROUNDS} rounds take about two minutes on two cores, and "
        f"1.5 GB of memory.\n{options.out} will hold demo.json and demo.png, less than 1 MB.\n"
    )


def _run(options: argparse.Namespace) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Whatever can be wrong with the input must show before minutes of training, not after.
    for name in ("rounds", "limit"):
        value = getattr(options, name)
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install matplotlib")
    recipe = recipe_for(NAME, epochs=options.epochs, seed=options.seed, **SMALL)
    images = data.load("digits", limit=options.limit)
    options.out.mkdir(parents=True, exist_ok=True)
    print(_announcement(recipe, images, options), flush=True)

    runs, trained = {}, {}
    for kind in KINDS:
        print(f"{kind} routers", flush=True)
        trained[kind] = _build(kind, images, options.seed, device)
        runs[kind] = fit(trained[kind], images, recipe, device=device)
    print("other gates in the place of the learned ones", flush=True)
    model = trained["fused"].eval()
    seen = gates.gates_of(model, images, device)
    replaced = ablation(model, images, device, one_by_one=False)
    print("timing", flush=True)
    fresh = {kind: _build(kind, images, options.seed, device) for kind in KINDS}
    times = timing.measure(fresh, images, device, options.rounds)
    result = {
        **compare(runs, images.test_count),
        "microseconds": times,
        "ratios": timing.compare(times),
        "ablation": replaced,
        "conditions": _conditions(device, options.rounds),
        "runs": runs,
    }
    write_text(options.out / "demo.json", json.dumps(result, indent=2))

    from benchmarks.demo.picture import picture

    path = options.out / "demo.png"
    picture(path, f"{NAME} on scanned digits, fused and eager routers", images, seen, result)
    print("\n".join(["", _table(result), "", *_conclusions(result), f"picture:  {path}"]))
    return 0 if result["apart"] <= result["allowed"] else 1


def _table(result: dict[str, Any]) -> str:
    """Conditions, and the figures of both kinds."""
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    times = result["microseconds"]
    rows = [["", "accuracy", "routers, ms", "training step, ms", "routers' share"]]
    for kind in KINDS:
        parts = [timing.milliseconds(times[f"{kind} {part}"]) for part in PARTS]
        accuracy, share = result["accuracy"][kind], timing.share(times, kind)
        rows.append([kind, f"{accuracy:.2%}", *parts, f"{share:.1%}"])
    about = "forward and backward: median [20 %, 80 %] of the rounds"
    return f"{conditions}\n{about}\n\n{columns(rows, range(1, len(rows[0])))}"


def _conclusions(result: dict[str, Any]) -> list[str]:
    accuracy, apart, allowed = result["accuracy"], result["apart"], result["allowed"]
    verdict = "the same" if apart <= allowed else "NOT the same"
    routers, step = (timing.in_words(result["ratios"][part]) for part in PARTS)
    stray, worth = gates.lines(result["ablation"])
    return [
        f"accuracy: {accuracy['fused']:.2%} fused, {accuracy['eager']:.2%} eager: {verdict} "
        f"({apart} of {result['test_images']} test images apart, up to {allowed} are chance)",
        f"routers:  {routers}",
        f"step:     {step}",
        "          times as fast fused as eager, a ratio a round: median [20 %, 80 %]; not apart "
        "where that range holds 1",
        f"gates:    {stray}",
        f"          {worth}",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo.

    Returns:
        the exit status: 0 if both kinds of routers reach the same accuracy and 1 if not, 2 for
        bad input or a training that diverges, 130 for Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the demo is not complete", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
