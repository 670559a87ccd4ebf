"""Every router of the paper's networks: its maps, and how many go in and out."""

from __future__ import annotations

from typing import NamedTuple


class Router(NamedTuple):
    """[batch, channels, *spatial], inputs maps to outputs."""

    name: str
    channels: int
    spatial: tuple[int, ...]
    inputs: int
    outputs: int


def shape(router: Router) -> str:
    """A router in a few characters."""
    sizes = "x".join(map(str, (router.channels, *router.spatial)))
    return f"[{sizes}] {router.inputs}->{router.outputs}"


def _square(name: str, paths: int, first: tuple[int, int], *rest: tuple[int, int]) -> list[Router]:
    """A one-to-many router, then one router of equal counts for each size (channels, width)."""
    found = [Router(f"{name} {first[0]}x{first[1]}", first[0], (first[1],) * 2, 1, paths)]
    return found + [
        Router(f"{name} {channels}x{width}", channels, (width,) * 2 if width else (), paths, paths)
        for channels, width in rest
    ]


def _networks() -> dict[str, list[Router]]:
    made = {}
    for n in (2, 3, 4):
        made[f"basecnn_{n}_cc"] = _square(
            "basecnn", n, (3, 32), (32, 16), (64, 8), (128, 8), (32, 0)
        )
        # resnet32_n_cc has the same routers.
        made[f"resnet20_{n}_cc"] = _square(
            "resnet20", n, (16, 32), (16, 32), (32, 16), (64, 8), (64, 0)
        )
    made["resnet18_2_cc"] = _square(
        "resnet18", 2, (64, 56), (64, 56), (128, 28), (256, 14), (512, 7), (512, 0)
    )
    made["resnet50_2_cc"] = _square(
        "resnet50", 2, (64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7), (2048, 0)
    )
    made["vgg13_2_cc"] = _square(
        "vgg13", 2, (3, 224), (32, 112), (64, 56), (128, 28), (256, 14), (256, 7), (256, 0)
    )
    return made


NETWORKS = _networks()

# Cross-prediction routers: maps of one output, as their convolutions leave them.
PREDICTED = {
    f"basecnn_{n}_cp": _square("basecnn", n, (32, 32), (64, 16), (128, 8), (32, 0))
    for n in (2, 3, 4)
}
