"""Every router of the paper's networks: the shape of its maps, and how many enter and leave."""

from __future__ import annotations

from typing import NamedTuple


class Router(NamedTuple):
    """A router from `inputs` to `outputs` maps, each [batch, channels, *spatial]."""

    name: str
    channels: int
    spatial: tuple[int, ...]
    inputs: int
    outputs: int


def shape(router: Router) -> str:
    """The router's sizes as text, such as [64x8x8] 2->3."""
    sizes = "x".join(map(str, (router.channels, *router.spatial)))
    return f"[{sizes}] {router.inputs}->{router.outputs}"


def _square(name: str, paths: int, first: tuple[int, int], *rest: tuple[int, int]) -> list[Router]:
    """A one-to-many router, then one m->m router per size (channels, width)."""
    routers = [Router(f"{name} {first[0]}x{first[1]}", first[0], (first[1],) * 2, 1, paths)]
    return routers + [
        Router(f"{name} {channels}x{width}", channels, (width,) * 2 if width else (), paths, paths)
        for channels, width in rest
    ]


def _networks() -> dict[str, list[Router]]:
    networks = {}
    for n in (2, 3, 4):
        networks[f"basecnn_{n}_cc"] = _square(
            "basecnn", n, (3, 32), (32, 16), (64, 8), (128, 8), (32, 0)
        )
        # resnet32_n_cc has the same routers.
        networks[f"resnet20_{n}_cc"] = _square(
            "resnet20", n, (16, 32), (16, 32), (32, 16), (64, 8), (64, 0)
        )
    networks["resnet18_2_cc"] = _square(
        "resnet18", 2, (64, 56), (64, 56), (128, 28), (256, 14), (512, 7), (512, 0)
    )
    networks["resnet50_2_cc"] = _square(
        "resnet50", 2, (64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7), (2048, 0)
    )
    networks["vgg13_2_cc"] = _square(
        "vgg13", 2, (3, 224), (32, 112), (64, 56), (128, 28), (256, 14), (256, 7), (256, 0)
    )
    return networks


NETWORKS = _networks()

# Cross-prediction routers; the size is that of one output, after its convolution.
PREDICTED = {
    f"basecnn_{n}_cp": _square("basecnn", n, (32, 32), (64, 16), (128, 8), (32, 0))
    for n in (2, 3, 4)
}
