"""Fused against eager routers: the same network, the same accuracy, the time that routers take.

`python -m models.demo` trains basecnn_2_cc on real images with either kind of routers from one
seed, then times both in one process, round by round.
"""

from __future__ import annotations

import argparse
import json
import math
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
from models import data
from models.checkpoint import write_whole
from models.data import Images, normalise
from models.recipe import recipe_for
from models.training import fit

NAME = "basecnn_2_cc"
KINDS = ("fused", "eager")


def _build(routers: str, images: Images, seed: int, device: str) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(NAME, classes=images.classes, routers=routers).to(device)


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


def _router_step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Forward and backward of all routers alone, on the maps that they meet in the network."""
    met: list[tuple[nn.Module, list[Tensor]]] = []

    def note(router: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        met.append((router, [t.detach().requires_grad_(t.requires_grad) for t in inputs[0]]))

    routers = list(model.routers)  # type: ignore[arg-type]
    hooks = [router.register_forward_pre_hook(note) for router in routers]
    model(x)
    for hook in hooks:
        hook.remove()
    grads = [[torch.randn_like(y) for y in router(xs)] for router, xs in met]

    def step() -> None:
        for (router, xs), outer in zip(met, grads):
            wanted = [t for t in xs if t.requires_grad] + list(router.parameters())
            torch.autograd.grad(router(xs), wanted, outer)

    return step


def measure(images: Images, device: str, rounds: int, seed: int) -> dict[str, Any]:
    """Medians in milliseconds of a training step and of its routers, at batch 128.

    The candidates take turns in every round, so that a machine that slows down slows all.
    """
    batch = min(128, len(images.train_y))
    x = normalise(images, images.train_x[:batch].to(device))
    y = images.train_y[:batch].to(device)
    steps: dict[str, Callable[[], object]] = {}
    for kind in KINDS:
        model = _build(kind, images, seed, device).train()
        steps[f"{kind} routers"] = _router_step(model, x)
        steps[f"{kind} step"] = _training_step(model, x, y)
    for step in steps.values():
        step(), step()  # kernels are built and memory is taken before the clock runs
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(_timed(step, device))
    found = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    device_name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {
        "milliseconds": found,
        "routers_speedup": found["eager routers"] / found["fused routers"],
        "step_speedup": found["eager step"] / found["fused step"],
        "conditions": (
            f"{device_name}, {torch.get_num_threads()} threads, batch {batch}, float32, "
            f"torch {torch.__version__}, {rounds} rounds"
        ),
    }


def tolerance(accuracy: float, count: int) -> int:
    """Test images by which two runs may differ that differ in rounding alone.

    Rounding grows over training until the runs are two samples of one distribution: three
    standard errors of the difference of two such accuracies, and one image.
    """
    return 1 + math.ceil(3 * math.sqrt(2 * count * accuracy * (1 - accuracy)))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m models.demo", description=__doc__)
    made.add_argument("--data", default="digits", choices=list(data.SETS))
    made.add_argument("--data-dir", type=Path)
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--limit", type=int)
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=Path("runs/demo"))
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; exit status 0 if both kinds of routers reach the same accuracy."""
    given = _parser().parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        images = data.load(given.data, given.data_dir, given.limit)
        recipe = recipe_for(NAME, epochs=given.epochs, seed=given.seed)
        if given.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {given.rounds}")
    except (data.DataMissing, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs, trained = {}, {}
    for kind in KINDS:
        print(f"{NAME} on {given.data}, {kind} routers", flush=True)
        trained[kind] = _build(kind, images, given.seed, device)
        runs[kind] = fit(trained[kind], images, recipe, device=device)
    accuracy = {kind: runs[kind][-1]["test_accuracy"] for kind in KINDS}
    count = len(images.test_y)
    apart = round(count * abs(accuracy["fused"] - accuracy["eager"]))
    allowed = tolerance(max(accuracy.values()), count)
    print("timing", flush=True)
    times = measure(images, device, given.rounds, given.seed)
    result = {"accuracy": accuracy, "apart": apart, "allowed": allowed, "runs": runs, **times}
    write_whole(given.out / "demo.json", lambda to: to.write_text(json.dumps(result, indent=2)))

    from models.gallery import picture

    picture(given.out / "demo.png", images, runs, trained["fused"], device, times["conditions"])
    _print(result, count, given.out)
    return 0 if apart <= allowed else 1


def _print(result: dict[str, Any], count: int, out: Path) -> None:
    ms = result["milliseconds"]
    print(f"\n{result['conditions']}\n")
    print(f"{'':8}{'test accuracy':>15}{'routers (ms)':>15}{'step (ms)':>12}{'share':>8}")
    for kind in KINDS:
        routers, step = ms[f"{kind} routers"], ms[f"{kind} step"]
        print(
            f"{kind:8}{100 * result['accuracy'][kind]:>14.2f}%{routers:>15.2f}{step:>12.1f}"
            f"{100 * routers / step:>7.1f}%"
        )
    verdict = "the same" if result["apart"] <= result["allowed"] else "NOT the same"
    print(
        f"\naccuracy: {verdict}: {result['apart']} of {count} test images apart, "
        f"up to {result['allowed']} are chance"
    )
    print(f"routers:  {result['routers_speedup']:.2f} times as fast (forward and backward)")
    print(f"step:     {result['step_speedup']:.2f} times as fast")
    print(f"picture:  {out / 'demo.png'}")


if __name__ == "__main__":
    sys.exit(main())
