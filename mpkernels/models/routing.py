"""Does the routing route? The experiment on it.

Trains networks with gates that start in three ways, and controls without gates of their own, seed
by seed: see docs/routing.md. The same command goes on where it stopped; `--report-only` writes the
report from the trials that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import mpkernels

from . import cli, create, data
from .cli import add_device, add_folder, device_of, parser_for
from .compare import scaled
from .data import DataSet
from .networks import registry
from .paper import routing
from .paper.ablation import ablation
from .paper.scores import predict, top
from .resumable import STOPPED, remember
from .training.checkpoint import file_of
from .training.files import write_json, write_text
from .training.locks import locked
from .training.loop import fit
from .training.recipe import recipe_for

NETWORKS = ("basecnn_2_cc", "basecnn_3_cc")
# The options of each arm; "even" is trained and judged with every gate at 1/n.
ARMS: dict[str, dict[str, Any]] = {
    **{start: {"gate_init": start} for start in routing.STARTS},
    "even": {},
    "stitch": {"kind": "stitch"},
    "unrouted": {"kind": None},
}


@dataclass(frozen=True)
class Plan:
    """What all trials share.

    Args:
        data: name of the data set.
        scale: factor on the widths; gates keep their hidden units.
        epochs: per trial; the milestones of the learning rate move with them.
        images: number of training images.
        seeds: number of seeds, from 0 on.
    """

    data: str
    scale: float
    epochs: int
    images: int
    seeds: int


def trial(
    network: str, arm: str, seed: int, plan: Plan, images: DataSet, device: str, folder: Path
) -> None:
    """Runs one trial unless it is finished; one begun before goes on.

    Raises:
        FloatingPointError: the loss is not finite.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    if (folder / "trial.json").exists():
        return
    sizes = {"num_classes": images.classes, "size": images.size}
    own = scaled(registry.options(network), plan.scale)
    # channels_last is faster on a CPU and changes only rounding.
    options = {**sizes, **own, **ARMS[arm], "channels_last": True}
    torch.manual_seed(seed)
    model = create(network, **options)
    recipe = recipe_for(network, epochs=plan.epochs, seed=seed)
    names = {"name": network, "arm": arm, "data": plan.data, "network": options}
    with mpkernels.route(model, "uniform") if arm == "even" else nullcontext():
        fit(
            model, images, recipe, device=device, out=folder, resume=file_of(folder).exists(),
            names=names, progress=sys.stderr.isatty(),
        )  # fmt: skip
        probabilities, labels = predict(model.eval(), images, device, 1)
    result: dict[str, Any] = {
        "network": network, "arm": arm, "seed": seed, "accuracy": top(probabilities, labels, 1),
    }  # fmt: skip
    if arm in routing.STARTS:
        result["gates"] = ablation(model, images, device)
    write_json(folder / "trial.json", result)
    print(f"{network}, {arm}, seed {seed}: {100 * result['accuracy']:.2f} %", flush=True)


def read(out: Path, plan: Plan) -> routing.Matrix:
    """The finished trials of every cell."""
    matrix: routing.Matrix = {}
    for network in NETWORKS:
        for arm in ARMS:
            paths = {s: out / f"{network}-{arm}" / f"seed{s}/trial.json" for s in range(plan.seeds)}
            held = {s: json.loads(p.read_text("utf-8")) for s, p in paths.items() if p.exists()}
            matrix[network, arm] = held
    return matrix


def command_line() -> argparse.ArgumentParser:
    """The command line; the defaults are what docs/routing.md registers."""
    parser = parser_for("routing", __doc__, "--data fashion-mnist --out runs/routing")
    parser.add_argument("--data", required=True, choices=list(data.SETS), help="what to train on")
    add_folder(parser)
    parser.add_argument("--limit", type=int, help="number of training images (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each arm")
    parser.add_argument("--scale", type=float, default=0.5, help="factor on the widths")
    parser.add_argument("--epochs", type=int, default=4, help="of each training")
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS,
        help="train these alone: commands side by side share a folder",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's)")
    add_device(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/routing"), help="folder of the trials"
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    return parser


def run(options: argparse.Namespace) -> None:
    """Trains what is missing, seed by seed, and reports after each seed.

    Raises:
        ValueError: an option has a value it cannot have, or `out` holds another experiment.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    for name in ("seeds", "epochs", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < options.scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {options.scale}")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_of(options)
    images = data.load(options.data, options.data_dir, options.limit)
    count = images.train_count
    plan = Plan(options.data, options.scale, options.epochs, count, options.seeds)
    remember(asdict(plan), options.out)
    for seed in range(0 if options.report_only else plan.seeds):
        for network in options.networks:
            for arm in ARMS:
                folder = options.out / f"{network}-{arm}" / f"seed{seed}"
                with locked(folder.parent):  # the trial's own lock ends with its training
                    trial(network, arm, seed, plan, images, device, folder)
    text = routing.markdown(read(options.out, plan), asdict(plan))
    write_text(options.out / "report.md", text)
    print(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return cli.run(command_line(), arguments, run, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
