"""Without one of torch's private names the package is slower, never wrong, never silent."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from proof.where import ROOT

NAMES = re.findall(r'_named\("([\w.]+)"\)', (ROOT / "mpkernels/ops/internals.py").read_text())

# Private name -> where torch itself fails without it, so the package cannot be tested.
TORCH_ENDS = {
    "torch._C._get_tracing_state": "nn.Module.__call__",
    "torch._C._parse_dispatch_key": "torch.library.Library.impl",
    "torch._C._dispatch_has_kernel_for_dispatch_key": "torch.library.Library.impl",
    "torch.autograd.forward_ad._current_level": "forward_ad.make_dual and unpack_dual",
    "torch.Tensor._make_wrapper_subclass": "FakeTensor",
}

SCRIPT = r"""
import sys, warnings
import torch, torch.autograd.forward_ad as fw

def close(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert (a - e).abs().max() <= 1e-4 * e.abs().max().clamp(min=1), (a, e)

def check(names):
    for name in names:
        *path, last = name.split(".")[1:]
        holder = torch
        for part in path:
            holder = getattr(holder, part)
        delattr(holder, last)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import mpkernels as mpk
    messages = [str(w.message) for w in caught if "mpkernels" in str(w.message)]
    assert len(messages) == 1 and all(name in messages[0] for name in names), messages
    from mpkernels import eager, functional
    from mpkernels.ops import nodes
    from mpkernels.ops.operator import OPERATORS
    for operator in OPERATORS.values():  # Python's ways need these names, C++ does not
        operator._in_cpp = nodes.never
    x = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    for router in (mpk.CrossConnect(3, 2, 2), mpk.CrossPredictConv2d(3, 2, 1, 2, 2)):
        leaves = [*x, *router.parameters()]
        ys = router(x)
        grads = torch.autograd.grad(sum(y.pow(2).sum() for y in ys), leaves, create_graph=True)
        seconds = torch.autograd.grad(sum(g.pow(2).sum() for g in grads), leaves)
        for backend in ("eager", "native", "auto"):
            with mpk.use_backend(backend):
                close(router(x), ys)
        mpk.unfuse(router)
        expected = router(x)
        value = sum(y.pow(2).sum() for y in expected)
        firsts = torch.autograd.grad(value, leaves, create_graph=True)
        close(ys, expected)
        close(grads, firsts)
        close(seconds, torch.autograd.grad(sum(g.pow(2).sum() for g in firsts), leaves))
    a, g = x[0].detach(), torch.rand(2, 1, 2)
    with torch.no_grad():
        close(functional.mix([a], g), eager.mix([a], g))
    # Forward mode and torch.func import torch._dynamo, which fails without either of these.
    needed = {"torch._C._AutoDispatchBelowAutograd", "torch._C._is_any_autocast_enabled"}
    if not needed & set(names):
        with fw.dual_level():
            dual = [fw.make_dual(a, torch.ones_like(a))]
            close(
                [fw.unpack_dual(y).tangent for y in functional.mix(dual, g)],
                [fw.unpack_dual(y).tangent for y in eager.mix(dual, g)],
            )
    close(
        torch.autograd.functional.jacobian(lambda a: functional.mix([a], g)[0], a, vectorize=True),
        torch.autograd.functional.jacobian(lambda a: eager.mix([a], g)[0], a, vectorize=True),
    )
    if not any("functorch" in name for name in names) and not needed & set(names):
        def cubes(functions):
            return lambda a: sum(y.pow(3).sum() for y in functions.mix([a], g))
        for order in (1, 2):
            f, w = cubes(functional), cubes(eager)
            for _ in range(order):
                f, w = (
                    (lambda h: lambda a: torch.func.grad(h)(a).pow(2).sum())(h) for h in (f, w)
                )
            close([torch.func.grad(f)(a)], [torch.func.grad(w)(a)])
        many = torch.stack([a, 2 * a])
        close(
            torch.func.vmap(lambda a: functional.mix([a], g)[0])(many),
            torch.func.vmap(lambda a: eager.mix([a], g)[0])(many),
        )
    try:
        functional.mix([a, a], g)
    except ValueError as error:
        assert "gates must be [B, m, n]" in str(error)
    else:
        raise AssertionError("bad gates were accepted")

check(sys.argv[1].split(","))
"""


def without(names):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, ",".join(names)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    return None if run.returncode == 0 else f"without {names}:\n{run.stdout}{run.stderr}"


@pytest.mark.slow
def test_every_name_may_be_missing():
    assert len(NAMES) > 10
    removable = [name for name in NAMES if name not in TORCH_ENDS]
    with ThreadPoolExecutor(2) as pool:
        failed = [*filter(None, pool.map(without, [*([name] for name in removable), removable]))]
    assert not failed, "\n".join(failed)


PRIVATE = re.compile(r"torch(\.\w+)*\._[A-Za-z]|from torch[\w.]* import [^\n]*\b_[A-Za-z]")


def test_no_other_file_uses_a_private_name():
    private_names = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for room in ("mpkernels", "models")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "internals.py"
        for match in PRIVATE.finditer(path.read_text())
    ]
    assert private_names == []
