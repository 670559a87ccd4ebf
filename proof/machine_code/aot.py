"""Compiles a Triton kernel for a GPU that is not there, and reads what came out."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}
# An instruction, behind its address and a predicate.
_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_GCN = re.compile(r"^\s+((?:[sv]|ds|global|buffer|flat|scratch)_\w+)", re.MULTILINE)


class Compiled(NamedTuple):
    """Counts of the machine code, without its NOPs, and what it took to compile."""

    instructions: int
    barriers: int
    shared_stores: int
    spilled_bytes: int  # stack of a thread, and local loads and stores
    registers: int
    shared: int  # bytes a block
    wide_loads: int  # 16 bytes
    wide_stores: int
    atomics: int
    cpu_seconds: float  # of this process and of ptxas


def _describe(value, specialize=True):
    """Triton's type of an argument, and the attributes that a launch would find."""
    aligned = [["tt.divisibility", 16]] if specialize else []
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype], aligned if value.data_ptr() % 16 == 0 else []
    return ("i64" if value >= 2**31 else "i32"), aligned if value % 16 == 0 else []


def source(kernel, arguments: tuple, constants: dict) -> ASTSource:
    """The specialisation that a launch with these arguments would compile."""
    signature, constexprs, attributes = {}, {}, {}
    for at, (name, value) in enumerate(zip(kernel.arg_names, arguments)):
        special = not kernel.params[at].do_not_specialize
        one = special and type(value) is int and value == 1
        if value is None or kernel.params[at].is_constexpr or one:
            signature[name], constexprs[(at,)] = "constexpr", value
        elif isinstance(value, tuple):
            types = []
            for inner, element in enumerate(value):
                kind, found = _describe(element)
                if isinstance(element, int) and element == 1:
                    kind, constexprs[(at, inner)] = "constexpr", 1
                types.append(kind)
                if found:
                    attributes[(at, inner)] = found
            signature[name] = tuple(types)
        else:
            signature[name], found = _describe(value, special)
            if found:
                attributes[(at,)] = found
    for name, value in constants.items():
        signature[name] = "constexpr"
        constexprs[(kernel.arg_names.index(name),)] = value
    return ASTSource(kernel, signature, constexprs, attributes)


def _count(mnemonics: Counter[str], pattern: str) -> int:
    """How many instructions begin like this."""
    return sum(count for name, count in mnemonics.items() if re.match(pattern, name))


def read_cubin(cubin: bytes, shared: int, cpu_seconds: float) -> Compiled:
    """Counts the machine code of a kernel for NVIDIA's cards."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def run(*command):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = run(tools / "cuobjdump", "-res-usage", file.name)
        code = Counter(_SASS.findall(run(tools / "nvdisasm", "-c", "-ndf", file.name)))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found and code, usage
    return Compiled(
        instructions=code.total() - code["NOP"],
        barriers=_count(code, r"BAR\.SYNC\b"),
        shared_stores=_count(code, r"STSM?\b"),
        spilled_bytes=int(found[2]) + _count(code, r"(LDL|STL)\b"),
        registers=int(found[1]),
        shared=shared,
        wide_loads=_count(code, r"LDG\.[A-Z0-9.]*128"),
        wide_stores=_count(code, r"STG\.[A-Z0-9.]*128"),
        atomics=_count(code, r"(RED|ATOM|ATOMG)\b"),
        cpu_seconds=cpu_seconds,
    )


def _amd(text: str, shared: int, cpu_seconds: float) -> Compiled:
    def number(name):
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found, name
        return int(found[1])

    code = Counter(_GCN.findall(text))
    assert code
    return Compiled(
        instructions=code.total() - code["s_nop"],
        barriers=_count(code, r"s_barrier"),
        shared_stores=_count(code, r"ds_(write|store)"),
        spilled_bytes=number("vgpr_spill_count") + number("private_segment_fixed_size"),
        registers=number("vgpr_count"),
        shared=shared,
        wide_loads=_count(code, r"(global|buffer)_load_dwordx4"),
        wide_stores=_count(code, r"(global|buffer)_store_dwordx4"),
        atomics=_count(code, r"(global|buffer)_atomic"),
        cpu_seconds=cpu_seconds,
    )


def _cpu_seconds() -> float:
    """Of this process and of the children it waited for."""
    return sum(os.times()[:4])


def compile_for(target: str, kernel, arguments: tuple, constants: dict, options: dict) -> Compiled:
    """Compiles the kernel as a launch with these arguments would, for the target.

    It neither takes from Triton's cache nor leaves anything there: the time is that of a
    compilation, and a kernel that a test broke is not found by a launch.
    """
    gpu = TARGETS[target]
    if gpu.backend == "hip":  # which has no limit of registers to set
        options = {name: value for name, value in options.items() if name != "maxnreg"}
    made = source(kernel, arguments, constants)
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        before = _cpu_seconds()
        compiled = triton.compile(made, target=gpu, options=options)
        cpu_seconds = _cpu_seconds() - before
        shared = compiled.metadata.shared
        if gpu.backend == "cuda":
            return read_cubin(compiled.asm["cubin"], shared, cpu_seconds)
        return _amd(compiled.asm["amdgcn"], shared, cpu_seconds)
