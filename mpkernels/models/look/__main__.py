"""Shows what a trained network's routers do.

RUN is a run's folder or its checkpoint, a log that was recorded of one, or for the figure
`parameters` the folder of a comparison. What the figures need is recorded once, into OUT/look.npz,
from which they are drawn again without network and images.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .. import data
from ..cli import add_device, add_folder, device_of, parser_for, run
from ..data import DataSet
from ..training.checkpoint import file_of
from ..training.weights import load_network
from .figures import classes, depth, gates, parameters, route, weights
from .page import write_page
from .recorded.likeness import record_weights
from .recorded.log import NAME, Log, load, save
from .recorded.maximise import record_maximised
from .recorded.recorder import (
    about_routers,
    check,
    gates_of,
    on_the_page,
    record_pictures,
    record_route,
    record_switches,
)


def _maximise(log: Log, out: Path, images: list[int]) -> None:
    for gate in gates_of(log):
        gates.draw(log, out, *gate)


# Figure -> the sections of the log that it shows, and what draws it.
FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Log, Path, list[int]], Any]]] = {
    "route": (("route", "pictures"), route.draw),
    "maximise": (("route", "pictures", "maximise"), _maximise),
    "classes": (("route",), lambda log, out, images: classes.draw(log, out)),
    "weights": (("weights",), lambda log, out, images: weights.draw(log, out)),
    "depth": (("route",), lambda log, out, images: depth.draw(log, out)),
    "page": (
        ("route", "pictures", "switches"),
        lambda log, out, images: write_page(log, out / "page.html"),
    ),
}
PARAMETERS, ALL = "parameters", "all"


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("look", __doc__, "runs/basecnn_2_cc-digits-seed0 route page")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder, checkpoint or log")
    parser.add_argument(
        "figures", nargs="*", default=[ALL], metavar="FIGURE",
        help=f"{', '.join((*FIGURES, PARAMETERS))} or {ALL}",
    )  # fmt: skip
    add_folder(parser)
    parser.add_argument(
        "--images", type=int, nargs="+", help="numbers of test images for route (default: three)"
    )
    parser.add_argument(
        "--beside", type=Path, metavar="RUN",
        help="for weights: a run of the network without routers (--option kind=None)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=128, help="images at a time")
    add_device(parser)
    parser.add_argument("--out", type=Path, help="folder of the figures (default: RUN/look)")
    return parser


def _record(
    section: str, log: Log, network: nn.Module, images: DataSet, options: argparse.Namespace
) -> None:
    """Adds a section to the log."""
    device = device_of(options)
    print(f"recording: {section}", file=sys.stderr)
    if section == "route":
        record_route(log, network, images, device, options.batch_size)
    elif section == "pictures":
        record_pictures(log, images, options.images or [])
    elif section == "switches":
        record_switches(log, network, images, device)
    elif section == "maximise":
        record_maximised(log, network, images)
    else:
        models = [(str(log.about["network"]), network)]
        if options.beside:
            models.append(("paths that never meet", load_network(options.beside)[0].to(device)))
        record_weights(log, models, images, device)


def _digest(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(file_of(path).read_bytes()).hexdigest()


def _held(path: Path, checkpoint: str) -> Log | None:
    """The log at `path`, if it is of this checkpoint."""
    log = load(path) if path.exists() else None
    return log if log and log.about["checkpoint"] == checkpoint else None


def _missing(log: Log, options: argparse.Namespace, wanted: list[str]) -> list[str]:
    """The sections that the figures show and the log lacks, in the order to record them."""
    sections = dict.fromkeys(section for name in wanted for section in FIGURES[name][0])
    missing = [section for section in sections if not log.has(section)]
    if "pictures" in sections and "pictures" not in missing:
        held = log.of("pictures")["indices"].tolist()
        missing += [] if set(options.images or ()) <= set(held) else ["pictures"]
    beside = _digest(options.beside)
    if "weights" in sections and beside and log.about.get("beside") != beside:
        missing = [*dict.fromkeys([*missing, "weights"])]
        log.about["beside"] = beside
    return missing


def _recorded(options: argparse.Namespace, out: Path, wanted: list[str]) -> Log:
    """The log with all sections that the figures show; what is missing is recorded and kept."""
    network, known = load_network(options.run)
    if known.get("data") not in data.SETS:
        raise ValueError(f"run: {file_of(options.run)} names no data set of {', '.join(data.SETS)}")
    about = {
        "network": known["name"], "data": known["data"], "checkpoint": _digest(options.run),
        "routers": about_routers(check(network)),
    }  # fmt: skip
    log = _held(out / NAME, about["checkpoint"]) or Log(about)
    if missing := _missing(log, options, wanted):
        images = data.load(known["data"], options.data_dir, preparation=known["preparation"])
        if outside := [at for at in options.images or () if not 0 <= at < images.test_count]:
            raise ValueError(f"images must be from 0 to {images.test_count - 1}, got {outside[0]}")
        log.about["classes"] = list(images.names)
        network.to(device_of(options))
        for section in missing:
            _record(section, log, network, images, options)
        save(log, out / NAME)
    return log


def _three(log: Log) -> list[int]:
    """Images of three classes."""
    shown = on_the_page(log)
    return [int(image) for image in shown[:: max(1, len(shown) // 3)][:3]]


def look(options: argparse.Namespace) -> None:
    """Records what is missing, and draws.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it has no routers, or an option does not fit it.
        DataMissing: its images are not there.
    """
    known = (*FIGURES, PARAMETERS)
    for name in options.figures:
        if name not in (*known, ALL):
            raise ValueError(f"figures must be some of {', '.join(known)} or {ALL}, got {name}")
    if options.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {options.batch_size}")
    wanted = list(known) if ALL in options.figures else list(dict.fromkeys(options.figures))
    comparison = options.run if (options.run / "plan.json").exists() else None
    folder = options.run if options.run.is_dir() else options.run.parent
    is_log = options.run.suffix == ".npz"
    out = options.out or (folder if is_log else folder / "look")
    if comparison is not None and wanted != [PARAMETERS]:
        raise ValueError(f"run: {comparison} is a comparison, of which parameters alone are drawn")
    if PARAMETERS in wanted:
        wanted.remove(PARAMETERS)
        parameters.draw(comparison, out)
    if wanted:
        log = load(options.run) if is_log else _recorded(options, out, wanted)
        for name in wanted:
            images = (options.images or _three(log)) if name == "route" else []
            FIGURES[name][1](log, out, images)
    print(f"figures: {out}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, look)


if __name__ == "__main__":
    sys.exit(main())
