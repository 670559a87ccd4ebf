"""The one table of router problems, which every operator runs on every backend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from proof import where

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


def _randn(*shape: object) -> Tensor:
    return torch.randn(*shape, device=where.DEVICE)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Case:
    """One problem; `why` names what only this case would catch."""

    name: str
    why: str
    batch: int = 3
    channels: int = 13
    spatial: tuple[int, ...] = (5, 7)
    inputs: int = 2
    outputs: int = 3
    hidden: int = 16
    dtype: torch.dtype = F32
    parameter_dtype: torch.dtype | None = None
    bias: bool = True
    layout: str = "nchw"
    gradient: str = "dense"
    frozen: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return self.name


def _paths() -> list[Case]:
    cases = [
        Case(f"{m}_to_{n}", "each compiled pair of path counts", inputs=m, outputs=n, batch=2)
        for m in range(1, 5)
        for n in range(1, 5)
    ]
    more = [(5, 2), (2, 7), (8, 8)]
    return cases + [
        Case(f"{m}_to_{n}", "the loop over any number of paths", inputs=m, outputs=n, batch=2)
        for m, n in more
    ]


def _dtypes() -> list[Case]:
    cases = []
    for dtype in (F32, F64, BF16, F16):
        name = str(dtype).removeprefix("torch.")
        wide = Case(f"{name}_nchw", "vector body and scalar tail", dtype=dtype, channels=35)
        cases += [
            wide,
            replace(wide, name=f"{name}_channels_last", layout="channels_last"),
            replace(wide, name=f"{name}_vector", spatial=()),
            replace(wide, name=f"{name}_large_sample", channels=67, spatial=(19, 31), batch=2),
            replace(
                wide,
                name=f"{name}_large_channels_last",
                channels=67,
                spatial=(19, 31),
                batch=2,
                layout="channels_last",
            ),
        ]
    return cases


_LAYOUTS = [
    "channels_last", "channel_slice", "batch_slice", "channels_last_slice", "transposed",
    "expanded_batch", "expanded_channels", "expanded_space", "mixed", "mixed_channels_last",
    "row_gaps", "height_slice", "last_and_expanded_space", "last_and_expanded_width",
]  # fmt: skip
_GRADIENTS = [
    "expanded", "expanded_channels", "transposed", "sliced", "channels_last", "first_unused",
    "gates_only",
]  # fmt: skip
_PARAMETERS = ("w1", "b1", "w2", "b2", "gates", "bias", "scale", "shift")
_SUMMED = ("expanded", "expanded_space", "expanded_width")  # shapes of a sum's gradient

CASES = [
    *_paths(),
    *_dtypes(),
    *(Case(f"layout_{x}", "strides that a kernel could ignore", layout=x) for x in _LAYOUTS),
    *(Case(f"gradient_{x}", "gradients as autograd makes them", gradient=x) for x in _GRADIENTS),
    *(Case(f"{x}_to_channels_last", "stride 0", layout="channels_last", gradient=x)
      for x in _SUMMED),
    Case("router_of_basecnn", "powers of two", batch=4, channels=64, spatial=(8, 8), outputs=2),
    Case("image", "one to many", channels=3, spatial=(16, 16), inputs=1, outputs=2),
    Case("one_channel", "C = 1 has two formats at once", channels=1),
    Case("one_position", "S = 1 as a map", spatial=(1, 1)),
    Case("one_position_channels_last", "the same", spatial=(1, 1), layout="channels_last"),
    Case("one_sample", "B = 1", batch=1),
    Case("width_one", "a spatial size of 1", spatial=(6, 1), layout="channels_last"),
    Case("sequence", "[B, C, L]", spatial=(11,)),
    Case("volume", "[B, C, D, H, W]", spatial=(2, 3, 4)),
    Case("volume_channels_last", "the same", spatial=(2, 3, 4), layout="channels_last"),
    Case("no_bias", "b1 and b2 are None", bias=False),
    Case("hidden_1", "K = 1", hidden=1),
    Case("hidden_7", "K smaller than a vector", hidden=7),
    Case("hidden_64", "the largest K that is supported", hidden=64),
    Case("bf16_parameters", "autocast-like: narrow parameters", parameter_dtype=BF16),
    Case("wide_parameters", "narrow maps, float32 parameters", dtype=BF16, parameter_dtype=F32),
    Case("f64_parameters", "wider than the accumulate dtype", parameter_dtype=F64),
    Case("x0_frozen", "only one input needs a gradient", frozen=("x0",)),
    Case("xs_frozen", "only parameters need gradients", frozen=("x0", "x1")),
    Case("parameters_frozen", "only maps need gradients", frozen=_PARAMETERS),
    Case("w1_frozen", "some parameters need gradients", frozen=("w1", "b2", "bias", "scale")),
    Case("w2_frozen", "the other parameters", frozen=("b1", "w2", "x1", "gates", "shift")),
]  # fmt: skip

# One Triton kernel serves all path counts, and all dtypes share its loops, so a few counts suffice.
_COUNTS = ("1_to_1", "1_to_3", "3_to_1", "4_to_4", "5_to_2", "8_to_8")


def for_the_interpreter(cases: list[Case]) -> list[Case]:
    """The cases that take different ways through Triton's kernels and fit its slow interpreter."""
    affordable = [
        case
        for case in cases
        if (case.name in _COUNTS or not case.name[0].isdigit())
        and not (case.channels > 64 and case.dtype in (F64, F16))
    ]
    # A kernel still takes 35 channels in several chunks.
    return [replace(case, channels=35) if case.channels > 64 else case for case in affordable]


