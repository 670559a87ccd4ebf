"""Compiles a Triton kernel for a GPU that is not there, and reads what came out."""

from __future__ import annotations

import re
import subprocess
import tempfile
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


class Compiled(NamedTuple):
    registers: int
    spilled_bytes: int  # stack of a thread, and local loads and stores
    shared: int  # bytes a block
    wide_loads: int  # 16 bytes
    wide_stores: int
    atomics: int


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


def _nvidia(cubin: bytes, shared: int) -> Compiled:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def run(*command):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = run(tools / "cuobjdump", "-res-usage", file.name)
        code = run(tools / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage

    def count(pattern):
        return len(re.findall(r"\s" + pattern, code))

    return Compiled(
        int(found[1]),
        int(found[2]) + count(r"(?:LDL|STL)\b"),
        shared,
        count(r"LDG\.[A-Z0-9.]*128"),
        count(r"STG\.[A-Z0-9.]*128"),
        count(r"(?:RED|ATOM|ATOMG)\b"),
    )


def _amd(text: str, shared: int) -> Compiled:
    def number(name):
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        assert found, name
        return int(found[1])

    return Compiled(
        number("vgpr_count"),
        number("vgpr_spill_count") + number("private_segment_fixed_size"),
        shared,
        len(re.findall(r"(?:global|buffer)_load_dwordx4", text)),
        len(re.findall(r"(?:global|buffer)_store_dwordx4", text)),
        len(re.findall(r"(?:global|buffer)_atomic", text)),
    )


def compile_for(target: str, kernel, arguments: tuple, constants: dict, options: dict) -> Compiled:
    """Compiles the kernel as a launch with these arguments would, for the target."""
    gpu = TARGETS[target]
    if gpu.backend == "hip":  # which has no limit of registers to set
        options = {name: value for name, value in options.items() if name != "maxnreg"}
    compiled = triton.compile(source(kernel, arguments, constants), target=gpu, options=options)
    shared = compiled.metadata.shared
    if gpu.backend == "cuda":
        return _nvidia(compiled.asm["cubin"], shared)
    return _amd(compiled.asm["amdgcn"], shared)
