"""Threads that call every operator while another one switches backends.

`python -m proof.switching SECONDS` does so for long.
"""

import sys
import threading
import time

import torch

import mpkernels as mpk
from mpkernels import eager, functional
from proof.problems import calls
from proof.problems.cases import Case

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


if __name__ == "__main__":
    print(threads_and_a_switch(seconds=float(sys.argv[1])))
