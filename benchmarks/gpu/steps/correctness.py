"""Every operator at the paper's routers, on fresh random inputs, against float64.

The bounds are those of the tests. Besides, two runs must agree bit for bit, and so must a batch and
its two halves.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.steps.drawn import (
    COMBINED,
    OPERATORS,
    PARAMETERS,
    Case,
    Problem,
    Router,
    draw,
    run_operator,
)
from benchmarks.gpu.steps.float64 import expected, shares
from proof.problems.networks import NETWORKS

# The networks that are timed come first; half and double precision are checked on theirs alone.
TIMED = ("basecnn_3_cc", "resnet20_3_cc", "resnet18_2_cc")
NAMES = (*TIMED, "basecnn_2_cc", "basecnn_4_cc", "resnet20_2_cc", "resnet20_4_cc")
ODD = Router(13, (5, 7), 2, 3)


def _batch(router: Router) -> int:
    """The recipes' batch, a smaller one for maps of 224 x 224 images."""
    return 128 if router.channels * (router.spatial or (1,))[0] <= 1024 else 16


def _checked() -> dict[str, tuple[Case, str]]:
    named = {}
    for names, dtypes in ((NAMES, ("fp32", "bf16")), (TIMED, ("fp16", "fp64"))):
        routers = (Router(*router[1:]) for name in names for router in NETWORKS[name])
        for router in dict.fromkeys([*routers, ODD]):
            for dtype in dtypes:
                for layout in ("nchw", "channels_last")[: 2 if router.spatial else 1]:
                    case = Case(router, dtype, layout, _batch(router))
                    named |= {f"{operator} {case}": (case, operator) for operator in OPERATORS}
    return named


CASES = _checked()


def cases() -> list[str]:
    """An operator, a router, a dtype and a layout."""
    return list(CASES)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fills every new tensor with NaN, so that no element left unwritten goes unnoticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _halves_agree(operator: str, problem: Problem, results: dict[str, Tensor]) -> bool:
    """Whether each half of the batch gets, bit for bit, the results that it has in the whole."""
    middle = len(problem.xs[0]) // 2
    parts = (slice(middle), slice(middle, None))
    halves = [run_operator(operator, problem.part(part)) for part in parts]
    each = [name for name in results if name not in {f"grad_{p}" for p in (*PARAMETERS, *COMBINED)}]
    return all(torch.equal(results[n], torch.cat([half[n] for half in halves])) for n in each)


def check(case: Case, operator: str, device: str = "cuda") -> dict[str, Any]:
    """The largest error as a share of its bound, and what is wrong."""
    seed = random.randrange(1, 2**31)
    problem, wrong = draw(case, device, seed), []
    with poisoned():
        results, again = run_operator(operator, problem), run_operator(operator, problem)
        agree = len(problem.xs[0]) < 2 or _halves_agree(operator, problem, results)
    share = shares(results, expected(operator, problem))
    wrong += [f"{name} is {s:.3g} bounds off" for name, s in share.items() if s > 1]
    if not all(torch.equal(t, again[name]) for name, t in results.items()):
        wrong.append("two runs differ")
    if not agree:
        wrong.append("halves of the batch differ from the batch")
    if device == "cuda":
        torch.cuda.empty_cache()  # several processes share the card
    return {
        "operator": operator, "dtype": case.dtype, "share": round(max(share.values()), 4),
        "seed": seed, "right": not wrong, "wrong": "; ".join(wrong[:6]),
    }  # fmt: skip


def run(name: str) -> dict[str, Any]:
    """Checks one case."""
    case, operator = CASES[name]
    return check(case, operator)
