"""Triton without a GPU: the interpreter over the whole table, launches, rules, compiled code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import INTERPRETED

from mpkernels.ops.layout import Geometry
from mpkernels.triton.launch import Launch, cross_connect_launch

pytest.importorskip("triton", reason="triton is not installed")
HERE = Path(__file__).parent


@pytest.mark.skipif(INTERPRETED, reason="this is the process that the test starts")
@pytest.mark.parametrize("file", ["test_operators.py", "test_semantics.py"])
def test_in_the_interpreter(file):
    """Interpreter and compiler exclude each other in one process, so this starts another."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=HERE.parent,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and " failed" not in run.stdout


# Routers of basecnn_2_cc at batch 128: channels, spatial, inputs, outputs.
ROUTERS = {
    "image": (3, (32, 32), 1, 2),
    "pool_1": (32, (16, 16), 2, 2),
    "pool_2": (64, (8, 8), 2, 2),
    "conv_6": (128, (8, 8), 2, 2),
    "dense_1": (32, (), 2, 2),
}


def launches(name, dtype=torch.float32, channels_last=False, frozen=False):
    from recorder import recorded_launches

    from mpkernels.triton.cross_connect import cross_connect, cross_connect_backward

    channels, spatial, m, n = ROUTERS[name]
    xs = [torch.zeros(128, channels, *spatial).to(dtype) for _ in range(m)]
    if channels_last:
        xs = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in xs]
    parameters = [torch.zeros(*s) for s in ((m, 16, channels), (m, 16), (m, n, 16), (m, n))]
    with recorded_launches() as forward:
        ys, gates, pooled = cross_connect(xs, *parameters)
    wanted = [True] * m + [not frozen] * 4
    with recorded_launches() as backward:
        cross_connect_backward(ys, gates, xs, gates, pooled, *parameters, wanted)
    return forward, backward


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_launches(name, channels_last):
    forward, backward = launches(name, channels_last=channels_last)
    assert (len(forward), len(backward)) == (1, 2)
    assert {x.grid for x in (*forward, backward[0])} == {(128,)}
    assert len(launches(name, channels_last=channels_last, frozen=True)[1]) == 1


def test_launch_rule():
    def rule(channels, positions, kept, hidden=16, last=False):
        return cross_connect_launch(Geometry(last, 8, channels, positions), kept, hidden)

    assert rule(64, 64, 2) == Launch("resident", 64, 64, 64, 4)
    assert rule(128, 64, 2) == Launch("resident", 128, 64, 128, 8)
    assert rule(16, 1024, 2) == Launch("resident", 16, 1024, 16, 8)
    assert rule(16, 1024, 2, last=True) == Launch("resident", 1024, 16, 16, 8)
    assert rule(16, 1024, 4).method == "streamed"  # 65,536 kept elements
    assert rule(64, 3136, 1).method == "streamed"
    assert rule(1024, 1, 2).method == "streamed"  # w1 alone would fill the block
    assert rule(13, 35, 3) == Launch("resident", 16, 64, 16, 4)
    for launch in (
        rule(64, 3136, 2),
        rule(2048, 49, 2),
        rule(2048, 49, 2, last=True),
        rule(3, 1, 9),
    ):
        assert launch.block_rows * launch.block_cols <= 32768
        assert all(size & (size - 1) == 0 for size in launch[1:4])


@pytest.mark.skipif(INTERPRETED, reason="the compiler runs in the other process")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", ["pool_2", "dense_1"])
def test_compiles_ahead_of_time(name, target, dtype):
    """No GPU is needed to see that the maps are read 16 bytes at a time and nothing spills."""
    from aot import compile_for

    forward, backward = launches(name, dtype)
    for launch in (*forward, *backward):
        code = compile_for(
            target, launch.kernel, launch.arguments, launch.constants, launch.num_warps
        )
        name_of = f"{launch.kernel.__name__} {code}"
        assert code.atomics == 0, name_of
        if name == "pool_2":
            assert code.spilled_bytes == 0, name_of
            if "resident" in launch.kernel.__name__:
                assert code.wide_loads > 0 and code.wide_stores > 0, name_of


@pytest.mark.skipif(INTERPRETED, reason="the compiler runs in the other process")
def test_every_other_kernel_compiles():
    from aot import compile_for
    from recorder import recorded_launches

    from mpkernels.triton import cross_connect, gate, mix

    xs = [torch.zeros(4, 64, 56, 56) for _ in range(2)]
    parameters = [torch.zeros(*s) for s in ((2, 16, 64), (2, 16), (2, 2, 16), (2, 2))]
    grads = [None, torch.zeros(4, 64, 56, 56)]
    with recorded_launches() as recorded:
        ys, gates, pooled = cross_connect.cross_connect(xs, *parameters)
        cross_connect.cross_connect_backward(
            grads, None, xs, gates, pooled, *parameters, [True, False, True, True, True, False]
        )
        gate.gate(xs, *parameters)
        gate.gate_backward(gates, gates, pooled, *parameters, [True] * 4)
        for shape in ((4, 2, 2), (4, 2, 2, 64)):
            mix.mix(xs, torch.zeros(shape))
            mix.mix_backward(grads, xs, torch.zeros(shape), [True, True, True])
    names = {launch.kernel.__name__ for launch in recorded}
    assert len(names) == 7 and len(recorded) == 12
    for launch in recorded:
        code = compile_for(
            "sm_90", launch.kernel, launch.arguments, launch.constants, launch.num_warps
        )
        assert code.atomics == 0
