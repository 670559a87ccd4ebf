"""The self-test finds planted faults in every operator, layout and dtype."""

import pytest
import torch

from mpkernels import __main__ as command
from mpkernels import eager, selftest
from mpkernels.nearness import is_near, slack
from mpkernels.ops import backend
from mpkernels.ops.operator import OPERATORS


def tensors_of(value):
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in tensors_of(v)]


def changed(value, change):
    """A tensor or nested list with its last tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)((*value[:-1], changed(value[-1], change)))


def factor(y):
    return y * (1 + 2**-7 if y.dtype == torch.bfloat16 else 1 + 1e-4)


def nan_in_one_element(y):
    middle = torch.arange(y.numel()).reshape(y.shape) == y.numel() // 2
    return torch.where(middle, float("nan"), y)


def other_gradient(y):
    """The same values with gradients off by a thousandth, or by a 64th in bfloat16."""
    share = 2**-6 if y.dtype == torch.bfloat16 else 1e-3
    return y + share * (y - y.detach())


def no_gradient(y):
    return y.detach() + 0 * y


def in_outputs(change):
    return lambda function, xs, rest: changed(function(xs, **rest), change)


def in_one_path(change):
    return lambda function, xs, rest: function(changed(xs, change), **rest)


def in_one_parameter(change):
    def fault(function, xs, rest):
        name = "w1" if "w1" in rest else "gates"
        return function(xs, **{**rest, name: change(rest[name])})

    return fault


FAULTS = {
    "a factor": in_outputs(factor),
    "one NaN": in_outputs(nan_in_one_element),
    "the last output's gradient": in_outputs(other_gradient),
    "one path off": in_one_path(factor),
    "one path's gradient": in_one_path(other_gradient),
    "one path without gradient": in_one_path(no_gradient),
    "a parameter's gradient": in_one_parameter(other_gradient),
    "a parameter in bfloat16": in_one_parameter(lambda p: p.to(torch.bfloat16).to(p.dtype)),
}


def plant(operator, fault, monkeypatch, only=None):
    """Makes the operator faulty, if `only` is given for maps x where only(x) holds."""
    function = getattr(eager, operator)

    def faulty(*, xs=None, us=None, **rest):
        paths, name = (us, "us") if xs is None else (xs, "xs")
        if only is not None and not only(paths[0]):
            return function(**{name: paths}, **rest)
        return fault(lambda maps, **rest: function(**{name: maps}, **rest), paths, rest)

    monkeypatch.setattr(selftest.functional, operator, faulty)


def worst(operator):
    return max(selftest.largest_error(operator, p, "cpu") for p in selftest.problems(operator))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operator", selftest.OPERATORS)
def test_a_fault_is_found(operator, fault, monkeypatch):
    plant(operator, FAULTS[fault], monkeypatch)
    assert worst(operator) > 1


@pytest.mark.parametrize("operator", sorted({*selftest.OPERATORS} - {"cross_predict"}))
@pytest.mark.parametrize(
    "only",
    [
        lambda x: x.dtype == torch.bfloat16,
        lambda x: x.dim() == 4 and x.stride(1) == 1,
        lambda x: x.dim() == 2,
    ],
    ids=["bfloat16", "channels_last", "vectors"],
)
@pytest.mark.parametrize("fault", ["a factor", "one NaN", "a parameter's gradient"])
def test_a_fault_in_some_maps_alone_is_found(operator, only, fault, monkeypatch):
    plant(operator, FAULTS[fault], monkeypatch, only)
    assert worst(operator) > 1


@pytest.mark.parametrize("operator", selftest.OPERATORS)
def test_no_fault_passes(operator, monkeypatch):
    plant(operator, lambda function, xs, rest: function(xs, **rest), monkeypatch)
    assert worst(operator) <= 1


def softmax_over_inputs(xs, **parameters):
    gates = eager.gate(xs, **parameters)
    return (gates.log() * 1.001).softmax(1).to(gates.dtype)


def pooled_off_by_a_thousandth(xs, **parameters):
    return eager.gate([x.float() * (1 + 1e-3) for x in xs], **parameters)


def without_gradient_through_gates(xs, **parameters):
    gates = eager.gate(xs, **parameters)
    return eager.mix(xs, gates.detach()), gates


def rounded_too_early(xs, gates):
    return eager.mix(xs, gates.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    "operator, broken",
    [
        ("gate", softmax_over_inputs),
        ("gate", pooled_off_by_a_thousandth),
        ("cross_connect", without_gradient_through_gates),
        ("mix", rounded_too_early),
    ],
)
def test_a_subtle_fault_is_found_in_every_problem(operator, broken, monkeypatch):
    monkeypatch.setattr(selftest.functional, operator, broken)
    for problem in selftest.problems(operator):
        assert selftest.largest_error(operator, problem, "cpu") > 1


@pytest.mark.parametrize("name", OPERATORS)
def test_a_broken_kernel_fails_the_command(name, monkeypatch, capsys):
    """A broken kernel, forward or backward, replaces one in the table of kernels."""
    kernel_of = backend.kernel_of

    def broken_kernel_of(operator, *where):
        kernel = kernel_of(operator, *where)
        if operator != name:
            return kernel

        def broken(*arguments):
            results = kernel(*arguments)
            results[0].mul_(1.001)
            return results

        return broken

    monkeypatch.setattr(backend, "kernel_of", broken_kernel_of)
    monkeypatch.setattr("sys.argv", ["mpkernels", "--self-test", "eager"])
    assert command.main() == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("self-test FAILED: eager on cpu: ")]
    assert [line.split(": ")[2] for line in failed] == [name.removesuffix("_backward")]


def test_operators_without_a_kernel_are_left_out(monkeypatch, capsys):
    of_mix = ("mix", "mix_backward")
    monkeypatch.setattr(backend, "why_not", lambda name, *_: None if name in of_mix else "none")
    assert selftest._check("eager", "cpu")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("self-test passed: eager on cpu: mix: ")


def test_nearness_is_four_times_plain_error_and_a_slack():
    exact, plain = torch.tensor([1.0, 4.0]).double(), torch.tensor([1.0, 4.5]).double()
    for value, near in (
        (6.0, True),
        (6.1, False),
        (2.0, True),
        (1.9, False),
        (float("nan"), False),
    ):
        assert is_near([torch.tensor([1.0, value])], [exact], [plain], 0) == near
    assert is_near([torch.tensor([1.0, 6.1])], [exact], [plain], 0.05)
    assert not is_near([torch.ones(2)], [torch.zeros(2).double()], [torch.zeros(2)], 0.5)
    assert is_near([torch.zeros(2)], [torch.zeros(2).double()], [torch.zeros(2)], 0)
    assert slack(torch.float32, 10**6) > slack(torch.float32, 1)
