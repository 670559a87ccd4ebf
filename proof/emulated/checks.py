"""What must be true of launches from C++, one function each; they raise where it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.ops.layout import Geometry
from mpkernels.ops.mix import mix as MIX
from mpkernels.ops.schema import KINDS
from mpkernels.triton import cross_connect, mix, plan
from mpkernels.triton.launch import Walk, chunks_of
from mpkernels.triton.launching import forget_plans
from proof.emulated.comparison import calls_of, compare
from proof.emulated.driver import Emulation
from proof.problems import calls
from proof.problems.cases import CASES, Case, for_the_interpreter
from proof.problems.networks import NETWORKS

OPERATORS = torch.ops.mpkernels
Check = Callable[[Emulation], None]


def step_of(name: str, case: Case) -> Callable[[], None]:
    """One forward and backward of an operator."""
    torch.manual_seed(0)
    paths, rest = calls.arguments(name, case)
    leaves = [t for t in (*paths, *rest) if t is not None and t.requires_grad]

    def step() -> None:
        ys = [y for y in calls.call(name, functional, paths, rest) if y.requires_grad]
        if ys:
            grads = [torch.randn_like(y) for y in ys]
            torch.autograd.grad(ys, leaves, grads, allow_unused=True)

    return step


def equal_launches(emulation: Emulation, names: Any = calls.NAMES, cases: Any = CASES) -> int:
    """Compares every call of these operators and cases; returns how many launches were equal."""
    return sum(
        compare(emulation, operator, arguments)
        for name in names
        for case in cases
        for operator, arguments in calls_of(step_of(name, case))
    )


# As many kinds of geometry, dtype and absence as a default test can afford to compile.
_FEW = [
    case
    for case in for_the_interpreter(CASES)
    if case.name
    in (
        "2_to_3", "5_to_2", "bfloat16_channels_last", "float64_vector", "layout_mixed",
        "layout_channel_slice", "layout_expanded_space", "gradient_first_unused", "no_bias",
        "x0_frozen", "parameters_frozen", "wide_parameters", "float32_large_sample",
    )
]  # fmt: skip


def equal(emulation: Emulation, name: str, cases: Any = _FEW) -> None:
    """Of one operator."""
    assert equal_launches(emulation, [name], cases) > 1.5 * len(cases)


def equal_walks(emulation: Emulation) -> None:
    """Samples that are walked, in one launch and in several groups, and a batch of many parts."""
    case = Case("walked", "", batch=5, channels=33, spatial=(16, 17))
    chunks = chunks_of(Geometry(False, 5, 33, 16 * 17), 16, 4, 2, 3)
    for method in ("streamed", "split"):
        with cross_connect.forced(Walk(method, 2, chunks)):
            assert equal_launches(emulation, ["cross_connect"], [case]) > 2
    many = Case("many", "", batch=300, spatial=())
    assert equal_launches(emulation, ["cross_connect", "combine", "mix"], [many]) > 6


def _paths(batch: int = 2, channels: int = 16, size: int = 8) -> list[Tensor]:
    return [torch.randn(batch, channels, size, size) for _ in range(2)]


def _forward(xs: list[Tensor], gates: Tensor) -> list[Tensor]:
    return OPERATORS.mix(xs, gates)  # type: ignore[no-any-return]


def new_batches(emulation: Emulation) -> None:
    """A new batch size takes a plan, but no compilation; a known one takes neither."""
    forget_plans()
    compiled = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **named: compiled.append(named)
    for batch in (32, 48, 64, 96):
        for _ in range(3):
            _forward(_paths(batch), torch.rand(batch, 2, 2))
    triton.knobs.runtime.jit_post_compile_hook = None
    assert len(compiled) <= 1, len(compiled)
    assert OPERATORS.forget_plans() == 4


def bounded(emulation: Emulation) -> None:
    """Under many shapes the table forgets."""
    forget_plans()
    for batch in range(2, 2 + 3000):
        _forward([torch.empty(batch, 4)], torch.empty(batch, 1, 1))
    assert 0 < OPERATORS.forget_plans() <= 1024


def first_calls(emulation: Emulation) -> None:
    """Threads that all meet a kernel which takes its time to be loaded."""
    utils, wrong = triton.runtime.driver.active.utils, []
    load = utils.load_binary

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return load(*arguments)

    def work() -> None:
        try:
            _forward([torch.randn(2, 40)], torch.rand(2, 1, 7))
        except RuntimeError as error:
            wrong.append(str(error))

    utils.load_binary = slowly
    try:
        with emulation.recorded() as launched:
            _in_threads([work] * 4)
    finally:
        utils.load_binary = load
    assert not wrong, wrong
    assert len(launched) == 4


def _in_threads(works: Sequence[Callable[[], None]]) -> None:
    workers = [threading.Thread(target=work) for work in works]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def interrupted(emulation: Emulation) -> None:
    """Ctrl-C while Triton compiles is Ctrl-C to the caller, forward and backward."""

    def interrupt(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    x, gates = torch.randn(2, 48, requires_grad=True), torch.rand(2, 1, 9)
    ys = functional.mix([x], gates)
    forward = partial(functional.mix, [x[:, :40]], torch.rand(2, 1, 10))
    for call in (forward, partial(torch.autograd.grad, ys, x, [torch.ones_like(y) for y in ys])):
        triton.knobs.runtime.jit_cache_hook = interrupt
        try:
            call()
        except KeyboardInterrupt:
            continue
        finally:
            triton.knobs.runtime.jit_cache_hook = None
        raise AssertionError("nothing was raised")


def threads(emulation: Emulation) -> None:
    """Many threads call, some while others forget: every call launches once, with its own data."""
    forget_plans()
    problems = [(_paths(b), torch.rand(b, 2, 2)) for b in (2, 3, 4, 5)]
    rounds, wrong = 50, []

    def work(which: int) -> None:
        xs, gates = problems[which]
        for at in range(rounds):
            ys = _forward(xs, gates)
            if [y.shape for y in ys] != [x.shape for x in xs]:
                wrong.append(which)
            if at % 10 == which:
                forget_plans()

    with emulation.recorded() as launched:
        _in_threads([partial(work, q) for q in range(len(problems))])
    assert not wrong
    firsts = {xs[0].data_ptr(): len(xs[0]) for xs, _ in problems}
    found = [firsts[one.values[0]] for one in launched]
    assert sorted(found) == sorted(rounds * [*firsts.values()])


def alignment(emulation: Emulation) -> None:
    """A map that does not start at 16 bytes has a kernel of its own."""
    gates = torch.rand(2, 1, 1)
    for shift in (0, 1):
        x = torch.randn(2 * 16 * 64 + 4)[shift : shift + 2 * 16 * 64].view(2, 16, 8, 8)
        compare(emulation, "mix", ([x], gates))
    assert len({one.function for one in _of_shifts(emulation, gates)}) == 2


def _of_shifts(emulation: Emulation, gates: Tensor) -> list[Any]:
    with emulation.recorded() as launched:
        for shift in (0, 1):
            x = torch.randn(2 * 16 * 64 + 4)[shift : shift + 2 * 16 * 64].view(2, 16, 8, 8)
            _forward([x], gates)
    return launched


def same_map_twice(emulation: Emulation) -> None:
    """A plan made for one map given twice does not mistake two maps for one."""
    forget_plans()
    x, y = _paths()
    gates = torch.rand(2, 2, 2)
    _forward([x, x], gates)
    compare(emulation, "mix", ([x, y], gates))
    _forward([x, y], gates)
    compare(emulation, "mix", ([y, y], gates))


def _message(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError, TypeError) as error:
        return str(error)
    raise AssertionError("nothing was raised")


def refusals(emulation: Emulation) -> None:
    """Bad arguments never reach a kernel, and are named as where Python checks."""
    xs, gates = _paths(), torch.rand(2, 2, 2)
    with emulation.recorded() as launched:
        for call, said in (
            (lambda: OPERATORS.mix(xs, gates[:1]), "gates must be [B, m, n] = [2, 2, 2]"),
            (lambda: functional.mix(xs, gates[:1]), "gates must be [B, m, n] = [2, 2, 2]"),
            (lambda: OPERATORS.mix([xs[0], xs[1][:, :3]], gates), "xs[1]"),
            (lambda: OPERATORS.mix_backward([xs[0]], [], xs, gates, 7), "grads must be"),
            (lambda: mpk.CrossConnect(16, 2, 2)([xs[0], xs[1].double()]), "xs[1]"),
        ):
            assert said in (message := _message(call)), message
    assert launched == []


def forced(emulation: Emulation) -> None:
    """A forced backend is served as it is for CUDA tensors that Python launches."""
    xs, gates = _paths(), torch.rand(2, 2, 2)
    with emulation.recorded() as launched, mpk.use_backend("eager"):
        ys = _forward(xs, gates)
    assert launched == []
    torch.testing.assert_close(ys, [*eager.mix(xs, gates)])


class _On:
    """In the place of torch.cuda.device."""

    current = 0

    def __init__(self, device: torch.device) -> None:
        self._index, self._before = device.index, 0

    def __enter__(self) -> None:
        self._before, _On.current = _On.current, self._index

    def __exit__(self, *error: object) -> None:
        _On.current = self._before


def two_devices(emulation: Emulation) -> None:
    """A plan is made on the device of its tensors, where its kernel is loaded, and for it alone."""
    driver, device, captures = triton.runtime.driver.active, torch.cuda.device, plan.captures
    vector, gates = (4, 24, 24, 1), (4, 1, 2, 2, 2, 1)  # sizes, then strides
    plans = []
    try:
        driver.get_current_device, torch.cuda.device = lambda: _On.current, _On
        plan.captures = lambda x: False
        for index in (0, 1):
            head = [6, 1, index, 1]  # float32, CUDA, which, aligned
            call = [1, *head, 2, *vector, *head, 3, *gates]
            plans.append(plan.plan(KINDS["mix"], call, MIX.check, mix.mix))
    finally:
        driver.get_current_device, torch.cuda.device = lambda: 0, device
        plan.captures = captures
    different = [pair for pair in zip(*plans) if pair[0] != pair[1]]
    assert len(plans[0]) == len(plans[1]) and len(different) == 1, different
    assert _On.current == 0


def memory(emulation: Emulation) -> None:
    """Where it is short, users see what they catch, whichever of the outputs has none."""
    large = torch.ones(1, 1).expand(1 << 20, 1 << 22)
    for outputs in (1, 2):
        gates = torch.ones(1, 1, outputs).expand(1 << 20, 1, outputs)
        try:
            functional.mix([large], gates)
        except torch.OutOfMemoryError as error:
            assert "CUDA out of memory. Tried to allocate" in str(error)
        else:
            raise AssertionError("nothing was raised")


def capture(emulation: Emulation) -> None:
    """While a graph is captured, known kernels are launched, and one to be loaded is named."""
    captures, call = plan.captures, partial(_forward, [torch.randn(2, 24)], torch.rand(2, 1, 3))
    call()
    try:
        plan.captures = lambda x: True
        with emulation.recorded() as launched:
            call()
            _forward([torch.randn(4, 24)], torch.rand(4, 1, 3))  # another batch
        assert len(launched) == 2
        said = _message(partial(_forward, [torch.randn(2, 24)], torch.rand(2, 1, 5)))
        assert "_mix_kernel has to be loaded" in said, said
    finally:
        plan.captures = captures


CHECKS: dict[str, Check] = {
    **{f"equal {name}": partial(equal, name=name) for name in calls.NAMES},
    **{
        check.__name__.replace("_", " "): check
        for check in (
            equal_walks, new_batches, bounded, threads, alignment, same_map_twice, refusals, forced,
            two_devices, memory, capture, first_calls, interrupted,
        )
    },
}  # fmt: skip


def _of_networks(emulation: Emulation) -> None:
    """The routers of the paper's networks, in both formats and both dtypes that they train in."""
    for routers in NETWORKS.values():
        for _, channels, spatial, inputs, outputs in routers:
            for dtype in (torch.float32, torch.bfloat16):
                for layout in ("nchw", "channels_last")[: 2 if spatial else 1]:
                    case = Case("router", "", 32, channels, spatial, inputs, outputs, dtype=dtype,
                                layout=layout)  # fmt: skip
                    assert equal_launches(emulation, ["cross_connect"], [case]) >= 2


SLOW_CHECKS: dict[str, Check] = {
    **{
        f"every case of {name}": partial(equal, name=name, cases=for_the_interpreter(CASES))
        for name in calls.NAMES
    },
    "routers of networks": _of_networks,
}
