"""The networks of the paper, built on mpkernels' routers: the package `mpkernels.models`.

In a checkout models is a link to mpkernels/models, whose files can thus be found as `models` too.
"""

if __name__ == "models":
    # What follows then takes from the one package, and is not seen itself.
    from mpkernels.models.alias import share

    share()

import os
from pathlib import Path
from typing import Any

from torch import nn

from .networks.registry import build, options
from .networks.registry import list_models as list
from .networks.registry import options as known_options

__all__ = ["create", "list", "options"]


def create(name: str, *, pretrained: str | Path | None = None, **options: Any) -> nn.Module:
    """Builds the network `name`.

    Args:
        name: one of `models.list()`.
        pretrained: a checkpoint that training wrote (`models.train` or `models.training.fit`);
            its weights are loaded, whichever kind of routers it was trained with. Where it tells
            another number of classes, a warning names the layers that start anew.
        options: `num_classes`, `in_channels` (3) and `channels_last` (False) of every network;
            those that can have routers also take `routers` ("fused" or "eager"), `paths`, `kind`
            ("cc", "cp", "stitch" or None: what joins the paths) and `hidden` (units per gate). All
            options with their defaults: `models.options(name)`.

    Returns:
        the network, in training mode; it maps images [B, in_channels, H, W] to logits
        [B, num_classes].

    Raises:
        ValueError: the name is unknown, an option has a value it cannot have, or the checkpoint
            belongs to another network.
        TypeError: the network has no such option, or `pretrained` is no path.
        OSError: there is no such checkpoint (FileNotFoundError), or it cannot be read.

    Example:
        >>> create("basecnn_2_cc", num_classes=100)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    if pretrained is not None and not isinstance(pretrained, (str, os.PathLike)):
        raise TypeError(
            "pretrained must be the path of a run's folder or of its checkpoint.json, or None: "
            f"no weights come with the networks; got {pretrained!r}"
        )
    model = build(name, **options)
    if pretrained is not None:
        # Networks alone need nothing of what training needs.
        from .training.weights import load_weights

        load_weights(
            model, name, Path(pretrained), {**known_options(name), **options}["num_classes"]
        )
    return model
