"""Fused against eager routers: the same network, the same accuracy, the time that routers take.

`python -m benchmarks.demo` trains basecnn_2_cc on real images with either kind of routers from one
seed, then times both in one process, round by round.
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
from benchmarks.measure import CudaClock, Step, WallClock, contest
from benchmarks.training import build, router_step, training_step
from models import data
from models.cli import add_folder
from models.data import Images, normalise
from models.environment import environment
from models.training.files import write_whole
from models.training.loop import fit
from models.training.recipe import recipe_for

NAME = "basecnn_2_cc"
KINDS = ("fused", "eager")
PARTS = ("routers", "step")


def _build(routers: str, images: Images, seed: int, device: str) -> nn.Module:
    return build(NAME, routers, device, classes=images.classes, seed=seed)


def _conditions(device: str, batch: int, rounds: int) -> dict[str, str | int]:
    here = environment(device)
    # cuDNN rounds the operands of float32 convolutions unless told otherwise.
    rounded = device == "cuda" and machine.tf32()["convolution"]
    return {
        "device": here["device"],
        "threads": here["threads"],
        "batch": batch,
        "dtype": "float32, TF32 allowed in convolutions" if rounded else "float32",
        "torch": here["torch"],
        "rounds": rounds,
    }


def measure(images: Images, device: str, rounds: int, seed: int) -> dict[str, Any]:
    """Milliseconds of a training step, and of its routers alone, at batch 128.

    Returns:
        medians and times of all rounds by candidate, such as "fused step"; the share of a step
        that its routers take by kind; the quotients of the medians; the conditions.
    """
    batch = min(128, len(images.train_y))
    x = normalise(images, images.train_x[:batch].to(device))
    y = images.train_y[:batch].to(device)
    steps: dict[str, Step] = {}
    for kind in KINDS:
        model = _build(kind, images, seed, device)
        steps[f"{kind} routers"] = router_step(model, x)
        steps[f"{kind} step"] = training_step(model, model, x, y)
    taken = contest(steps, rounds, CudaClock() if device == "cuda" else WallClock())
    times = {name: [1e-3 * value for value in values] for name, values in taken.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "milliseconds": medians,
        "rounds": times,
        "share": {kind: medians[f"{kind} routers"] / medians[f"{kind} step"] for kind in KINDS},
        "routers_speedup": medians["eager routers"] / medians["fused routers"],
        "step_speedup": medians["eager step"] / medians["fused step"],
        "conditions": _conditions(device, batch, rounds),
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
    parser.add_argument("--data", default="digits", choices=list(data.SETS))
    add_folder(parser)
    parser.add_argument("--epochs", type=int, default=4, help="per training, default %(default)s")
    parser.add_argument("--limit", type=int, help="use only this many training images, at least 2")
    parser.add_argument("--rounds", type=int, default=9, help="of timing, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default %(default)s")
    return parser


def _run(options: argparse.Namespace) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Whatever can be wrong with the input must show before minutes of training, not after.
    for name, least in (("rounds", 1), ("limit", 2)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install matplotlib")
    recipe = recipe_for(NAME, epochs=options.epochs, seed=options.seed)
    images = data.load(options.data, options.data_dir, options.limit)
    options.out.mkdir(parents=True, exist_ok=True)

    runs, trained = {}, {}
    for kind in KINDS:
        print(f"{NAME} on {options.data}, {kind} routers", flush=True)
        trained[kind] = _build(kind, images, options.seed, device)
        runs[kind] = fit(trained[kind], images, recipe, device=device)
    print("timing", flush=True)
    times = measure(images, device, options.rounds, options.seed)
    result = {**compare(runs, len(images.test_y)), **times, "runs": runs}
    write_whole(options.out / "demo.json", lambda to: to.write_text(json.dumps(result, indent=2)))

    from models.paper.pictures import curves_and_gates

    lines = _conclusions(result)
    path = options.out / "demo.png"
    title = f"{NAME} on {options.data} with fused and with eager routers"
    curves_and_gates(path, images, runs, trained["fused"], device, "\n".join([title, *lines]))
    print(_table(result))
    print("\n".join([*lines, f"picture:  {path}"]))
    return 0 if result["apart"] <= result["allowed"] else 1


def _table(result: dict[str, Any]) -> str:
    """Figures of both kinds; the distance of the quartiles tells how quiet the machine was."""
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    lines = ["", conditions, "medians and [quartiles] of forward and backward in ms", ""]
    lines.append(f"{'':7}{'accuracy':>9}{'routers':>26}{'training step':>28}{'share':>8}")
    for kind in KINDS:
        line = f"{kind:7}{result['accuracy'][kind]:>9.2%}"
        for part, width in zip(PARTS, (26, 28)):
            name = f"{kind} {part}"
            values = result["rounds"][name]
            # A single round has no quartiles; inclusive ones of it and its copy are itself.
            several = values if len(values) > 1 else values * 2
            low, _, high = statistics.quantiles(several, n=4, method="inclusive")
            text = f"{result['milliseconds'][name]:.2f} [{low:.2f}, {high:.2f}]"
            line += f"{text:>{width}}"
        lines.append(f"{line}{result['share'][kind]:>8.1%}")
    return "\n".join([*lines, ""])


def _conclusions(result: dict[str, Any]) -> list[str]:
    accuracy, apart, allowed = result["accuracy"], result["apart"], result["allowed"]
    verdict = "the same" if apart <= allowed else "NOT the same"
    return [
        f"accuracy: {accuracy['fused']:.2%} fused, {accuracy['eager']:.2%} eager: {verdict} "
        f"({apart} of {result['test_images']} test images apart, up to {allowed} are chance)",
        f"routers:  {result['routers_speedup']:.2f} times as fast fused as eager",
        f"step:     {result['step_speedup']:.2f} times as fast fused as eager",
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
    except (data.DataMissing, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the demo is not complete", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
