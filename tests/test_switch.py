"""Which backend runs: by process, thread and context; a switch touches nothing that runs."""

import gc
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import calls
import pytest
import torch
from cases import Case
from conftest import INTERPRETED

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.eager import gradients
from mpkernels.ops import native, switch
from mpkernels.ops.switch import active_backend

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
    """What the eager definition of cross_connect computed, and in which thread."""
    seen = []

    def recorded(module, name):
        run = module.cross_connect

        def record(*given):
            seen.append((name, threading.current_thread().name))
            return run(*given)

        monkeypatch.setattr(module, "cross_connect", record)

    recorded(eager, "forward")
    recorded(gradients, "backward")
    return seen


def elsewhere(function, *arguments):
    """The result of a call in a thread of its own."""
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
    """Between the call and `with` the object waits: it belongs to no one else."""
    context = mpk.use_backend("triton")
    assert elsewhere(active_backend) == "auto"
    with context:
        assert (active_backend(), elsewhere(active_backend)) == ("triton", "auto")
    assert active_backend() == "auto"


def test_a_call_whose_object_is_kept():
    kept = mpk.use_backend("eager")
    assert elsewhere(active_backend) == "auto"
    assert active_backend() == "eager"  # this thread goes on without `with`
    assert elsewhere(active_backend) == "eager"
    with kept:  # and yet it follows: the process has its own again
        assert (active_backend(), elsewhere(active_backend)) == ("eager", "auto")
    kept, later = mpk.use_backend("eager"), mpk.use_backend("native")
    del later
    assert elsewhere(active_backend) == "native"
    del kept  # older than what is in force
    assert active_backend() == elsewhere(active_backend) == "native"
    mpk.use_backend("auto")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1]])
def test_contexts_left_in_any_order(order):
    names = ["eager", "native", "triton"]
    contexts = [mpk.use_backend(name) for name in names]
    for context in contexts:
        context.__enter__()
    left = set()
    for which in order:
        contexts[which].__exit__(None, None, None)
        left.add(which)
        staying = [name for i, name in enumerate(names) if i not in left]
        assert active_backend() == (staying[-1] if staying else "auto")


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
@pytest.mark.parametrize("there", [False, True])
def test_a_backward_runs_the_backend_of_its_forward(there, defined):
    router = mpk.CrossConnect(4, 2, 2)
    with mpk.use_backend("eager"):
        by_definition = sum(y.sum() for y in router(XS))
    compiled = sum(y.sum() for y in router(XS))
    defined.clear()
    run = elsewhere if there else lambda call: call()
    run(by_definition.backward)
    assert [direction for direction, _ in defined] == ["backward"]
    defined.clear()
    with mpk.use_backend("eager"):
        run(compiled.backward)
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
            return torch.ops.mpkernels.cross_connect(XS, *router.parameters())

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
    for call in (functional.mix, torch.ops.mpkernels.mix):
        with mpk.use_backend("triton"), pytest.raises(RuntimeError, match=f"^{refusal}"):
            call(XS, gates)
    bad = re.escape("mix: gates must be [B, m, n] = [2, 2, 2], got [2, 1, 2]")
    with mpk.use_backend("eager"):
        with pytest.raises(ValueError, match=bad):
            functional.mix(XS, gates[:, :1])
        with pytest.raises(RuntimeError, match=bad):
            torch.ops.mpkernels.mix(XS, gates[:, :1])


NAMES = [*calls.NAMES, "cross_predict"]


def arguments(name):
    if name != "cross_predict":
        return calls.arguments(name, Case("", "", batch=2, channels=3, spatial=(2, 2)))
    shapes = [(2, 4, 3), (2, 4), (2, 5, 3), (2, 5), (2, 2, 5), (2, 2)]
    return [torch.randn(2, 3) for _ in range(2)], [torch.randn(s).requires_grad_() for s in shapes]


def outputs(name, functions, paths, rest):
    if name != "cross_predict":
        return calls.call(name, functions, paths, rest)
    ys, gates = functions.cross_predict(paths, *rest)
    return [*ys, gates]


def value_and_gradients(name, functions, paths, rest):
    ys = outputs(name, functions, paths, rest)
    return [*ys, *torch.autograd.grad(sum(y.pow(2).sum() for y in ys), calls.leaves(paths, rest))]


def wide(tensors):
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def threads_and_a_switch(seconds):
    """Three threads call every operator, forward and backward; one switches all the while."""
    problems = [(name, *arguments(name)) for name in NAMES]
    wanted = {}
    for name, paths, rest in problems:
        paths = [p.requires_grad_() for p in paths]
        rest = [None if t is None else t.detach().requires_grad_() for t in rest]
        wanted[name] = value_and_gradients(name, eager, wide(paths), wide(rest))
    stop, errors, counts = time.monotonic() + seconds, [], {}

    def check(name, paths, rest):
        rest = [None if t is None else t.detach().requires_grad_() for t in rest]
        for found, right in zip(value_and_gradients(name, functional, paths, rest), wanted[name]):
            assert (found - right).abs().max() <= 1e-4 * right.abs().max().clamp(min=1), name

    def work(which):
        with torch.random.fork_rng():
            while time.monotonic() < stop and not errors:
                for name, paths, rest in problems:
                    counts[which] = counts.get(which, 0) + 1
                    if counts[which] % 7 == 0:
                        with mpk.use_backend(("eager", "native")[which % 2]):
                            check(name, paths, rest)
                    else:
                        check(name, paths, rest)

    def switching():
        while time.monotonic() < stop and not errors:
            counts["switches"] = counts.get("switches", 0) + 1
            for name in ("eager", "native", "auto"):
                mpk.use_backend(name)
                with mpk.use_backend("eager"), mpk.use_backend("triton"):
                    time.sleep(1e-4)

    def guarded(run, *given):
        try:
            run(*given)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work, i)) for i in range(3)]
    threads.append(threading.Thread(target=guarded, args=(switching,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mpk.use_backend("auto")
    if errors:
        raise errors[0]
    return counts


@needs_library
@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one kernel at a time")
def test_switching_while_threads_run(one_thread):
    counts = threads_and_a_switch(seconds=4)
    assert len(counts) == 4 and min(counts.values()) > 10


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
    seen = []
    run = getattr(eager, name)
    monkeypatch.setattr(eager, name, lambda *given: (seen.append(name), run(*given))[1])
    compiled = torch.compile(
        lambda: outputs(name, functional, paths, rest), backend="aot_eager", fullgraph=True
    )
    wanted = outputs(name, functional, paths, rest)
    with mpk.use_backend(first):
        compiled()
    for forced in ("eager", "native", "auto"):
        seen.clear()
        with mpk.use_backend(forced):
            found = compiled()
        assert seen == ([name] if forced == "eager" else [])
        for f, w in zip(found, wanted):
            assert (f - w).abs().max() <= 1e-4 * w.abs().max()


if __name__ == "__main__":  # the long proof: python tests/test_switch.py
    print(threads_and_a_switch(seconds=600))
