"""cross_predict, the layer of small vectors in one operator, against float64 within bounds."""

import pytest
import torch

import mpkernels as mpk
from mpkernels import functional
from mpkernels.eager.functional import KINDS
from mpkernels.ops import native
from mpkernels.ops.cross_predict import FUSED_WEIGHTS
from mpkernels.ops.operator import Operator
from proof.checks import check_cross_predict
from proof.problems.layers import LAYERS, problem, run
from proof.ways import python_alone
from proof.where import INTERPRETED

if INTERPRETED:
    pytest.skip("Triton runs the layer by its parts, which have tests", allow_module_level=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_against_float64(layer, kind, backend):
    check_cross_predict(layer, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_parts_agree(layer, kind, monkeypatch):
    """Above FUSED_WEIGHTS weights the function runs the gate, products and combine."""
    monkeypatch.setattr("mpkernels.ops.cross_predict.FUSED_WEIGHTS", 0)
    check_cross_predict(layer, kind)


@pytest.mark.parametrize("layer", LAYERS[:5], ids=str)
@pytest.mark.parametrize("name", native.build_record().get("instruction_sets", []))
def test_every_instruction_set(name, layer):
    try:
        torch.ops.mpkernels.instruction_set(name)
    except RuntimeError:
        pytest.skip(f"this processor has no {name}")
    try:
        check_cross_predict(layer)
    finally:
        torch.ops.mpkernels.instruction_set("best")


@python_alone()
def test_the_operator_runs_where_it_is_faster(monkeypatch):
    names, direct = [], Operator.direct
    monkeypatch.setattr(
        Operator, "direct", lambda self, *a: names.append(self.name) or direct(self, *a)
    )
    router = mpk.CrossPredictLinear(32, 32, 2, 2)
    ys = router([torch.randn(3, 32, requires_grad=True) for _ in range(2)])
    sum(y.sum() for y in ys).backward()
    if native.why_no_cpu is None:
        assert names == ["cross_predict", "cross_predict_backward"]
    names.clear()
    large = mpk.CrossPredictLinear(128, 128, 2, 2)
    assert large.weight.numel() > FUSED_WEIGHTS
    large([torch.randn(3, 128) for _ in range(2)])
    router.bfloat16()([torch.randn(3, 32).bfloat16() for _ in range(2)])
    with torch.autocast("cpu", torch.bfloat16):
        ys = router.float()([torch.randn(3, 32) for _ in range(2)])
    assert ys[0].dtype == torch.bfloat16
    assert names == ["gate", "combine"] * 3
    names.clear()
    with mpk.use_backend("eager"):  # the choice ignores the backend, which the operator looks up
        router([torch.randn(3, 32) for _ in range(2)])
    assert names == (["cross_predict"] if native.why_no_cpu is None else ["gate", "combine"])


@pytest.mark.parametrize("layer", [LAYERS[3], LAYERS[8]], ids=str)
def test_no_bit_depends_on_threads_runs_or_batch(layer):
    if native.why_no_cpu is not None:
        pytest.skip(native.why_no_cpu)
    xs, parameters = problem(layer)
    ys, gates = run(functional.cross_predict, layer, xs, parameters)
    outer = [torch.randn_like(y) for y in (*ys, gates)]
    leaves = [*xs, *parameters.values()]

    def step(part=slice(None)):
        part_xs = [x[part].detach().requires_grad_() for x in xs]
        ys, gates = run(functional.cross_predict, layer, part_xs, parameters)
        outputs = [*ys, gates]
        grads = torch.autograd.grad(
            outputs, [*part_xs, *leaves[len(xs) :]], [g[part] for g in outer]
        )
        return [*outputs, *grads[: len(xs)]], grads[len(xs) :]

    per_sample, parameter_grads = step()
    threads_before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again = step()
            for a, b in zip((*per_sample, *parameter_grads), (*again[0], *again[1]), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads_before)
    for part in (slice(0, 1), slice(1, 4), slice(layer.batch - 1, None)):
        assert all(torch.equal(a[part], b) for a, b in zip(per_sample, step(part)[0], strict=True))
