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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import add_device, device_of, parser_for, run
from ..data import DataSet
from ..trained import add_images, images_of
from ..training.checkpoint import file_of
from ..training.weights import load_network
from .figures import classes, depth, gates, parameters, route, weights
from .page import write_page
from .recorded.likeness import Named, beside, layers, record_weights
from .recorded.log import NAME, Log, load, save
from .recorded.maximise import record_maximised
from .recorded.recorder import (
    about_routers,
    check,
    gates_of,
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
BESIDE = "paths that never meet"


def command_line() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_for("look", __doc__, "runs/basecnn_2_cc-digits-seed0 route page")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder, checkpoint or log")
    parser.add_argument(
        "figures", nargs="*", default=[ALL], metavar="FIGURE",
        help=f"{', '.join((*FIGURES, PARAMETERS))} or {ALL}",
    )  # fmt: skip
    add_images(parser)
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


class _Recorder:
    """Adds sections to the log of a run, and keeps it after each of them."""

    def __init__(self, options: argparse.Namespace, out: Path) -> None:
        self.options, self.path, self.device = options, out / NAME, device_of(options)
        self.loaded = load_network(options.run)
        self.network, known = check(self.loaded[0]).to(self.device), self.loaded[1]
        # Of what the log is; another one is recorded anew.
        of = {
            "network": known["name"], "checkpoint": _digest(options.run),
            "chosen": {name: str(getattr(options, name) or "")
                       for name in ("data", "data_dir", "classes", "part")},
        }  # fmt: skip
        held = Log({})
        if self.path.exists():
            with suppress(ValueError):  # of an earlier format, or damaged: it is recorded anew
                held = load(self.path)
        same = all(held.about.get(name) == value for name, value in of.items())
        self.log = held if same else Log({**of, "routers": about_routers(self.network)})
        self.images: DataSet | None = None

    def missing(self, wanted: list[str]) -> list[str]:
        """The sections that the figures show and the log lacks, in the order to record them."""
        sections = dict.fromkeys(section for name in wanted for section in FIGURES[name][0])
        lacking = [section for section in sections if not self.log.has(section)]
        if "pictures" in sections and "pictures" not in lacking:
            held = self.log.of("pictures")["indices"].tolist()
            lacking += [] if set(self.options.images or ()) <= set(held) else ["pictures"]
        if "weights" in sections and self.options.beside:
            known = self.log.about.get("beside") == _digest(self.options.beside)
            lacking += [] if known or "weights" in lacking else ["weights"]
        return lacking

    def add(self, section: str) -> None:
        """Records a section.

        Raises:
            ValueError: an image or the run `beside` does not fit.
        """
        options, log, network, device = self.options, self.log, self.network, self.device
        if self.images is None:
            log.about["data"], self.images = images_of([options.run], [self.loaded], options)
            log.about["classes"] = list(self.images.names)
            last = self.images.test_count - 1
            if outside := [at for at in options.images or () if not 0 <= at <= last]:
                raise ValueError(f"images must be from 0 to {last}, got {outside[0]}")
        print(f"recording: {section}", file=sys.stderr)
        images, batch = self.images, options.batch_size
        if section == "route":
            record_route(log, network, images, device, batch)
        elif section == "pictures":
            record_pictures(log, images, options.images or [], batch)
        elif section == "switches":
            record_switches(log, network, images, device, batch)
        elif section == "maximise":
            record_maximised(log, network, images, batch)
        else:
            networks: list[Named] = [(log.about["network"], network, layers(network))]
            if options.beside:
                other = load_network(options.beside)[0].to(device)
                networks.append((BESIDE, other, beside(network, other)))
            record_weights(log, networks, images, device, batch)
            log.about["beside"] = _digest(options.beside)
        save(log, self.path)


def _digest(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(file_of(path).read_bytes()).hexdigest()


def _three(log: Log) -> list[int]:
    """The first images of three classes, of fewer where there are fewer."""
    _, first = np.unique(log.of("route")["labels"], return_index=True)
    return [int(image) for image in first[:: max(1, len(first) // 3)][:3]]


def _log_of(options: argparse.Namespace, out: Path, wanted: list[str]) -> Log:
    """The log that the figures are drawn from; of a run what is missing is recorded."""
    if options.run.suffix == ".npz":
        return load(options.run)
    recorder = _Recorder(options, out)
    for section in recorder.missing(wanted):
        recorder.add(section)
    return recorder.log


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
    if not options.run.exists():
        raise FileNotFoundError(f"there is no run, checkpoint or log at {options.run}")
    wanted = [*known] if ALL in options.figures else [*dict.fromkeys(options.figures)]
    folder = options.run if options.run.is_dir() else options.run.parent
    out = options.out or (folder if options.run.suffix == ".npz" else folder / "look")
    comparison = folder if (folder / "plan.json").exists() else None
    if comparison and wanted != [PARAMETERS]:
        raise ValueError(f"run: {comparison} is a comparison, of which parameters alone are drawn")
    if PARAMETERS in wanted:
        wanted.remove(PARAMETERS)
        parameters.draw(comparison, out)
    if wanted:
        log = _log_of(options, out, wanted)
        for name in wanted:
            images = (options.images or _three(log)) if name == "route" else []
            FIGURES[name][1](log, out, images)
    print(f"figures: {out}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status, see `models.cli.run`."""
    return run(command_line(), arguments, look)


if __name__ == "__main__":
    sys.exit(main())
