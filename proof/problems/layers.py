"""The table of cross-prediction layers for vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

F32, F64 = torch.float32, torch.float64
NAMES = ("weight", "bias", "w1", "b1", "w2", "b2", "scale", "shift")


@dataclass(frozen=True)
class Layer:
    """One problem; by default no size is a multiple of a vector register."""

    name: str
    batch: int = 5
    channels: int = 7  # C
    out_channels: int = 5  # C' of each prediction
    inputs: int = 2
    outputs: int = 3
    hidden: int = 6
    dtype: torch.dtype = F32
    parameter_dtype: torch.dtype | None = None  # for all but the weight
    absent: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    relu: bool = True
    layout: str = "dense"  # of xs
    gradient: str = "dense"  # of ys

    def __str__(self) -> str:
        return self.name


LAYERS = [
    Layer("2_to_3"),
    Layer("float64", dtype=F64),
    Layer("whole_vectors", batch=16, channels=32, out_channels=32, outputs=2, hidden=16),
    Layer("many_samples", batch=131, channels=33, out_channels=9, outputs=2, hidden=16),
    Layer("one_sample", batch=1, channels=32, out_channels=32, outputs=2),
    Layer("one_to_many", inputs=1, outputs=4),
    Layer("many_to_one", inputs=5, outputs=1),
    Layer("3_to_2", inputs=3, outputs=2, dtype=F64),
    Layer("9_to_7", inputs=9, outputs=7, out_channels=3),
    Layer("one_channel", channels=1, out_channels=1),
    Layer("one_row_beyond", channels=9, out_channels=3, outputs=3),
    Layer("no_bias", absent=("bias",)),
    Layer("no_gate_bias", absent=("b1", "b2")),
    Layer("unfolded", absent=("scale", "shift")),
    Layer("only_scale", absent=("shift",)),
    Layer("nothing_but_weights", absent=("bias", "b1", "b2", "scale", "shift"), dtype=F64),
    Layer("no_relu", relu=False),
    Layer("wide_parameters", parameter_dtype=F64),
    Layer("narrow_parameters", parameter_dtype=torch.bfloat16),
    Layer("x0_frozen", frozen=("x0",)),
    Layer("weight_frozen", frozen=("weight", "scale")),
    Layer("gates_frozen", frozen=("w1", "b1", "w2", "b2")),
    Layer("only_x1_learns", frozen=("x0", *NAMES)),
    Layer("only_bias_learns", frozen=("x0", "x1", *(n for n in NAMES if n != "bias"))),
    Layer("layout_sliced", layout="sliced"),
    Layer("layout_transposed", layout="transposed"),
    Layer("layout_expanded", layout="expanded"),
    Layer("layout_expanded_channels", layout="expanded_channels"),
    Layer("gradient_expanded", gradient="expanded"),
    Layer("gradient_transposed", gradient="transposed"),
    Layer("gradient_sliced", gradient="sliced"),
    Layer("first_unused", gradient="first_unused"),
    Layer("gates_only", gradient="gates_only"),
    Layer("ys_only", gradient="ys_only"),
]


def strided(t, how):
    """Values of the shape of t, with strides of the kind that `how` names."""
    if how == "sliced":
        return torch.cat([t, t], -1)[..., : t.shape[-1]]
    if how == "transposed":
        return t.T.contiguous().T
    if how == "expanded":
        return t[:1].expand(t.shape)
    return t[:, :1].expand(t.shape) if how == "expanded_channels" else t


def problem(layer):
    """The vectors xs, and the parameters by name."""
    m, n, c, k = layer.inputs, layer.outputs, layer.channels, layer.hidden
    shapes = {
        "weight": (m, n * layer.out_channels, c), "bias": (m, n * layer.out_channels),
        "w1": (m, k, c), "b1": (m, k), "w2": (m, n, k), "b2": (m, n),
        "scale": (n, layer.out_channels), "shift": (n, layer.out_channels),
    }  # fmt: skip
    dtype = layer.parameter_dtype or layer.dtype
    parameters = {name: torch.randn(shape, dtype=F64) for name, shape in shapes.items()}
    parameters = {
        name: None if name in layer.absent else
        t.to(layer.dtype if name == "weight" else dtype).requires_grad_(name not in layer.frozen)
        for name, t in parameters.items()
    }  # fmt: skip
    xs = [strided(torch.randn(layer.batch, c, dtype=layer.dtype), layer.layout) for _ in range(m)]
    return [x.requires_grad_(f"x{i}" not in layer.frozen) for i, x in enumerate(xs)], parameters


def run(function, layer, xs, parameters):
    """Calls `cross_predict` or a function with its arguments."""
    *first, scale, shift = parameters.values()
    return function(xs, *first, layer.relu, scale, shift)


def gradients_of(layer, ys, gates):
    """Gradients of ys and gates; None for those that the layer's kind leaves out."""
    kind = layer.gradient
    grads = [strided(torch.randn_like(y), kind) for y in ys]
    if kind == "first_unused":
        grads[0] = None
    if kind == "gates_only":
        grads = [None] * len(ys)
    return [*grads, None if kind == "ys_only" else torch.randn_like(gates)]
