"""Host time of a router on a GPU, measured without one: `python -m benchmarks.host`.

The fused router takes its whole way, from `router(xs)` through dispatcher and autograd to the call
of the driver, which is an emulation that launches nothing. CPU tensors stand in for those of a GPU.
The others run the same operations on tensors so small that their kernels take no time. Neither side
pays for launches: the second figure adds LAUNCH microseconds for each kernel, on both sides.

Contenders take turns in one process. The CPU backend, on vectors, has a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import mpkernels as mpk
from benchmarks import baselines, machine
from benchmarks.measure import Step, contest
from mpkernels.triton.standin import is_view

LAUNCH = 2.5  # microseconds that the driver takes for one launch
CHAIN = 5  # routers of the longer chain
ROUNDS = 31
PATHS = 2
SHAPES = {"maps": (2, 64, 8, 8), "vectors": (128, 32)}
BATCHES = (8, 128)  # of the CPU backend's vectors

Layer = Callable[[list[Tensor]], Sequence[Tensor]]


class _Kernels(TorchDispatchMode):
    """Counts the operators that compute something."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += not is_view(function) and "empty" not in str(function)
        return function(*args, **(kwargs or {}))


class Contender:
    """One way to compute a router, in chains of one and of CHAIN."""

    def __init__(self, layer: Callable[[mpk.CrossConnect], Layer], shape: tuple[int, ...]) -> None:
        self.plain = [torch.randn(shape) for _ in range(PATHS)]
        self.leaves = [x.clone().requires_grad_() for x in self.plain]
        self.grads = [torch.ones(shape) for _ in range(PATHS)]
        routers = [mpk.CrossConnect(shape[1], PATHS, PATHS) for _ in range(CHAIN)]
        self._layers = [layer(router) for router in routers]
        self._parameters = [[*router.parameters()] for router in routers]

    def _run(self, xs: list[Tensor], count: int) -> Sequence[Tensor]:
        for layer in self._layers[:count]:
            xs = list(layer(xs))
        return xs

    def forward(self) -> None:
        """One router."""
        self._layers[0](self.plain)

    def recorded(self) -> None:
        """The same with autograd's records."""
        self._layers[0](self.leaves)

    def both(self, count: int = 1) -> None:
        """A chain, forward and backward."""
        parameters = [p for each in self._parameters[:count] for p in each]
        ys = self._run(self.leaves, count)
        torch.autograd.grad(ys, [*self.leaves, *parameters], self.grads)

    def steps(self) -> dict[str, Step]:
        """What is timed."""
        return {  # the first without autograd
            "forward": self.forward,
            "forward, recorded": self.recorded,
            "both": self.both,
            "chain": lambda: self.both(CHAIN),
        }


def _by_parameters(function: Callable[..., Any]) -> Callable[[mpk.CrossConnect], Layer]:
    return lambda router: lambda xs: function(xs, *router.parameters())


def _from_python(router: mpk.CrossConnect) -> Layer:
    def run(xs: list[Tensor]) -> Sequence[Tensor]:
        with mpk.use_backend("triton"):
            return router(xs)

    return run


def ways(small: tuple[int, ...], shape: tuple[int, ...]) -> dict[str, Contender]:
    """All contenders for maps of this shape; those that are not ours take the small one."""
    torch._dynamo.reset()
    compiled = torch.compile(baselines.loops, dynamic=False)
    return {
        "loops": Contender(_by_parameters(baselines.loops), small),
        "stacked": Contender(_by_parameters(baselines.stacked), small),
        "compile": Contender(_by_parameters(compiled), small),
        "Triton's launcher": Contender(_from_python, shape),
        "fused": Contender(lambda router: router, shape),
    }


def kernels_of(contender: Contender, launched: Callable[[Step], int]) -> dict[str, int]:
    """How many kernels each step launches."""
    return {name: launched(step) for name, step in contender.steps().items()}


def _counted(step: Step) -> int:
    with _Kernels() as kernels:
        step()
    return kernels.count


