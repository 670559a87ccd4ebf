"""Which backend runs, by process, thread and context; a switch leaves running calls alone."""

import gc
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.ops import native, switch
from mpkernels.ops.cross_connect import cross_connect
from mpkernels.ops.switch import active_backend
from proof.problems.calls import call
from proof.switching import arguments, threads_and_a_switch
from proof.where import INTERPRETED

XS = [torch.randn(2, 4, 3, 5) for _ in range(2)]
needs_library = pytest.mark.skipif(native.why_no_cpu is not None, reason=str(native.why_no_cpu))


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    gc.collect()
    assert active_backend() == "auto" and not switch._forced
    assert len(switch._process) == 1 and not switch._own.entered and not switch._own.waiting


@pytest.fixture
def defined(monkeypatch):
    """The calls of the eager cross_connect, as (direction, thread) pairs."""
    calls = []

    def recorded(direction, place, name):
        definition = getattr(place, name)

        def record(*arguments, **named):
            calls.append((direction, threading.current_thread().name))
            return definition(*arguments, **named)

        monkeypatch.setattr(place, name, record)

    recorded("forward", eager, "cross_connect")
    recorded("backward", cross_connect, "_gradient")
    return calls


def elsewhere(function, *arguments):
    """The result of a call in another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="elsewhere") as pool:
        return pool.submit(function, *arguments).result()


def test_a_plain_call_sets_the_process():
    mpk.use_backend("eager")
    assert active_backend() == elsewhere(active_backend) == "eager"
    elsewhere(mpk.use_backend, "native")
    assert active_backend() == "native"
    mpk.use_backend("auto")
    assert active_backend() == elsewhere(active_backend) == "auto"


def test_a_context_sets_its_thread():
    with mpk.use_backend("eager"):
        assert (active_backend(), elsewhere(active_backend)) == ("eager", "auto")
        with mpk.use_backend("auto"):
            assert active_backend() == "auto"
        assert active_backend() == "eager"
        mpk.use_backend("native")  # the process; this thread stays
        assert (active_backend(), elsewhere(active_backend)) == ("eager", "native")
    assert active_backend() == "native"
    mpk.use_backend("auto")


def test_no_other_thread_sees_a_context_begin():
    """Between the call and `with` the object waits, and only its own thread can enter it."""
    context = mpk.use_backend("triton")
    assert elsewhere(active_backend) == "auto"
    with context:
        assert (active_backend(), elsewhere(active_backend)) == ("triton", "auto")
    assert active_backend() == "auto"


def test_a_call_whose_object_is_kept():
    context = mpk.use_backend("eager")
    assert elsewhere(active_backend) == "auto"
    assert active_backend() == "eager"  # this thread runs on without `with`
    assert elsewhere(active_backend) == "eager"
    with context:  # entering it later gives the process its own backend back
        assert (active_backend(), elsewhere(active_backend)) == ("eager", "auto")
    context, later = mpk.use_backend("eager"), mpk.use_backend("native")
    del later
    assert elsewhere(active_backend) == "native"
    del context  # it is older than the backend in force
    assert active_backend() == elsewhere(active_backend) == "native"
    mpk.use_backend("auto")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1]])
def test_contexts_left_in_any_order(order):
    names = ["eager", "native", "triton"]
    contexts = [mpk.use_backend(name) for name in names]
    for context in contexts:
        context.__enter__()
    exited = set()
    for index in order:
        contexts[index].__exit__(None, None, None)
        exited.add(index)
        remaining = [name for i, name in enumerate(names) if i not in exited]
        assert active_backend() == (remaining[-1] if remaining else "auto")


def test_a_context_within_itself_and_again():
    context = mpk.use_backend("eager")
    for _ in range(2):
        with context, context:
            assert active_backend() == "eager"
        assert active_backend() == "auto"


def test_a_context_left_in_another_thread():
    context = mpk.use_backend("eager")
    context.__enter__()
    elsewhere(context.__exit__, None, None, None)
    assert active_backend() == "auto"


def generator():
    with mpk.use_backend("eager"):
        yield active_backend()
        yield active_backend()


def test_generators_and_exceptions():
    first, second = generator(), generator()
    assert next(first) == next(second) == "eager"
    first.close()
    assert active_backend() == "eager"
    del second
    assert active_backend() == "auto"
    with pytest.raises(KeyError), mpk.use_backend("eager"):
        raise KeyError
    with pytest.raises(ValueError, match="use_backend: name must be one of"):
        mpk.use_backend("fast")


@needs_library
def test_threads_run_their_own(defined):
    router, barrier = mpk.CrossConnect(4, 2, 2), threading.Barrier(2, timeout=60)

    def work(name):
        with mpk.use_backend(name):
            barrier.wait()
            for _ in range(20):
                sum(y.sum() for y in router(XS)).backward()
            barrier.wait()

    def named(name):
        threading.current_thread().name = name
        work(name)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(named, name) for name in ("eager", "native")]:
            done.result()
    assert {thread for _, thread in defined} == {"eager"}
    assert len(defined) == 40


@needs_library
@pytest.mark.parametrize("other_thread", [False, True])
def test_a_backward_runs_the_backend_of_its_forward(other_thread, defined):
    router = mpk.CrossConnect(4, 2, 2)
    with mpk.use_backend("eager"):
        by_definition = sum(y.sum() for y in router(XS))
    by_kernel = sum(y.sum() for y in router(XS))
    defined.clear()
    run = elsewhere if other_thread else lambda call: call()
    run(by_definition.backward)
    assert [direction for direction, _ in defined] == ["backward"]
    defined.clear()
    with mpk.use_backend("eager"):
        run(by_kernel.backward)
        mpk.use_backend("eager")
        sum(y.sum() for y in router(XS)).backward()
    assert [direction for direction, _ in defined] == ["forward", "backward"]
    mpk.use_backend("auto")


@needs_library
def test_second_backwards_too(defined):
    xs = [x.clone().requires_grad_() for x in XS]
    router = mpk.CrossConnect(4, 2, 2)
    with mpk.use_backend("eager"):
        value = sum(y.pow(2).sum() for y in router(xs))
    defined.clear()
    firsts = torch.autograd.grad(value, xs, create_graph=True)
    assert [direction for direction, _ in defined] == ["backward"]
    sum(g.sum() for g in firsts).backward()


@needs_library
@pytest.mark.parametrize("ways", ["functions", "operators", "inference"])
def test_every_way_to_an_operator_asks(ways, defined):
    router = mpk.CrossConnect(4, 2, 2)

    def run():
        if ways == "functions":
            return router(XS)
        with torch.inference_mode(ways == "inference"):
            return torch.ops.mpkernels.cross_connect(XS, list(router.parameters()), 0)

    run()
    assert not defined
    with mpk.use_backend("eager"):
        run()
    assert len(defined) == 1
    run()
    assert len(defined) == 1


@needs_library
@pytest.mark.skipif(INTERPRETED, reason="there it runs")
def test_refusals_and_errors_keep_their_text():
    gates = torch.rand(2, 2, 2)
    refusal = re.escape(
        "mpkernels.mix: use_backend('triton') cannot run on CPU tensors: Triton needs a GPU"
    )
    for mix in (functional.mix, torch.ops.mpkernels.mix):
        with mpk.use_backend("triton"), pytest.raises(RuntimeError, match=f"^{refusal}"):
            mix(XS, gates)
    bad = re.escape("mix: gates must be [B, m, n] = [2, 2, 2], got [2, 1, 2]")
    with mpk.use_backend("eager"):
        with pytest.raises(ValueError, match=bad):
            functional.mix(XS, gates[:, :1])
        with pytest.raises(RuntimeError, match=bad):
            torch.ops.mpkernels.mix(XS, gates[:, :1])


@needs_library
def test_an_error_without_a_text_stays_an_error(monkeypatch):
    def fails(*arguments):
        raise AssertionError

    monkeypatch.setattr(eager, "mix", fails)
    gates = torch.rand(2, 2, 2)
    with mpk.use_backend("eager"):
        with pytest.raises(AssertionError):
            functional.mix(XS, gates)
        with pytest.raises(RuntimeError, match="AssertionError"):
            torch.ops.mpkernels.mix(XS, gates)


@needs_library
@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one kernel at a time")
def test_switching_while_threads_run(one_thread):
    counts = threads_and_a_switch(seconds=4)
    assert len(counts) == 4 and min(counts.values()) > 10


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("learning", [range(8), [0, 3, 4], [1, 2], [7]], ids=str)
def test_the_whole_layer_by_every_backend(learning, relu, backend):
    """Triton has no cross_predict and runs its parts."""
    paths, rest = arguments("cross_predict")
    flat = [t.detach().requires_grad_(i in learning) for i, t in enumerate([*paths, *rest])]

    def layer(functions, flat):
        first, (scale, shift) = flat[2:-2], flat[-2:]
        ys, gates = functions.cross_predict(flat[:2], *first, relu, scale, shift)
        value = sum(y.pow(2).sum() for y in (*ys, gates))
        return [*ys, gates, *torch.autograd.grad(value, [t for t in flat if t.requires_grad])]

    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in flat]
    for actual, expected in zip(layer(functional, flat), layer(eager, exact)):
        assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)


def test_within_compiled_code():
    torch.use_deterministic_algorithms(False)
    gates = torch.rand(2, 2, 2)

    def inside(xs):
        with mpk.use_backend("eager"):
            return functional.mix(xs, gates)

    with pytest.raises(Exception, match="put it around the call of compiled code"):
        torch.compile(inside, backend="eager", fullgraph=True)(XS)
    torch._dynamo.reset()
    ys = torch.compile(inside, backend="eager")(XS)  # the graph breaks there
    assert all(map(torch.equal, ys, inside(XS)))


@needs_library
@pytest.mark.parametrize("name", ["cross_connect", "cross_predict"])
@pytest.mark.parametrize("first", ["auto", "eager"])
def test_compiled_code_asks_as_it_runs(name, first, monkeypatch):
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()
    paths, rest = arguments(name)
    calls = []
    run = getattr(eager, name)
    monkeypatch.setattr(eager, name, lambda *v, **named: (calls.append(name), run(*v, **named))[1])
    compiled = torch.compile(
        lambda: call(name, functional, paths, rest), backend="aot_eager", fullgraph=True
    )
    expected = call(name, functional, paths, rest)
    with mpk.use_backend(first):
        compiled()
    for forced in ("eager", "native", "auto"):
        calls.clear()
        with mpk.use_backend(forced):
            actual = compiled()
        assert calls == ([name] if forced == "eager" else [])
        for a, e in zip(actual, expected):
            assert (a - e).abs().max() <= 1e-4 * e.abs().max()
