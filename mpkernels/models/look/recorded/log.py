"""One file that holds all that the figures show: they are drawn again without network or images.

A log is a compressed npz of arrays, and of a text: JSON about the network. Keys are written with
slashes; a section is what stands in front of the first one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...training.files import as_json, write_whole

NAME = "look.npz"
FORMAT = "mpkernels look 2"
Arrays = dict[str, np.ndarray]


@dataclass
class Log:
    """What was recorded of one network.

    Args:
        about: "network", "data", "checkpoint" and "beside" (SHA-256), "chosen" (the options that
            choose the images), "classes" (names by label), "routers" (a list of "name", "inputs",
            "outputs", "mixes"), and what else a section has to say in words.
        arrays: key -> array.
    """

    about: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)

    def has(self, section: str) -> bool:
        """Whether a section was recorded."""
        return any(key.startswith(f"{section}/") for key in self.arrays)

    def add(self, section: str, arrays: Mapping[str, Any], **words: Any) -> None:
        """Puts a section in, with what is to be said of it."""
        self.arrays |= {f"{section}/{key}": np.asarray(value) for key, value in arrays.items()}
        if words:
            self.about[section] = words

    def of(self, section: str) -> Arrays:
        """A section's arrays.

        Raises:
            ValueError: it was not recorded.
        """
        found = {
            key.partition("/")[2]: value
            for key, value in self.arrays.items()
            if key.startswith(f"{section}/")
        }
        if not found:
            raise ValueError(f"the log holds no {section}: record it from the run")
        return found

    @property
    def routers(self) -> list[dict[str, Any]]:
        """Name, inputs and outputs of each router, in order of depth."""
        return list(self.about["routers"])

    def each_router(self, what: str) -> list[np.ndarray]:
        """An array of the section "route" for each router: "gates" or "scores" [N, m, n], or
        "inputs" [N, m].
        """
        return [self.arrays[f"route/{what}/{at}"] for at in range(len(self.routers))]

    def outputs(self) -> list[np.ndarray]:
        """The means of each router's outputs, [N, n]: sum_i g_ij mean(X_i), since they are
        mixtures.

        A cross-prediction's outputs are none: of it there are NaN.
        """
        pairs = zip(self.routers, self.each_router("gates"), self.each_router("inputs"))
        return [
            np.einsum("bij,bi->bj", gates, inputs) * (1.0 if router["mixes"] else np.nan)
            for router, gates, inputs in pairs
        ]


def save(log: Log, path: Path) -> None:
    """Writes the file, whole."""
    text = np.frombuffer(as_json({"format": FORMAT, **log.about}).encode(), np.uint8)
    with_about = {"about": text, **log.arrays}
    write_whole(path, lambda to: np.savez_compressed(to, allow_pickle=False, **with_about))


def load(path: Path) -> Log:
    """Reads a file that `save` wrote; nothing in it is run.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or something else.
    """
    data = io.BytesIO(path.read_bytes())
    try:
        with np.load(data, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about.pop("format") != FORMAT:
            raise ValueError("it has another format")
    except Exception as error:  # numpy, zipfile and zlib raise many kinds
        raise ValueError(f"{path} is no log of `mpkernels look`, or damaged: {error}") from error
    return Log(about, arrays)


def relative(means: np.ndarray) -> np.ndarray:
    """Shares of k parallel tensors' mean activations, [..., k] -> [..., k]; 0 where all are 0."""
    total = means.sum(-1, keepdims=True)
    shares: np.ndarray = np.divide(means, total, out=np.zeros_like(means), where=total != 0)
    return shares