def medians(contenders: dict[str, Contender], rounds: int) -> dict[tuple[str, str], float]:
    """Microseconds of each step of each contender, and of one more router in a chain."""
    x, weight = torch.randn(128, 32), torch.randn(32, 32)
    steps: dict[Any, Step] = {("linear", "forward"): lambda: linear(x, weight)}
    for name, contender in contenders.items():
        steps |= {(name, what): step for what, step in contender.steps().items()}
    forward = {key: step for key, step in steps.items() if key[1] == "forward"}
    with torch.no_grad():
        times = contest(forward, rounds)
    times |= contest({key: steps[key] for key in steps if key not in forward}, rounds)
    found = {key: statistics.median(values) for key, values in times.items()}
    for name in contenders:
        longer = zip(times[name, "chain"], times[name, "both"])
        more = [(chain - one) / (CHAIN - 1) for chain, one in longer]
        found[name, "one more"] = statistics.median(more)
    return found


PARTS = ("forward", "forward, recorded", "both", "one more")


def table(found: dict[tuple[str, str], float], kernels: dict[str, dict[str, int]]) -> list[str]:
    """Lines of Markdown: microseconds, and with the launches."""
    names = [*kernels]
    unit = found["linear", "forward"]
    lines = ["| step | " + " | ".join(names) + " | fused against loops |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for part in PARTS:
        cells, totals = [], {}
        for name in names:
            time, counts = found[name, part], kernels[name]
            of_chain = (counts["chain"] - counts["both"]) / (CHAIN - 1)
            launches = of_chain if part == "one more" else counts[part]
            totals[name] = time, time + LAUNCH * launches
            known = name != "compile"  # how many kernels it would launch on a GPU is not
            cells.append(f"{time:.1f}" + f" ({totals[name][1]:.1f})" * known)
        ratios = [one / other for one, other in zip(totals["loops"], totals["fused"])]
        cells.append(f"{ratios[0]:.1f} x, with launches {ratios[1]:.1f} x")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    fused = found["fused", "forward"] / unit
    return [*lines, "", f"linear [128, 32] x [32, 32]: {unit:.1f} us; fused forward {fused:.2f} x"]


def on_emulated_gpu(rounds: int) -> None:
    """Prints a table for maps and one for vectors."""
    from proof.emulated.driver import emulate

    emulation = emulate()

    def launched(step: Step) -> int:
        step()  # plans
        with emulation.recorded() as launches:
            step()
        return len(launches)

    for kind, shape in SHAPES.items():
        small = (1, shape[1], *(1 for _ in shape[2:]))
        contenders = ways(small, shape)
        found = medians(contenders, rounds)
        kernels = {name: kernels_of(each, _counted) for name, each in contenders.items()}
        for name in ("Triton's launcher", "fused"):
            kernels[name] = kernels_of(contenders[name], launched)
        print(f"\n{kind} {list(shape)}, {PATHS} to {PATHS}, microseconds of the host:\n")
        print("\n".join(table(found, kernels)))


def on_cpu(rounds: int) -> None:
    """Prints one more router of the CPU backend in a chain, against loops."""
    for batch in BATCHES:
        shape = (batch, 32)
        contenders = {
            "loops": Contender(_by_parameters(baselines.loops), shape),
            "fused": Contender(lambda router: router, shape),
        }
        found = medians(contenders, rounds)
        loops, fused = found["loops", "one more"], found["fused", "one more"]
        print(
            f"CPU backend, vectors {list(shape)}, one more: "
            f"loops {loops:.1f}, fused {fused:.1f}, {loops / fused:.1f} x"
        )


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cpu", action="store_true", help="the CPU backend alone")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.cpu:
        on_cpu(chosen.rounds)
        return 0
    print(f"torch {torch.__version__}, load {machine.load()}, commit {machine.commit()}")
    print(f"In brackets: with {LAUNCH} us for each launch.")
    on_emulated_gpu(chosen.rounds)
    print(flush=True)
    command = [sys.executable, "-m", "benchmarks.host", "--cpu", "--rounds", str(chosen.rounds)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
