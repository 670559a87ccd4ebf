"""What a checkpoint gives back: a trained network, weights to start from, a run to go on with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.images import Preparation
from ..networks import registry
from .checkpoint import file_of, load
from .recipe import Recipe


def check_options(
    path: Path, held: dict[str, Any], options: dict[str, Any], extend: bool = False
) -> None:
    """Compares the options of a run that goes on with those of its checkpoint.

    A value of the recipe that there was not yet when the run began had its default; what a network
    needs of its images is compared if the checkpoint knows it.

    Args:
        path: the checkpoint, for the message.
        held: the options in the checkpoint.
        options: those of the run that is to go on.
        extend: whether it may have more epochs than before.

    Raises:
        ValueError: names the first option that differs, or epochs that are fewer.
    """
    held = {**Recipe().as_dict(), **held}
    for name, value in options.items():
        before = held.get(name)
        if name == "epochs" and extend:
            if value < before:  # as many: a run goes on that was stopped after it was extended
                raise ValueError(
                    f"extend: epochs must be at least the {before} of {file_of(path)}, got {value}"
                )
        elif name == "preparation" and before is not None and value is not None:
            for part, now in value.items():
                if now != before[part]:
                    raise ValueError(
                        f"resume: the images have changed: their {part} must be {before[part]!r} "
                        f"as in {file_of(path)}, got {now!r}"
                    )
        elif before != value and (name in held or name not in ("classes", "preparation")):
            raise ValueError(
                f"resume: {name} must be {before!r} as in {file_of(path)}, got {value!r}"
            )


def num_classes(name: str, options: dict[str, Any]) -> int:
    """The number of classes that the network `name` tells, by the options of its checkpoint."""
    return int({**registry.options(name), **options.get("network", {})}["num_classes"])


def _new_heads(
    held: dict[str, Tensor], own: dict[str, Tensor], before: int, after: int
) -> list[str]:
    """The tensors of which one dimension differs as `before` and `after` classes do."""

    def tells(old: Tensor, new: Tensor) -> bool:
        differ = [(a, b) for a, b in zip(old.shape, new.shape) if a != b]
        return (
            old.dim() == new.dim()
            and len(differ) == 1
            and all(a * after == b * before for a, b in differ)
        )

    return [name for name, new in own.items() if name in held and tells(held[name], new)]


def load_weights(model: nn.Module, name: str, path: Path, classes: int | None = None) -> None:
    """Loads a checkpoint's weights, averaged ones if it has them, into the network `name`.

    A network for another number of classes keeps the new weights of the layers that tell them; a
    warning names these.

    Args:
        model: the network.
        name: its name.
        path: a run's folder or its checkpoint.
        classes: number of classes that `model` tells; None if the checkpoint's must fit.

    Raises:
        OSError: there is no such checkpoint (FileNotFoundError), or it cannot be read.
        ValueError: it is no checkpoint, or one of another network or of other sizes.
    """
    try:
        state = load(path)
    except FileNotFoundError as error:
        hint = "a run's folder or its checkpoint.json is wanted, no weights come with the networks"
        raise FileNotFoundError(f"pretrained: {error}; {hint}") from error
    except (OSError, ValueError) as error:
        raise type(error)(f"pretrained: {error}") from error
    trained = state["options"].get("name", name)
    if trained != name:
        raise ValueError(f"pretrained: {file_of(path)} holds {trained}, not {name}")
    held, own = state.get("average") or state["model"], model.state_dict()
    anew: list[str] = []
    if classes is not None and (before := num_classes(name, state["options"])) != classes:
        anew = _new_heads(held, own, before, classes)
    try:
        model.load_state_dict({**held, **{part: own[part] for part in anew}})
    except RuntimeError as error:
        raise ValueError(f"pretrained: {file_of(path)} does not fit {name}: {error}") from error
    if anew:
        warnings.warn(
            f"pretrained: {file_of(path)} tells {before} classes, this {name} {classes}: "
            f"{', '.join(anew)} start anew",
            stacklevel=3,
        )


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a run.

    Args:
        path: the run's folder or its checkpoint.

    Returns:
        the network in evaluation mode on the CPU; and what training knew: "name", "data",
        "network" (its options), the values of the recipe, "metrics", and "preparation", how images
        become what the network sees (a `models.data.Preparation`; None if it was not kept).

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or does not fit the network it names.
    """
    state = load(path)
    options = state["options"]
    if "name" not in options:
        raise ValueError(f"{file_of(path)} does not name its network")
    if options["name"] not in registry.list_models() or "network" not in options:
        raise ValueError(
            f"{file_of(path)}: {options['name']!r} is no network of this package with its options, "
            "and only those can be built again"
        )
    try:
        network_options = {option: _tuples(value) for option, value in options["network"].items()}
        network = registry.build(options["name"], **network_options)
        held = options.get("preparation")
        preparation = None if held is None else Preparation.from_dict(held)
    # Options that somebody has changed by hand can go wrong in any way.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{file_of(path)}: {' '.join(str(e).split())}") from e
    classes = num_classes(options["name"], options)
    if preparation is not None and len(preparation.names) != classes:
        raise ValueError(
            f"{file_of(path)} names {len(preparation.names)} classes, its network tells {classes}"
        )
    load_weights(network, options["name"], path)
    known = {**options, "metrics": state["metrics"], "preparation": preparation}
    return network.eval(), known


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
