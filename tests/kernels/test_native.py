"""The compiled libraries: every instruction set, threads, and what the CUDA library registers."""

from pathlib import Path

import pytest
import torch

import mpkernels as mpk
from mpkernels.eager.functional import KINDS
from mpkernels.ops import native
from proof.checks import COMBINED, check_combine, check_cross_connect, check_mix
from proof.problems import calls
from proof.problems.cases import CASES

CHOSEN = [
    c
    for c in CASES
    if c.name.startswith(("float", "bfloat", "2_to", "8_to", "hidden", "layout_ch"))
]

FLAGS = {"avx2": "avx2", "avx512": "avx512vl"}  # as the operating system calls them


def sets():
    return native.build_record().get("instruction_sets", [])


@pytest.fixture(params=sets())
def instruction_set(request):
    choose = torch.ops.mpkernels.instruction_set
    try:
        chosen = choose(request.param)
    except RuntimeError:
        pytest.skip(f"this processor has no {request.param}")
    yield chosen
    choose("best")


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_every_instruction_set(case, instruction_set):
    with mpk.use_backend("native"):
        assert torch.ops.mpkernels.instruction_set("") == instruction_set
        for kind in KINDS:
            check_cross_connect(case, kind)
        check_mix(case, by_channel=True)
        check_mix(case, by_channel=False)
        for kind in COMBINED:
            check_combine(case, kind)


def test_the_widest_instruction_set_is_in_use():
    used = torch.ops.mpkernels.instruction_set("")
    flags = Path("/proc/cpuinfo").read_text().split()
    *_, widest = (name for name in sets() if name not in FLAGS or FLAGS[name] in flags)
    assert used == torch.ops.mpkernels.instruction_set("best") == widest
    with pytest.raises(RuntimeError, match="instruction set mmx was not compiled"):
        torch.ops.mpkernels.instruction_set("mmx")


@pytest.mark.skipif(native.why_no_cuda is not None, reason=f"{native.why_no_cuda}")
@pytest.mark.parametrize("name", ["cross_connect_cuda", "cross_connect_backward_cuda"])
def test_the_cuda_library_registers_its_operators(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mpkernels::{name}", "CUDA")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds less than two GPUs")
def test_cuda_launches_on_the_device_of_the_maps():
    """Kernels run on the maps' device, whichever device is current."""
    sizes = ((2, 5, 7, 7),) * 2 + ((2, 16, 5), (2, 16), (2, 2, 16), (2, 2))
    *xs, w1, b1, w2, b2 = (torch.randn(size, device="cuda:1") for size in sizes)
    results = []
    for current in (1, 0):
        with torch.cuda.device(current), mpk.use_backend("native"):
            ys, gates = mpk.functional.cross_connect(xs, w1, b1, w2, b2)
            results.append([*ys, gates])
            assert torch.cuda.current_device() == current
    assert all(map(torch.equal, *results))


def gradients_of(xs, parameters, grads, wanted=None):
    """All outputs and the wanted gradients of cross_connect, by its operators."""
    operators = torch.ops.mpkernels
    with torch.no_grad():
        *ys, gates, pooled = operators.cross_connect(xs, parameters, 0)
        wanted = wanted or [True] * (len(xs) + 4)
        gradients = calls.call_backward(
            "cross_connect", [*grads, None], [gates, pooled], xs, (parameters, 0), wanted
        )
    return [*ys, gates, pooled, *gradients[0], *gradients[1]]


def problem_of(shape, m, n, channels_last, dtype=torch.float32):
    batch, channels, *_ = shape
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    xs, grads = (
        [torch.randn(shape).to(dtype).contiguous(memory_format=memory_format) for _ in range(count)]
        for count in (m, n)
    )
    sizes = ((m, 16, channels), (m, 16), (m, n, 16), (m, n))
    return xs, [torch.randn(s) / 4 for s in sizes], grads


def combined_gradients_of(us, parameters, grads, wanted=None):
    """All outputs and the wanted gradients of combine, by its operators."""
    operators = torch.ops.mpkernels
    with torch.no_grad():
        rest = calls.packed("combine", parameters)
        ys = operators.combine(us, *rest)
        wanted = wanted or [True] * (len(us) + 4)
        gradients = calls.call_backward("combine", grads, [], us, rest, wanted)
    return [*ys, *gradients[0], *gradients[1]]


def predictions_of(shape, m, n, channels_last, dtype=torch.float32):
    batch, channels, *rest = shape
    us, _, _ = problem_of((batch, n * channels, *rest), m, n, channels_last, dtype)
    _, _, grads = problem_of(shape, m, n, channels_last, dtype)
    sizes = ((batch, m, n), (m, n * channels), (n, channels), (n, channels))
    return us, [torch.randn(s) for s in sizes], grads


OPERATORS = {
    "cross_connect": (problem_of, gradients_of),
    "combine": (predictions_of, combined_gradients_of),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (1, 3), (5, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_that_share_a_sample_change_no_bit(batch, m, n, channels_last, operator):
    """Samples are large enough to be split into parts; no part or vector divides their sizes."""
    make, gradients = OPERATORS[operator]
    xs, parameters, grads = make((batch, 67, 33, 31), m, n, channels_last)
    grads[-1] = None if n > 2 else grads[-1]
    wanted = [i != 1 for i in range(m)] + [True] * 4
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gradients(xs, parameters, grads, wanted)
        torch.set_num_threads(3)
        shared = gradients(xs, parameters, grads, wanted)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_outputs_that_go_around_the_cache_have_the_same_bits(operator, channels_last, dtype):
    """Outputs larger than any last-level cache bypass it; those of one sample do not."""
    make, gradients = OPERATORS[operator]
    size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    cache = int(size.read_text()[:-2]) << 10 if size.exists() else 1 << 24
    shape = (64, 192, 192)  # rows of whole lines in either format
    batch = cache // (2 * 64 * 192 * 192 * dtype.itemsize) + 1
    xs, parameters, grads = make((batch, *shape), 2, 2, channels_last, dtype)
    per_sample = 5 if operator == "combine" else 6
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # threads that share samples do not stream
        whole = gradients(xs, parameters, grads)[:per_sample]
        for b in (0, batch - 1):
            gates = [parameters[0][b : b + 1]] if operator == "combine" else parameters[:1]
            part = gates + parameters[1:]
            alone = gradients([x[b : b + 1] for x in xs], part, [g[b : b + 1] for g in grads])
            assert all(torch.equal(t[b : b + 1], o) for t, o in zip(whole, alone))
    finally:
        torch.set_num_threads(threads)
