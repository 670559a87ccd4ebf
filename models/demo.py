"""Fused against eager routers: the same network, the same accuracy, the time that routers take.

`python -m models.demo` trains basecnn_2_cc on real images with either kind of routers from one
seed, then times both in one process, round by round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models

from . import data
from .data import Images, normalise
from .training.files import write_whole
from .training.loop import fit
from .training.recipe import recipe_for

NAME = "basecnn_2_cc"
KINDS = ("fused", "eager")
PARTS = ("routers", "step")


def _build(routers: str, images: Images, seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(NAME, num_classes=images.classes, routers=routers).to(device)


def _timed(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def router_step(model: nn.Module, x: Tensor, backward: bool = True) -> Callable[[], object]:
    """All routers alone, forward and, if asked for, backward, on the maps that they meet."""
    met: list[tuple[nn.Module, list[Tensor]]] = []

    def note(router: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        met.append((router, [t.detach().requires_grad_(t.requires_grad) for t in inputs[0]]))

    routers = list(model.routers)  # type: ignore[arg-type]
    hooks = [router.register_forward_pre_hook(note) for router in routers]
    with torch.set_grad_enabled(backward):
        model(x)
    for hook in hooks:
        hook.remove()

    def forward() -> None:
        with torch.no_grad():
            for router, xs in met:
                router(xs)

    if not backward:
        return forward
    grads = [[torch.randn_like(y) for y in router(xs)] for router, xs in met]

    def step() -> None:
        for (router, xs), outer in zip(met, grads):
            wanted = [t for t in xs if t.requires_grad] + list(router.parameters())
            torch.autograd.grad(router(xs), wanted, outer)

    return step


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _conditions(device: str, batch: int, rounds: int) -> dict[str, str | int]:
    # cuDNN rounds the operands of float32 convolutions unless told otherwise.
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    tf32 = device == "cuda" and convolutions.fp32_precision == "tf32"
    return {
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "batch": batch,
        "dtype": "float32, TF32 allowed in convolutions" if tf32 else "float32",
        "torch": torch.__version__,
        "rounds": rounds,
    }


def measure(images: Images, device: str, rounds: int, seed: int) -> dict[str, Any]:
    """Milliseconds of a training step, and of its routers alone, at batch 128.

    The candidates take turns in every round, so that a machine that slows down slows all, and
    every other round goes backwards, so that none always runs in the wake of the same one.

    Returns:
        medians and times of all rounds by candidate, such as "fused step"; the share of a step
        that its routers take by kind; the quotients of the medians; the conditions.
    """
    batch = min(128, len(images.train_y))
    x = normalise(images, images.train_x[:batch].to(device))
    y = images.train_y[:batch].to(device)
    steps: dict[str, Callable[[], object]] = {}
    for kind in KINDS:
        model = _build(kind, images, seed, device).train()
        steps[f"{kind} routers"] = router_step(model, x)
        steps[f"{kind} step"] = _training_step(model, x, y)
    for step in steps.values():
        step(), step()  # kernels are built and memory is taken before the clock runs
    times: dict[str, list[float]] = {name: [] for name in steps}
    for at in range(rounds):
        for name in list(steps)[:: -1 if at % 2 else 1]:
            times[name].append(1e3 * _timed(steps[name], device))
    found = {name: statistics.median(values) for name, values in times.items()}
    return {
        "milliseconds": found,
        "rounds": times,
        "share": {kind: found[f"{kind} routers"] / found[f"{kind} step"] for kind in KINDS},
        "routers_speedup": found["eager routers"] / found["fused routers"],
        "step_speedup": found["eager step"] / found["fused step"],
        "conditions": _conditions(device, batch, rounds),
    }


def tolerance(accuracy: float, count: int) -> int:
    """Test images by which two runs may differ that differ in rounding alone.

    Rounding grows over training until the runs are two samples of one distribution: three
    standard errors of the difference of two such accuracies, and one image.

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
    made = argparse.ArgumentParser(prog="python -m models.demo", description=__doc__)
    made.add_argument("--data", default="digits", choices=list(data.SETS))
    made.add_argument(
        "--data-dir", type=Path, help="where the images are, if not in the usual place"
    )
    made.add_argument("--epochs", type=int, default=4, help="of each training, default %(default)s")
    made.add_argument("--limit", type=int, help="use so many training images, at least 2")
    made.add_argument("--rounds", type=int, default=9, help="of timing, default %(default)s")
    made.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    made.add_argument("--out", type=Path, default=Path("runs/demo"), help="default %(default)s")
    return made


def _run(given: argparse.Namespace) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Whatever can be wrong with the input is found before minutes of training, not after.
    for name, least in (("rounds", 1), ("limit", 2)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install matplotlib")
    recipe = recipe_for(NAME, epochs=given.epochs, seed=given.seed)
    images = data.load(given.data, given.data_dir, given.limit)
    given.out.mkdir(parents=True, exist_ok=True)

    runs, trained = {}, {}
    for kind in KINDS:
        print(f"{NAME} on {given.data}, {kind} routers", flush=True)
        trained[kind] = _build(kind, images, given.seed, device)
        runs[kind] = fit(trained[kind], images, recipe, device=device)
    print("timing", flush=True)
    times = measure(images, device, given.rounds, given.seed)
    result = {**compare(runs, len(images.test_y)), **times, "runs": runs}
    write_whole(given.out / "demo.json", lambda to: to.write_text(json.dumps(result, indent=2)))

    from .paper.pictures import curves_and_gates

    lines = _conclusions(result)
    path = given.out / "demo.png"
    title = f"{NAME} on {given.data} with fused and with eager routers"
    curves_and_gates(path, images, runs, trained["fused"], device, "\n".join([title, *lines]))
    print(_table(result))
    print("\n".join([*lines, f"picture:  {path}"]))
    return 0 if result["apart"] <= result["allowed"] else 1


def _table(result: dict[str, Any]) -> str:
    """Figures of both kinds; the spread between the quartiles tells how quiet the machine was."""
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
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except (data.DataMissing, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the demo is not complete", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