def _strided(case: Case, i: int) -> Tensor:
    """Map i of the case, with the strides that its layout names."""
    batch, channels, spatial = case.batch, case.channels, case.spatial

    def dense(b: int = batch, c: int = channels, sp: tuple[int, ...] = spatial) -> Tensor:
        return _randn(b, c, *sp).to(case.dtype)

    def channels_last(x: Tensor) -> Tensor:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)

    layout = case.layout
    if layout.startswith("last_and_"):
        layout = layout.removeprefix("last_and_") if i else "channels_last"
    if layout == "mixed":
        layout = "channels_last" if i % 2 else "nchw"
    elif layout == "mixed_channels_last":
        layout = "nchw" if i % 2 else "channels_last"
    if layout == "nchw":
        return dense()
    if layout == "channels_last":
        return channels_last(dense())
    if layout == "channel_slice":
        return dense(c=2 * channels + 1)[:, channels : 2 * channels]
    if layout == "batch_slice":
        return dense(b=2 * batch)[::2]
    if layout == "channels_last_slice":
        return channels_last(dense(c=2 * channels + 1))[:, channels : 2 * channels]
    if layout == "transposed":
        return dense(sp=spatial[::-1]).transpose(-1, -2)
    if layout == "expanded_batch":
        return dense(b=1).expand(batch, channels, *spatial)
    if layout == "expanded_channels":
        return dense(c=1).expand(batch, channels, *spatial)
    if layout == "expanded_space":
        return dense(sp=(1,) * len(spatial)).expand(batch, channels, *spatial)
    if layout == "expanded_width":
        return channels_last(dense(sp=(*spatial[:-1], 1))).expand(batch, channels, *spatial)
    if layout == "height_slice":
        return dense(sp=(2 * spatial[0], *spatial[1:]))[:, :, : spatial[0]]
    assert layout == "row_gaps", layout
    return dense(sp=(*spatial[:-1], 2 * spatial[-1]))[..., : spatial[-1]]


def make_paths(case: Case) -> list[Tensor]:
    """The m maps."""
    xs = [_strided(case, i) for i in range(case.inputs)]
    return [x.requires_grad_(f"x{i}" not in case.frozen) for i, x in enumerate(xs)]


def make_parameters(case: Case) -> dict[str, Tensor | None]:
    """w1, b1, w2 and b2, scaled so that gates differ clearly between samples."""
    m, n, k, c = case.inputs, case.outputs, case.hidden, case.channels
    dtype = case.parameter_dtype or (F64 if case.dtype == F64 else F32)
    values: dict[str, Tensor | None] = {
        "w1": _randn(m, k, c) * 4 / c**0.5,
        "b1": _randn(m, k) * 0.3 if case.bias else None,
        "w2": _randn(m, n, k) * 2 / k**0.5,
        "b2": _randn(m, n) * 0.3 if case.bias else None,
    }
    return {
        name: None if v is None else v.to(dtype).requires_grad_(name not in case.frozen)
        for name, v in values.items()
    }


def make_gates(case: Case, by_channel: bool = False) -> Tensor:
    """Gates for mix, including negative ones, which a static router may learn."""
    shape = (case.batch, case.inputs, case.outputs) + ((case.channels,) if by_channel else ())
    dtype = case.parameter_dtype or (F64 if case.dtype == F64 else F32)
    return _randn(shape).to(dtype).requires_grad_("gates" not in case.frozen)


def make_predictions(case: Case) -> list[Tensor]:
    """The m maps of n*C channels that combine takes."""
    return make_paths(replace(case, channels=case.outputs * case.channels))


def make_combine_parameters(case: Case, folded: bool = True) -> dict[str, Tensor | None]:
    """Gates, bias and, if folded, scale and shift, all of either sign."""
    m, n, c = case.inputs, case.outputs, case.channels
    dtype = case.parameter_dtype or (F64 if case.dtype == F64 else F32)
    shapes = {"bias": (m, n * c), "scale": (n, c), "shift": (n, c)}
    absent = set() if folded else {"scale", "shift"}
    if not case.bias:
        absent |= {"bias"}
    parameters: dict[str, Tensor | None] = {"gates": make_gates(case)}
    for name, shape in shapes.items():
        value = None if name in absent else _randn(shape).to(dtype)
        parameters[name] = None if value is None else value.requires_grad_(name not in case.frozen)
    return parameters


def make_grad_ys(case: Case, ys: list[Tensor]) -> list[Tensor | None]:
    """Gradients of the outputs, of the kind the case names; None for an unused output."""

    def like(y: Tensor, j: int) -> Tensor | None:
        value = _randn(y.shape).to(y.dtype)
        kind = case.gradient
        if kind == "gates_only" or (kind == "first_unused" and j == 0):
            return None
        if kind == "expanded":
            return _randn(()).to(y.dtype).expand(y.shape)
        if kind == "expanded_channels":
            return value[:, :1].expand(y.shape)
        if kind in ("expanded_space", "expanded_width"):
            last = value.movedim(1, -1).contiguous().movedim(-1, 1)
            for dim in range(2 if kind == "expanded_space" else y.dim() - 1, y.dim()):
                last = last.narrow(dim, 0, 1)
            return last.expand(y.shape)
        if kind == "transposed":
            return value.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "sliced":
            return torch.cat([value, value], 1)[:, : y.shape[1]]
        if kind == "channels_last":
            return value.movedim(1, -1).contiguous().movedim(-1, 1)
        return value

    return [like(y, j) for j, y in enumerate(ys)]
