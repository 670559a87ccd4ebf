"""cross_connect on the simulated GPU of machine.h, as a backend of CPU tensors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int32, c_int64, c_uint, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from mpkernels.ops.flags import flags_of
from mpkernels.triton.launch_arguments import finished, geometry_like, new_maps, reading, writing
from proof.where import ROOT

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"
FLAGS = ["-std=c++20", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Geometry(Structure):
    """The struct of this name in csrc/problem.h; the structs below mirror that file too."""

    _fields_ = [
        ("dtype", c_int32), ("channels_last", c_bool),
        ("batch", c_int64), ("channels", c_int64), ("positions", c_int64),
    ]  # fmt: skip


class Map(Structure):
    _fields_ = [("data", c_void_p), ("batch", c_int64), ("row", c_int64)]


class Parameters(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("kind", "inputs", "outputs", "hidden")),
        *((name, c_void_p) for name in ("w1", "w1_by_channel", "b1", "w2", "b2")),
    ]


class Forward(Structure):
    _fields_ = [
        ("geometry", Geometry), ("gate", Parameters), ("xs", POINTER(Map)), ("ys", POINTER(Map)),
        ("gates", c_void_p), ("pooled", c_void_p),
    ]  # fmt: skip


class Backward(Structure):
    _fields_ = [
        ("geometry", Geometry), ("gate", Parameters), ("xs", POINTER(Map)),
        ("grad_ys", POINTER(Map)), ("output_of", POINTER(c_int64)), ("present", c_int64),
        ("grad_xs", POINTER(Map)),
        *((name, c_void_p) for name in (
            "grad_gates", "gates", "pooled", "grad_pooled", "grad_logits", "grad_hidden", "hidden"
        )),
        ("parameters_wanted", c_bool),
    ]  # fmt: skip


class Weights(Structure):
    _fields_ = [
        ("dtype", c_int32),
        *((n, c_int64) for n in ("batch", "channels", "inputs", "outputs", "hidden_units")),
        *((n, c_void_p) for n in ("pooled", "hidden", "grad_logits", "grad_hidden",
                                  "grad_w1", "grad_b1", "grad_w2", "grad_b2")),
    ]  # fmt: skip


def compiler() -> str | None:
    """The path of g++, which the shim needs; None if it is missing."""
    return shutil.which("g++")


def build(folder: Path, *flags: str, sources: tuple[str, ...] = ("kernels.cpp",)) -> Path:
    """Compiles the kernels for this CPU, as a library or with "-pie" as a program."""
    library = folder / ("kernels" if "-pie" in flags else "kernels.so")
    shared = () if "-pie" in flags else ("-shared",)
    subprocess.run(
        [compiler(), *FLAGS, *shared, *flags, f"-I{HERE}", f"-I{CSRC}", "-o", library,
         *(HERE / source for source in sources)],
        check=True,
    )  # fmt: skip
    return library


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _maps(arguments: tuple) -> ctypes.Array:
    maps = (Map * max(1, len(arguments[0])))()
    for index, (t, batch, row) in enumerate(zip(*arguments)):
        maps[index] = Map(t.data_ptr(), batch, row)
    return maps


class Traffic:
    """How often each byte of a tensor's storage was read and written."""

    def __init__(self, t: Tensor) -> None:
        self.t, size = t, t.untyped_storage().nbytes()
        self.reads, self.writes = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))

    def counts(self, kind: str) -> Tensor:
        """The count of each element, in the shape of the tensor; its bytes must agree."""
        t, bytes_ = self.t, self.t.element_size()
        byte_counts = getattr(self, kind).view(-1, bytes_)
        assert (byte_counts == byte_counts[:, :1]).all()
        return byte_counts[:, 0].as_strided(t.shape, t.stride(), t.storage_offset())

    def total(self, kind: str) -> int:
        """The bytes read or written, repeats included."""
        return int(getattr(self, kind).sum())


