"""Triton's own NVIDIA driver on an emulated libcuda: it compiles for sm_90 and launches nothing.

CPU tensors stand in for those of a GPU. What is launched, by Triton's launcher or from C++, can be
recorded with the bytes of every argument.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

_MOST_PARAMETERS = 128


class _Launch(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.c_uint64), ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3), ("shared_bytes", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32), ("attribute_id", ctypes.c_int32),
        ("attribute_value", ctypes.c_uint32), ("stream", ctypes.c_uint64),
        ("parameters", ctypes.c_uint32), ("padding", ctypes.c_uint32),
        ("values", ctypes.c_uint64 * _MOST_PARAMETERS),
        ("contents", ctypes.c_uint64 * _MOST_PARAMETERS),
    ]  # fmt: skip


class Launched(NamedTuple):
    """One launch, as the driver saw it."""

    kernel: str
    function: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    attributes: tuple[int, int, int]
    stream: int
    sizes: tuple[int, ...]  # bytes of each parameter
    values: tuple[int, ...]
    contents: tuple[int, ...]  # of addresses: the first four bytes there


def parameters_of_cubin(cubin: bytes, kernel: str) -> list[int]:
    """Bytes of each parameter of a kernel, in order, by the notes of its machine code."""
    sections = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, of_names = struct.unpack_from("<HHH", cubin, 0x3A)

    def section(number: int) -> tuple[int, int, int]:
        name, *_, offset, length = struct.unpack_from("<IIQQQQ", cubin, sections + number * size)
        return name, offset, length

    _, names, _ = section(of_names)
    wanted = f".nv.info.{kernel}".encode() + b"\0"
    for number in range(count):
        name, offset, length = section(number)
        if cubin[names + name : names + name + len(wanted)] == wanted:
            return _parameters_of_notes(cubin[offset : offset + length])
    raise ValueError(f"no notes on {kernel}")


def _parameters_of_notes(notes: bytes) -> list[int]:
    found, at = {}, 0
    while at < len(notes):
        form, attribute, length = struct.unpack_from("<BBH", notes, at)
        if (form, attribute) == (4, 0x17):  # EIATTR_KPARAM_INFO: index, ordinal, offset, flags
            _, ordinal, _, flags = struct.unpack_from("<IHHI", notes, at + 4)
            found[ordinal] = flags >> 18
        at += 4 + (length if form == 4 else 0)
    return [found[ordinal] for ordinal in sorted(found)]


def build(folder: Path) -> str:
    """Compiles the emulated libcuda there, and returns its path."""
    source, path = Path(__file__).with_name("libcuda.c"), folder / "libcuda.so.1"
    soname = "-Wl,-soname,libcuda.so.1"  # by which whoever opens it finds it loaded
    command = ["cc", "-shared", "-fPIC", "-O2", soname, "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return str(path)


class Emulation:
    """The emulated libcuda and what it has recorded."""

    def __init__(self) -> None:
        torch.cuda.is_available()  # PyTorch remembers that there is no GPU, and does not ask again
        folder = tempfile.mkdtemp(prefix="libcuda")
        self.path = build(Path(folder))
        self._library = ctypes.CDLL(self.path, mode=ctypes.RTLD_GLOBAL)
        self._library.recorded_launches.restype = ctypes.POINTER(_Launch)
        self._library.declare.argtypes = [ctypes.c_uint64, ctypes.c_uint32, ctypes.c_char_p]
        self._kernels: dict[int, tuple[str, tuple[int, ...]]] = {}
        import triton

        triton.knobs.nvidia.libcuda_path = folder
        from triton.backends.nvidia.driver import CudaDriver

        driver = CudaDriver()
        driver.get_device_capability = lambda device=0: (9, 0)
        driver.get_current_device = lambda: 0
        driver.get_current_stream = lambda device=0: 0
        driver.set_current_device = lambda device: None
        driver.get_active_torch_device = lambda: torch.device("cpu")
        driver.utils.load_binary = self._declaring(driver.utils.load_binary)
        triton.runtime.driver.set_active(driver)

    def _declaring(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def load_binary(name: str, cubin: bytes, shared: int, device: int) -> Any:
            loaded = load(name, cubin, shared, device)
            sizes = parameters_of_cubin(cubin, name)
            self._kernels[loaded[1]] = name, tuple(sizes)
            self._library.declare(loaded[1], len(sizes), bytes(sizes))
            return loaded

        return load_binary

    @contextmanager
    def recorded(self) -> Iterator[list[Launched]]:
        """Yields a list that holds, at the end, what was launched within it."""
        launched: list[Launched] = []
        self._library.forget()
        self._library.record(1)
        try:
            yield launched
        finally:
            self._library.record(0)
            one = self._library.recorded_launches()
            launched += [self._read(one[q]) for q in range(self._library.count())]

    def _read(self, one: _Launch) -> Launched:
        kernel, sizes = self._kernels[one.function]
        attributes = one.attributes, one.attribute_id, one.attribute_value
        return Launched(
            kernel, one.function, tuple(one.grid), tuple(one.block), one.shared_bytes,
            attributes, one.stream, sizes, tuple(one.values)[: len(sizes)],
            tuple(one.contents)[: len(sizes)],
        )  # fmt: skip


def emulate() -> Emulation:
    """CPU tensors meet the kernels of CUDA tensors, launched from C++, from now on."""
    from mpkernels.ops import backend
    from mpkernels.triton import cross_connect, gate, launch, tuned

    emulation = Emulation()
    torch.ops.mpkernels.emulate_driver(emulation.path)
    card = launch.ASSUMED
    launch.overlaps = cross_connect.overlaps = gate.overlaps = lambda device: True
    launch.card_of = tuned.card_of = lambda device: card
    backend.triton_interprets = lambda: False
    backend._why_no_triton_on = lambda device: None  # CPU tensors are those of a GPU
    return emulation
