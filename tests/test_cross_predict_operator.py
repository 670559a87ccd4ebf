"""cross_predict, the layer of small vectors in one operator, against float64 by derived bounds."""

import pytest
import torch
from closeness import (
    ROUNDOFF,
    Bounded,
    CombineBounds,
    GateBounds,
    assert_close,
    exact,
    gamma,
    rounded,
)
from conftest import INTERPRETED
from vector_layers import LAYERS, gradients_of, problem, run

import mpkernels as mpk
from mpkernels import functional
from mpkernels.ops import native
from mpkernels.ops.cross_predict import FUSED_WEIGHTS, cross_predict

if INTERPRETED:
    pytest.skip("Triton runs the layer by its parts, which have tests", allow_module_level=True)


def backward(outputs, grads):
    kept = [(y, g) for y, g in zip(outputs, grads) if g is not None and y.requires_grad]
    torch.autograd.backward([y for y, _ in kept], [g for _, g in kept])


class Bounds:
    """Bounds of all results: predictions by their own rounding, carried through combine."""

    def __init__(self, layer, xs, made):
        a = ROUNDOFF[layer.dtype]
        self.a, self.xs = a, [exact(x) for x in xs]
        flat = {name: exact(t) for name, t in made.items()}
        self.weight = flat["weight"]
        self.gate = GateBounds(self.xs, [flat[name] for name in ("w1", "b1", "w2", "b2")], a)
        us = [x @ w.T for x, w in zip(self.xs, self.weight)]
        self.u_errors = [
            gamma(layer.channels + 1, a) * (x.abs() @ w.abs().T)
            for x, w in zip(self.xs, self.weight)
        ]
        parameters = [self.gate.g.value, flat["bias"], flat["scale"], flat["shift"]]
        self.combine = CombineBounds(us, parameters, layer.relu, a)
        # Errors of gates and predictions: d(sum g p) = dg p + g dp, in sizes.
        combine, n = self.combine, layer.outputs
        self.p_errors = torch.stack([torch.stack(e.tensor_split(n, 1)) for e in self.u_errors])
        self.g_errors = self.gate.g.error.permute(1, 2, 0)[..., None]
        g, e, p = combine.g, self.g_errors, self.p_errors
        extra = (e * (combine.sizes + p) + g.abs() * p).sum(0)
        combine.t.error = combine.t.error + extra
        error = combine.y.error + combine.scale.abs() * extra * (1 + 8 * a)
        combine.y.error = error
        before = combine.scale * combine.t.value
        if flat["shift"] is not None:
            before = before + flat["shift"][:, None]
        if layer.relu:
            combine.uncertain = (before.abs() <= error).double()

    def backward(self, layer, grad_ys, grad_gates):
        """Bounds of the gradients by name."""
        a, combine = self.a, self.combine
        found = combine.backward(grad_ys)
        on, unsure = combine.on * grad_ys, combine.uncertain * grad_ys.abs()
        scaled = combine.scale.abs() * (on.abs() + unsure)  # sizes of what reaches the sums
        more = (self.g_errors * scaled).sum(2)  # of the bias, summed over the batch
        found["bias"].error = found["bias"].error + more.flatten(1)
        through = (scaled * self.p_errors).sum(3).permute(2, 0, 1)
        value = found["gates"].value
        error = found["gates"].error + through
        if grad_gates is not None:
            value = value + grad_gates
            error = error + 3 * a * (value.abs() + grad_gates.abs())
        da, dh, dz = self.gate.backward(Bounded(value, error))
        found.update(self.gate.parameters(da, dh))
        # Of scale: D T, whose T has the errors of gates and predictions.
        du, terms = found.pop("us"), gamma(layer.batch + 2, a)
        m, n = layer.inputs, layer.outputs
        extra = (self.g_errors * scaled).permute(0, 2, 1, 3).reshape(m, layer.batch, -1)
        du_error = du.error + extra
        x = torch.stack(self.xs)
        outer = torch.einsum("mbr,mbc->mrc", du.value, x)
        size = torch.einsum("mbr,mbc->mrc", du.value.abs(), x.abs())
        found["weight"] = Bounded(
            outer, torch.einsum("mbr,mbc->mrc", du_error, x.abs()) + terms * size
        )
        rows = gamma(n * layer.made + 3, a)
        for i, w in enumerate(self.weight):
            back = du.value[i] @ w + dz.value[:, i]
            size = du.value[i].abs() @ w.abs() + dz.value[:, i].abs()
            error = du_error[i] @ w.abs() + dz.error[:, i] + rows * size
            found[f"x{i}"] = Bounded(back, error)
        return found