class Machine:
    """A library from `build`, and how it runs kernels.

    Attributes:
        cluster, threads: blocks per cluster and threads per block.
        seed: of the order in which fibers run; 0 for a fixed order.
        traffic: the last kernel's accesses by tensor, if a list was assigned before.
    """

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        for name in ("forward", "backward", "weights"):
            getattr(self.library, name).restype = c_char_p
        self.library.plan_bytes.restype = c_int64
        self.cluster, self.threads, self.seed = 1, 64, 0
        self.traffic: list[Traffic] | None = None

    def _run(self, name: str, problem: Structure, tensors: list[Tensor | None], *sizes: int):
        known = []
        self.library.know(c_void_p(0), c_int64(0), None, None)
        if self.traffic is not None:
            known = [Traffic(t) for t in tensors if t is not None and t.numel()]
            for one in {k.t.untyped_storage().data_ptr(): k for k in known}.values():
                storage = one.t.untyped_storage()
                self.library.know(
                    c_void_p(storage.data_ptr()), c_int64(storage.nbytes()),
                    c_void_p(one.reads.data_ptr()), c_void_p(one.writes.data_ptr()),
                )  # fmt: skip
            self.traffic = known
        error = getattr(self.library, name)(
            ctypes.byref(problem), *map(c_int64, sizes), c_uint(self.seed)
        )
        if error:
            raise RuntimeError(f"{name}: {error.decode()}")

    def _problem(self, xs: list[Tensor], gate: tuple[Tensor | None, ...], kind: int):
        w1, b1, w2, b2 = gate
        geometry = geometry_like(xs[0])
        sizes = len(xs), w2.shape[1], w1.shape[1]
        parameters = Parameters(kind, *sizes, _pointer(w1), None, *map(_pointer, (b1, w2, b2)))
        dtype = _DTYPES[xs[0].dtype]
        c_geometry = Geometry(
            dtype, geometry.channels_last, geometry.batch, geometry.channels, geometry.positions
        )
        return geometry, c_geometry, parameters

    def cross_connect(self, xs, parameters, kind):
        """The operator, by its schema."""
        parameters = [None if p is None else p.float().contiguous() for p in parameters]
        n = parameters[2].shape[1]
        geometry, c_geometry, gate = self._problem(xs, parameters, kind)
        ys = new_maps([xs[0]] * n)
        inputs, outputs = reading(xs, geometry, xs[0]), writing(ys, geometry, xs[0])
        gates = torch.empty(geometry.batch, len(xs), n)
        pooled = torch.empty(geometry.batch, len(xs), geometry.channels)
        problem = Forward(
            c_geometry, gate, _maps(inputs), _maps(outputs), gates.data_ptr(), pooled.data_ptr()
        )
        tensors = [*inputs[0], *outputs[0], gates, pooled, *parameters]
        self._run("forward", problem, tensors, self.cluster, self.threads)
        return [*finished(ys, outputs), gates, pooled]

    def cross_connect_backward(self, grads, kept, xs, gate_parameters, kind, wanted):
        """The operator's backward, by its schema."""
        (*grad_ys, grad_gates), (gates, pooled) = grads, kept
        w1, m, wanted = gate_parameters[0], len(xs), flags_of(wanted, len(xs) + 4)
        parameters = [None if p is None else p.float().contiguous() for p in gate_parameters]
        geometry, c_geometry, gate = self._problem(xs, parameters, kind)
        grad_xs = new_maps([x if w else None for x, w in zip(xs, wanted)])
        present = [j for j, grad in enumerate(grad_ys) if grad is not None]
        outer = reading([grad_ys[j] for j in present], geometry, xs[0])
        inputs, grads = reading(xs, geometry, xs[0]), writing(grad_xs, geometry, xs[0])
        grad_maps = _maps(grads)
        for i in range(m):
            if not wanted[i]:
                grad_maps[i].data = None
        grad_logits = torch.empty(gates.shape)
        grad_hidden, hidden = (torch.empty(*gates.shape[:2], w1.shape[1]) for _ in range(2))
        saved = [None if t is None else t.contiguous() for t in (grad_gates, gates, pooled)]
        scratch = [grad_logits, grad_hidden, hidden]
        problem = Backward(
            c_geometry, gate, _maps(inputs), _maps(outer),
            (c_int64 * len(xs[0:1] + present))(*present), len(present), grad_maps,
            *map(_pointer, saved), None, *map(_pointer, scratch), any(wanted[m:]),
        )  # fmt: skip
        written = [t for t, w in zip(grads[0], wanted) if w]
        tensors = [*outer[0], *inputs[0], *written, *saved, *scratch, *parameters]
        self._run("backward", problem, tensors, self.cluster, self.threads)
        traffic = self.traffic
        sums = [
            torch.empty(p.shape) if w and p is not None else None
            for p, w in zip(parameters, wanted[m:])
        ]
        if any(wanted[m:]):
            sizes = geometry.batch, geometry.channels, m, gates.shape[2], w1.shape[1]
            pointers = map(_pointer, (saved[2], hidden, grad_logits, grad_hidden, *sums))
            weights = Weights(0, *sizes, *pointers)
            self._run("weights", weights, [saved[2], *scratch, *sums], self.threads)
            self.traffic = traffic
        grad_parameters = [s.to(p.dtype) for s, p in zip(sums, gate_parameters) if s is not None]
        return finished(grad_xs, grads) + grad_parameters

    @contextmanager
    def forced(self) -> Iterator[None]:
        """Within it, every cross_connect of CPU tensors runs on this machine."""
        library = torch.library.Library("mpkernels", "IMPL")
        for name in ("cross_connect", "cross_connect_backward"):
            library.impl(name, getattr(self, name), "CPU", allow_override=True)
        try:
            yield
        finally:
            library._destroy()
