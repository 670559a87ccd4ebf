"""Code in a fresh interpreter, which imports the package from the path a test gives."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import mpkernels as mpk

PACKAGE = Path(mpk.__file__).resolve().parent
RUN_A_ROUTER = """
import torch
router = mpk.CrossConnect(4, 2, 3)
xs = [torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(2)]
ys, gates = router(xs, return_gates=True)
sum((y * y).sum() for y in ys).backward()
"""


def python(code, path=PACKAGE.parent, input=None, **environment):
    """Runs code in a fresh interpreter that imports the package from `path`."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**variables, "PYTHONPATH": str(path), **environment},
        cwd=path, capture_output=True, text=True, timeout=300, input=input,
    )  # fmt: skip


def succeeds(code, **options):
    """Runs code as `python` does, and asserts that it exits with 0."""
    done = python(code, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


RUNS_ON_THE_DEFINITION = (
    """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mpkernels as mpk
ours = [w for w in caught if "mpkernels" in str(w.message)]
assert [w.category for w in ours] == [RuntimeWarning], ours
print(ours[0].message)
warnings.simplefilter("error", RuntimeWarning)
"""
    + RUN_A_ROUTER
    + """
again = [x.detach().requires_grad_() for x in xs]
expected, expected_gates = mpk.eager.cross_connect(again, *router.parameters())
sum((y * y).sum() for y in expected).backward()
assert torch.equal(gates, expected_gates)
assert all(torch.equal(y, z) for y, z in zip(ys, expected))
# The operator and autograd may add the two parts of a gradient in a different order.
error = max((x.grad - z.grad).abs().max() for x, z in zip(xs, again))
assert error <= 16 * 2**-24 * max(z.grad.abs().max() for z in again), error
try:
    with mpk.use_backend("native"):
        router(xs)
except RuntimeError as error:
    assert "use_backend('native') cannot run on CPU tensors: _C.so" in str(error), error
else:
    raise AssertionError("a forced backend that cannot run must raise")
"""
)
