"""Threads that call every operator while another thread switches backends.

`python -m proof.switching SECONDS` runs them for that long.
"""

import sys
import threading
import time

import torch

import mpkernels as mpk
from mpkernels import eager, functional
from proof.problems import calls

NAMES = [*calls.NAMES, "cross_predict"]
SIZES = {"B": 2, "C": 3, "m": 2, "n": 2, "K": 5, "D": 2}


def arguments(name):
    paths, *rest = calls.random_arguments(name, SIZES, (2, 2)).values()
    return paths, [t.requires_grad_() for t in rest]


def value_and_gradients(name, functions, paths, rest):
    ys = calls.call(name, functions, paths, rest)
    return [*ys, *torch.autograd.grad(sum(y.pow(2).sum() for y in ys), calls.leaves(paths, rest))]


def wide(tensors):
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def threads_and_a_switch(seconds):
    """Three threads run every operator, forward and backward, while a fourth switches backends."""
    problems = [(name, *arguments(name)) for name in NAMES]
    expected = {}
    for name, paths, rest in problems:
        paths = [p.requires_grad_() for p in paths]
        rest = [None if t is None else t.detach().requires_grad_() for t in rest]
        expected[name] = value_and_gradients(name, eager, wide(paths), wide(rest))
    stop, errors, counts = time.monotonic() + seconds, [], {}

    def check(name, paths, rest):
        rest = [None if t is None else t.detach().requires_grad_() for t in rest]
        results = value_and_gradients(name, functional, paths, rest)
        for result, reference in zip(results, expected[name]):
            limit = 1e-4 * reference.abs().max().clamp(min=1)
            assert (result - reference).abs().max() <= limit, name

    def work(worker):
        with torch.random.fork_rng():
            while time.monotonic() < stop and not errors:
                for name, paths, rest in problems:
                    counts[worker] = counts.get(worker, 0) + 1
                    if counts[worker] % 7 == 0:
                        with mpk.use_backend(("eager", "native")[worker % 2]):
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

    def guarded(run, *arguments):
        try:
            run(*arguments)
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
