"""Compiles a Triton kernel for a GPU that this machine lacks, and counts its instructions."""

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

from proof.machine_code.order import read_order

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
# An instruction, after its address and an optional predicate.
_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_GCN = re.compile(r"^\s+((?:[sv]|ds|global|buffer|flat|scratch)_\w+)", re.MULTILINE)


class Compiled(NamedTuple):
    """Counts from the machine code, without its NOPs, and the time it took to compile."""

    instructions: int
    barriers: int
    shared_stores: int
    spilled_bytes: int  # stack per thread, plus the number of local loads and stores
    registers: int
    shared: int  # bytes per block
    wide_loads: int  # of 16 bytes
    wide_stores: int
    atomics: int
    early_wide_loads: int  # before threads first exchange something; 0 on AMD
    trips: int  # to memory, one after the other; 0 on AMD
    cpu_seconds: float  # of this process and of ptxas


def _describe(value, specialize=True):
    """Triton's type of an argument, and the attributes that a launch would give it."""
    divisible = [["tt.divisibility", 16]] if specialize else []
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype], divisible if value.data_ptr() % 16 == 0 else []
    return ("i64" if value >= 2**31 else "i32"), divisible if value % 16 == 0 else []


def source(kernel, arguments: tuple, constants: dict) -> ASTSource:
    """The specialisation that a launch with these arguments would compile."""
    signature, constexprs, attributes = {}, {}, {}
    for index, (name, value) in enumerate(zip(kernel.arg_names, arguments)):
        special = not kernel.params[index].do_not_specialize
        one = special and type(value) is int and value == 1
        if value is None or kernel.params[index].is_constexpr or one:
            signature[name], constexprs[(index,)] = "constexpr", value
        elif isinstance(value, tuple):
            types = []
            for inner, element in enumerate(value):
                element = getattr(element, "value", element)  # of a tl.constexpr
                if element is None or isinstance(element, int) and element in (0, 1):
                    types.append("constexpr")
                    constexprs[(index, inner)] = element
                    continue
                kind, attribute = _describe(element)
                types.append(kind)
                if attribute:
                    attributes[(index, inner)] = attribute
            named = hasattr(value, "_fields")
            signature[name] = type(value)(*types) if named else tuple(types)
        else:
            signature[name], attribute = _describe(value, special)
            if attribute:
                attributes[(index,)] = attribute
    for name, value in constants.items():
        signature[name] = "constexpr"
        constexprs[(kernel.arg_names.index(name),)] = value
    return ASTSource(kernel, signature, constexprs, attributes)


def _count(mnemonics: Counter[str], pattern: str) -> int:
    """How many instructions begin with the pattern."""
    return sum(count for name, count in mnemonics.items() if re.match(pattern, name))


def read_cubin(cubin: bytes, shared: int, cpu_seconds: float) -> Compiled:
    """Counts the instructions of a kernel for an NVIDIA GPU."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def run(*command):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = run(tools / "cuobjdump", "-res-usage", file.name)
        sass = run(tools / "nvdisasm", "-c", "-ndf", file.name)
    code = Counter(_SASS.findall(sass))
    usage_match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert usage_match and code, usage
    return Compiled(
        instructions=code.total() - code["NOP"],
        barriers=_count(code, r"BAR\.SYNC\b"),
        shared_stores=_count(code, r"STSM?\b"),
        spilled_bytes=int(usage_match[2]) + _count(code, r"(LDL|STL)\b"),
        registers=int(usage_match[1]),
        shared=shared,
        wide_loads=_count(code, r"LDG\.[A-Z0-9.]*128"),
        wide_stores=_count(code, r"STG\.[A-Z0-9.]*128"),
        atomics=_count(code, r"(RED|ATOM|ATOMG)\b"),
        cpu_seconds=cpu_seconds,
        **read_order(sass)._asdict(),
    )


def _read_amdgcn(text: str, shared: int, cpu_seconds: float) -> Compiled:
    """Counts the instructions of a kernel for an AMD GPU, from its assembly."""

    def number(name):
        match = re.search(rf"\.{name}:\s+(\d+)", text)
        assert match, name
        return int(match[1])

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
        early_wide_loads=0,
        trips=0,
        cpu_seconds=cpu_seconds,
    )


def _cpu_seconds() -> float:
    """CPU time of this process and of the children it waited for."""
    return sum(os.times()[:4])


def compile_for(target: str, kernel, arguments: tuple, constants: dict, options: dict) -> Compiled:
    """Compiles the kernel for the target, as a launch with these arguments would.

    Triton's cache is neither read nor written, so the time is that of a full compilation, and no
    later launch can pick up a kernel that a test broke on purpose.
    """
    gpu = TARGETS[target]
    if gpu.backend == "hip":  # Triton sets no register limit there
        options = {name: value for name, value in options.items() if name != "maxnreg"}
    specialisation = source(kernel, arguments, constants)
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        before = _cpu_seconds()
        compiled = triton.compile(specialisation, target=gpu, options=options)
        cpu_seconds = _cpu_seconds() - before
        shared = compiled.metadata.shared
        if gpu.backend == "cuda":
            return read_cubin(compiled.asm["cubin"], shared, cpu_seconds)
        return _read_amdgcn(compiled.asm["amdgcn"], shared, cpu_seconds)
