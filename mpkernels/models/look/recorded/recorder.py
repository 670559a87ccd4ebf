"""Runs a network over the test images and keeps what its routers did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mpkernels
from mpkernels import eager

from ...data import DataSet, coloured, normalise
from ...networks.layers import Parallel, Routed, Unrouted
from ...paper.scores import predict, probabilities_of
from ...training.gates import gives_gates
from .log import Log

LARGEST = 96  # pixels of a side of the pictures in a log
EXTREMES = 10  # pictures at each end of a gate
ON_THE_PAGE = 6  # pictures of a class


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
    count = min(EXTREMES, len(order) // 2)
    return order[::-1][:count], order[:count]


def on_the_page(log: Log) -> np.ndarray:
    """The images that the page shows: the first of each class."""
    labels = log.of("route")["labels"]
    chosen = [np.flatnonzero(labels == label)[:ON_THE_PAGE] for label in np.unique(labels)]
    return np.concatenate(chosen)


def chosen(log: Log, images: list[int]) -> np.ndarray:
    """The images of which a log keeps the pixels."""
    ends = [np.concatenate(extremes(log.each_router("gates")[at][:, i, j]))
            for at, i, j in gates_of(log)]  # fmt: skip
    return np.unique(np.concatenate([*ends, on_the_page(log), np.array(images, np.int64)]))


def pixels(images: DataSet, indices: np.ndarray) -> np.ndarray:
    """Test images as bytes [K, 3, S, S], at most `LARGEST` pixels wide."""
    seen = images.preparation
    assert seen is not None
    parts = torch.from_numpy(indices).long().split(64)
    normal = torch.cat([x for x, _ in images.test_batches(parts, "cpu")])
    return as_bytes(normal, images)


def as_bytes(normal: Tensor, images: DataSet) -> np.ndarray:
    """Normalised images as bytes [K, 3, S, S] again, at most `LARGEST` pixels wide."""
    seen = images.preparation
    assert seen is not None
    zero, one = (normalise(seen, torch.full((3, 1, 1), v, dtype=torch.uint8)) for v in (0, 255))
    x = ((normal - zero) / (one - zero)).clamp(0, 1)
    if x.shape[-1] > LARGEST:
        x = nn.functional.interpolate(x, size=(LARGEST, LARGEST), mode="area")
    return (255 * x).round().to(torch.uint8).numpy()


def record_pictures(log: Log, images: DataSet, also: list[int]) -> None:
    """Adds the pixels of all images that a figure shows; `also` are the user's choice."""
    indices = chosen(log, also)
    log.add("pictures", {"indices": indices, "pixels": pixels(images, indices)})


def record_switches(log: Log, model: nn.Module, images: DataSet, device: str) -> None:
    """Adds what the network says of the page's images when one gate is switched.

    The gates of one path at one router are replaced by their mean over the test set, or send the
    path to one output alone; the others stay as learned.
    """
    indices = on_the_page(log)
    ((x, _),) = images.test_batches([torch.from_numpy(indices).long()], device)

    def probabilities(rules: dict[str, Any]) -> np.ndarray:
        with torch.no_grad(), mpkernels.route(model, rules):
            return probabilities_of(model(x)).cpu().numpy()

    switches, found = [], []
    means = [torch.from_numpy(gates.mean(0)) for gates in log.each_router("gates")]
    for at, router in enumerate(log.routers):
        for i in range(router["inputs"]):
            alone = torch.eye(router["outputs"])
            for to, row in enumerate([means[at][i], *alone]):

                def rule(own: Tensor, i: int = i, row: Tensor = row) -> Tensor:
                    own = own.clone()
                    own[:, i] = row.to(own)
                    return own

                switches.append((at, i, to - 1))  # -1: the mean
                found.append(probabilities({router["name"]: rule}))
    log.add("switches", {
        "indices": indices, "learned": probabilities({}).astype(np.float32),
        "gates": np.array(switches, np.int32), "probabilities": np.array(found, np.float32),
    })  # fmt: skip


def parallel_layers(model: nn.Module) -> list[list[nn.Module]]:
    """The parts that run side by side, stage by stage: a module for each path."""
    if isinstance(model, Unrouted):
        paths = [list(path.children()) for path in model.paths]
        return [list(stage) for stage in zip(*paths)]
    stages = list(model.segments) if isinstance(model, Routed) else []
    return [list(stage) for stage in stages if isinstance(stage, Parallel) and len(stage) > 1]