def check(layer, function):
    xs, made = problem(layer)
    ys, gates = run(function, layer, xs, made)
    outputs, grads = [*ys, gates], gradients_of(layer, ys, gates)
    backward(outputs, grads)
    bounds, a = Bounds(layer, xs, made), layer.dtype
    wanted = bounds.gate.g
    assert_close("gates", gates, wanted.value, rounded(wanted.value, wanted.error, a, a))
    y = bounds.combine.y
    for j, found in enumerate(ys):
        assert found.dtype == layer.dtype and found.is_contiguous()
        assert_close(f"y{j}", found, y.value[j], rounded(y.value[j], y.error[j], a, a))
    zero = torch.zeros(layer.batch, layer.made).double()
    grad_ys = torch.stack([zero if g is None else exact(g) for g in grads[:-1]])
    results = bounds.backward(layer, grad_ys, exact(grads[-1]))
    leaves = {**{f"x{i}": x for i, x in enumerate(xs)}, **made}
    of_gates = {"x0", "x1", "w1", "b1", "w2", "b2"}
    for name, leaf in leaves.items():
        if leaf is None:
            continue
        reached = layer.gradient != "gates_only" or name in of_gates
        if not leaf.requires_grad or (leaf.grad is None and not reached):
            assert leaf.grad is None, name
            continue
        wanted = results[name]
        bound = rounded(wanted.value, wanted.error, leaf.dtype, layer.dtype)
        assert_close(f"grad_{name}", leaf.grad, wanted.value, bound)
    return outputs, {name: t.grad for name, t in leaves.items() if t is not None}


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_against_float64(layer, backend):
    check(layer, functional.cross_predict)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_parts_agree(layer, monkeypatch):
    """Beyond so many weights the function runs the gate, products and combine."""
    monkeypatch.setattr("mpkernels.ops.cross_predict.FUSED_WEIGHTS", 0)
    check(layer, functional.cross_predict)


@pytest.mark.parametrize("layer", LAYERS[:5], ids=str)
@pytest.mark.parametrize("name", native.build_record().get("instruction_sets", []))
def test_every_instruction_set(name, layer):
    try:
        torch.ops.mpkernels.instruction_set(name)
    except RuntimeError:
        pytest.skip(f"this processor has no {name}")
    try:
        check(layer, functional.cross_predict)
    finally:
        torch.ops.mpkernels.instruction_set("best")


def test_the_operator_runs_where_it_is_faster(monkeypatch):
    called, direct = [], type(cross_predict).direct
    monkeypatch.setattr(
        type(cross_predict), "direct", lambda self, *a: called.append(self.name) or direct(self, *a)
    )
    router = mpk.CrossPredictLinear(32, 32, 2, 2)
    ys = router([torch.randn(3, 32, requires_grad=True) for _ in range(2)])
    sum(y.sum() for y in ys).backward()
    if native.why_no_cpu is None:
        assert called == ["cross_predict", "cross_predict_backward"]
    called.clear()
    large = mpk.CrossPredictLinear(128, 128, 2, 2)
    assert large.weight.numel() > FUSED_WEIGHTS
    large([torch.randn(3, 128) for _ in range(2)])
    router.bfloat16()([torch.randn(3, 32).bfloat16() for _ in range(2)])
    with torch.autocast("cpu", torch.bfloat16):
        ys = router.float()([torch.randn(3, 32) for _ in range(2)])
    assert ys[0].dtype == torch.bfloat16
    assert called == ["gate", "combine"] * 3
    called.clear()
    with mpk.use_backend("eager"):  # not by the backend: the operator asks for it as it runs
        router([torch.randn(3, 32) for _ in range(2)])
    assert called == (["cross_predict"] if native.why_no_cpu is None else ["gate", "combine"])


@pytest.mark.parametrize("layer", [LAYERS[3], LAYERS[8]], ids=str)
def test_no_bit_depends_on_threads_runs_or_company(layer):
    if native.why_no_cpu is not None:
        pytest.skip(native.why_no_cpu)
    xs, made = problem(layer)
    ys, gates = run(functional.cross_predict, layer, xs, made)
    outer = [torch.randn_like(y) for y in (*ys, gates)]
    leaves = [*xs, *made.values()]

    def step(part=slice(None)):
        some = [x[part].detach().requires_grad_() for x in xs]
        ys, gates = run(functional.cross_predict, layer, some, made)
        outputs = [*ys, gates]
        grads = torch.autograd.grad(outputs, [*some, *leaves[len(xs) :]], [g[part] for g in outer])
        return [*outputs, *grads[: len(xs)]], grads[len(xs) :]

    by_sample, of_parameters = step()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again = step()
            for a, b in zip((*by_sample, *of_parameters), (*again[0], *again[1]), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)
    for part in (slice(0, 1), slice(1, 4), slice(layer.batch - 1, None)):
        assert all(torch.equal(a[part], b) for a, b in zip(by_sample, step(part)[0], strict=True))
