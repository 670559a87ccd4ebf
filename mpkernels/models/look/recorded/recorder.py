"""Runs a network over the test images and keeps what its routers did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mpkernels
from mpkernels import eager

from ...data import DataSet, coloured, normalise
from ...networks.layers import Routed
from ...paper.scores import predict, probabilities_of
from ...training.gates import gives_gates
from .log import Log

LARGEST = 96  # pixels of a side of the pictures in a log
EXTREMES = 10  # pictures at each end of a gate
ON_THE_PAGE = 60  # pictures
LEARNED, MEAN = -1, -1  # of a switch: no router; and no output, but the mean


def check(model: nn.Module) -> Routed:
    """The network, whose paths meet at routers with gates.

    Raises:
        ValueError: it has no such.
    """
    if not isinstance(model, Routed) or not gives_gates(model):
        raise ValueError("run: paths must meet at routers with gates, as in *_cc and *_cp")
    return model


def about_routers(model: nn.Module) -> list[dict[str, Any]]:
    """Name, numbers of inputs and outputs, and whether outputs are mixtures of the inputs."""
    with mpkernels.record(model) as recorded:
        names = list(recorded)
    routers = [model.get_submodule(name) for name in names]
    return [
        {
            "name": name, "inputs": router.inputs, "outputs": router.outputs,
            "mixes": isinstance(router, eager.CrossConnect),
        }
        for name, router in zip(names, routers)
    ]  # fmt: skip


def record_route(log: Log, model: nn.Module, images: DataSet, device: str, batch: int) -> None:
    """Adds gates, scores and mean inputs of every router for every test image, and predictions."""
    kept: dict[str, list[dict[str, Tensor]]] = {router["name"]: [] for router in log.routers}

    def take(name: str, call: dict[str, Tensor]) -> None:
        kept[name].append({
            "gates": call["gates"].float().cpu(), "scores": call["scores"].float().cpu(),
            "inputs": call["pooled"].float().mean(2).cpu(),
        })  # fmt: skip

    with mpkernels.record(model, take=take):
        probabilities, labels = predict(model, images, device, 1, batch)
    arrays: dict[str, Any] = {
        f"{what}/{at}": torch.cat([call[what] for call in kept[router["name"]]]).numpy()
        for at, router in enumerate(log.routers)
        for what in ("gates", "scores", "inputs")
    }
    arrays["labels"] = labels.numpy().astype(np.int32)
    arrays["predicted"] = probabilities.argmax(1).numpy().astype(np.int32)
    arrays["confidence"] = probabilities.max(1).values.numpy()
    if log.about["data"] == coloured.NAME:
        contexts = coloured.contexts("test", len(labels))
        arrays |= {f"context/{name}": group.numpy() for name, group in contexts.items()}
    log.add("route", arrays)


def gates_of(log: Log) -> list[tuple[int, int, int]]:
    """The gates (router, input, output) that say all: of each softmax all outputs but the last."""
    return [
        (at, i, j)
        for at, router in enumerate(log.routers)
        for i in range(router["inputs"])
        for j in range(router["outputs"] - 1)
    ]


def extremes(gates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images with the highest and with the lowest gate [N], the outermost first."""
    order = np.argsort(gates, kind="stable")
    count = min(EXTREMES, -(-len(order) // 2))
    return order[::-1][:count], order[:count]


def on_the_page(log: Log) -> np.ndarray:
    """The images that the page shows: the first ones of each class, `ON_THE_PAGE` at most."""
    labels = log.of("route")["labels"]
    present = np.unique(labels)[:ON_THE_PAGE]
    each = ON_THE_PAGE // len(present)
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in present])


def as_bytes(normal: Tensor, images: DataSet) -> np.ndarray:
    """Normalised images [K, 3, H, H] as bytes again [K, 3, S, S], at most `LARGEST` pixels wide."""
    zero, one = shades(images, normal.device)
    x = ((normal - zero) / (one - zero)).clamp(0, 1)
    if x.shape[-1] > LARGEST:
        x = nn.functional.interpolate(x, size=(LARGEST, LARGEST), mode="area")
    return (255 * x).round().to(torch.uint8).cpu().numpy()


def shades(images: DataSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Black and white as the network sees them, [3, 1, 1]."""
    seen = images.preparation
    assert seen is not None  # sets by name have one
    black, white = (
        normalise(seen, torch.full((3, 1, 1), shade, dtype=torch.uint8, device=device))
        for shade in (0, 255)
    )
    return black, white


def record_pictures(log: Log, images: DataSet, also: list[int], batch: int) -> None:
    """Adds the pixels of all images that a figure shows; `also` are the user's choice.

    Those that the log held before stay.
    """
    gates = [log.each_router("gates")[at][:, i, j] for at, i, j in gates_of(log)]
    held = log.of("pictures")["indices"] if log.has("pictures") else np.array([], np.int64)
    ends = [end for gate in gates for end in extremes(gate)]
    indices = np.unique(np.concatenate([*ends, on_the_page(log), held, np.array(also, np.int64)]))
    parts = torch.from_numpy(indices).long().split(batch)
    pixels = [as_bytes(x, images) for x, _ in images.test_batches(parts, "cpu")]
    log.add("pictures", {"indices": indices, "pixels": np.concatenate(pixels)})


def switches_of(log: Log) -> list[tuple[int, int, int]]:
    """What the page can switch: (router, path, output), first nothing.

    The gates of that path at that router become their mean over the test set (`MEAN`), or send the
    path to that output alone.
    """
    return [(LEARNED, 0, 0)] + [
        (at, i, to)
        for at, router in enumerate(log.routers)
        for i in range(router["inputs"])
        for to in (MEAN, *range(router["outputs"]))
    ]


def record_switches(log: Log, model: nn.Module, images: DataSet, device: str, batch: int) -> None:
    """Adds what the network does with the page's images after each switch.

    What lies behind a switched router has other inputs, and so other gates: all are recorded.
    """
    indices = on_the_page(log)
    means = [torch.from_numpy(gates.mean(0)) for gates in log.each_router("gates")]
    names = [router["name"] for router in log.routers]
    said: list[np.ndarray] = []
    did: dict[str, list[np.ndarray]] = {}

    def rules(at: int, path: int, to: int) -> dict[str, Any]:
        if at == LEARNED:
            return {}
        row = means[at][path] if to == MEAN else torch.eye(len(means[at][path]))[to]

        def rule(own: Tensor) -> Tensor:
            own = own.clone()
            own[:, path] = row.to(own)
            return own

        return {names[at]: rule}

    for switch in switches_of(log):
        answers = []
        with mpkernels.route(model, rules(*switch)), mpkernels.record(model) as recorded:
            for x, _ in images.test_batches(torch.from_numpy(indices).long().split(batch), device):
                with torch.no_grad():
                    answers.append(probabilities_of(model(x)).cpu())
        said.append(torch.cat(answers).numpy())
        for at, name in enumerate(names):
            did.setdefault(f"gates/{at}", []).append(recorded[name].gates.float().cpu().numpy())
            inputs = recorded[name].pooled.float().mean(2).cpu().numpy()
            did.setdefault(f"inputs/{at}", []).append(inputs)
    found = {key: np.stack(values) for key, values in did.items()}
    log.add("switches", {
        "indices": indices, "switched": np.array(switches_of(log), np.int32),
        "probabilities": np.stack(said), **found,
    })  # fmt: skip
