"""A GPU that is not there: torch.cuda faked on the CPU, and a Triton driver that only compiles.

Device "cuda" becomes "cpu", events are wall clocks, a graph replays nothing. Triton specialises and
compiles every launch for sm_90, ptxas included, and launches nothing; CUDA C++ returns empty
tensors. So results mean nothing, and every line around them runs.
"""

from __future__ import annotations

import contextlib
import time

import torch
from torch.overrides import TorchFunctionMode

from mpkernels.ops.chip import ASSUMED as CHIP
from mpkernels.ops.flags import flags_of
from mpkernels.ops.schema import SCHEMAS
from mpkernels.triton.launch import ASSUMED as CARD
from proof.machine_code.aot import read_cubin
from proof.machine_code.ceilings import ANY, allowed_to


def _on_cpu(value):
    if isinstance(value, str) and value.startswith("cuda"):
        return "cpu"
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return value


class _ToCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = {name: _on_cpu(value) for name, value in (kwargs or {}).items()}
        return function(*map(_on_cpu, args), **kwargs)


class _Card:
    name, major, minor = "a card that is not there", 9, 0
    multi_processor_count, L2_cache_size, total_memory = *CARD[:2], 80 * 10**9
    shared_memory_per_block_optin, shared_memory_per_multiprocessor = CHIP[:2]


class _Event:
    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at) + 1e-3


class _Stream:
    def wait_stream(self, stream):
        pass


class _Graph:
    def replay(self):
        time.sleep(1e-4)


@contextlib.contextmanager
def _nothing(*arguments, **named):
    yield


def fake_torch_cuda() -> None:
    """For the rest of this process."""
    _ToCpu().__enter__()
    fakes = {
        "is_available": lambda: True, "set_stream": lambda stream: None,
        "get_device_name": lambda device=None: _Card.name,
        "get_device_properties": lambda device=None: _Card(),
        "current_device": lambda: 0, "current_stream": lambda device=None: _Stream(),
        "Event": _Event, "Stream": _Stream, "CUDAGraph": _Graph, "graph": _nothing,
        "synchronize": lambda device=None: None,
        "graph_pool_handle": object, "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0, "max_memory_allocated": lambda device=None: 1,
        "reset_peak_memory_stats": lambda device=None: None, "device": _nothing,
    }  # fmt: skip
    for name, fake in fakes.items():
        setattr(torch.cuda, name, fake)


class Refused(AssertionError):
    """A kernel whose machine code exceeds what a kernel of this package may have."""


MOST = {"spilled_bytes": 0, "shared_stores": 200}


def inspect(name: str, cubin: bytes) -> None:
    """Refuses spills, and tiles that move through shared memory, unless `ceilings` allows them."""
    code = read_cubin(cubin, 0, 0.0)
    allowed = {each.column: each.most for each in allowed_to(name, ANY, "sm_90")}
    for column, most in MOST.items():
        if (found := getattr(code, column)) > max(most, allowed.get(column, 0)):
            raise Refused(f"{name}: {found} {column}")


class _Utils:
    def get_device_properties(self, device):
        return {
            "max_shared_mem": CHIP.block_bytes, "multiprocessor_count": CARD.multiprocessors,
            "warpSize": 32, "max_num_regs": 65536, "mem_bus_width": 5120,
            "sm_clock_rate": 1980000, "mem_clock_rate": 2619000,
        }  # fmt: skip

    def load_binary(self, name, kernel, shared, device):
        inspect(name, kernel)
        return 1, 2, 100, 0, 1024


class _Launcher:
    def __init__(self, source, metadata):
        pass

    def __call__(self, *arguments):
        pass


class _Driver:
    def __init__(self):
        self.utils, self.launcher_cls = _Utils(), _Launcher

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def set_current_device(self, device):
        pass

    def get_device_capability(self, device=0):
        return 9, 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def map_python_to_cpp_type(self, kind):
        return kind

    def get_device_interface(self):
        return torch.cuda

    @staticmethod
    def is_active():
        return True


_library = None  # keeps its kernels


def compile_without_launching() -> None:
    """CPU tensors meet Triton's launchers, as CUDA tensors would on an H100."""
    from triton.runtime.driver import driver

    import mpkernels as mpk
    from mpkernels.ops import backend
    from mpkernels.triton import cross_connect, gate, launch, tuned

    driver.set_active(_Driver())
    backend.triton_interprets = lambda: True
    backend.why_no_interpreter = lambda: None
    mpk.use_backend("triton")
    launch.overlaps = cross_connect.overlaps = gate.overlaps = lambda device: True
    launch.card_of = tuned.card_of = lambda device: CARD._replace(chip=CHIP)

    def forward(xs, gate, kind, cluster):
        (batch, channels), (inputs, outputs) = xs[0].shape[:2], gate[2].shape[:2]
        gates, pooled = torch.zeros(batch, inputs, outputs), torch.zeros(batch, inputs, channels)
        return [*(torch.zeros_like(xs[0]) for _ in range(outputs)), gates, pooled]

    def backward(grads, kept, xs, gate, kind, wanted, cluster):
        tensors = (*xs, *gate)
        flagged = zip(tensors, flags_of(wanted, len(tensors)))
        return [torch.zeros_like(t) for t, w in flagged if w and t is not None]

    global _library
    _library = torch.library.Library("mpkernels", "FRAGMENT")
    for name, kernel in (("cross_connect", forward), ("cross_connect_backward", backward)):
        if not hasattr(torch.ops.mpkernels, f"{name}_cuda"):  # no CUDA library is there
            schema = SCHEMAS[name].replace(name, f"{name}_cuda", 1)
            _library.define(schema.replace(") ->", ", int cluster) ->"))
        _library.impl(f"{name}_cuda", kernel, "CPU")
