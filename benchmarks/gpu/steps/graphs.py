"""GPU time: CUDA graphs of many calls, each on its own inputs; the graphs take turns.

A graph leaves out the time that Python takes, for all contenders alike. Together the inputs of its
calls exceed the L2 cache, and outputs are kept until the last call is captured: every call reads
from memory and writes to memory of its own, as in a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from benchmarks.measure import CudaClock, Spread, Step, contest, spread

WARM_UP = 2
ROUNDS = 7
L2_TIMES = 2  # how often the inputs of a graph's calls would fill the L2 cache
FEWEST, MOST = 4, 20  # calls per graph


def calls_for(bytes_of_call: int) -> int:
    """How many calls together exceed the L2 cache."""
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    return min(MOST, max(FEWEST, math.ceil(L2_TIMES * l2_bytes / max(1, bytes_of_call))))


class Graph:
    """All calls as one CUDA graph. It keeps them alive: it reads and writes their tensors."""

    def __init__(self, calls: Sequence[Step]) -> None:
        self.calls, self.graph = calls, torch.cuda.CUDAGraph()

    def __call__(self) -> None:
        """Replays it."""
        self.graph.replay()


def captured(calls: Sequence[Step], warm_up: int = WARM_UP) -> Graph:
    """The calls as a graph; the first call runs `warm_up` times before.

    The graph is captured on the current stream, so that a backward runs on the stream of its
    forward; `worker` makes that one other than the default stream, which cannot be captured.
    """
    for _ in range(warm_up):
        calls[0]()
    torch.cuda.synchronize()
    graph, outputs = Graph(calls), []
    with torch.cuda.graph(graph.graph, stream=torch.cuda.current_stream()):
        for call in calls:
            outputs.append(call())
    return graph


def timed(graphs: dict[str, Step], calls: int, rounds: int = ROUNDS) -> dict[str, Spread]:
    """Microseconds per call, of each graph."""
    times = contest(graphs, rounds, CudaClock())
    return {name: spread([each / calls for each in values]) for name, values in times.items()}
