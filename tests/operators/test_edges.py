"""Calls at the edges: lazy tensors, infinities, odd strides, refusals, too little memory."""

import math

import pytest
import torch

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.ops.onchip import run_on
from mpkernels.selftest import ARGUMENTS, OPERATORS
from proof.problems import calls

INF = math.inf


def randn(*shape):
    return torch.randn(shape)


def leaves_of(name):
    """All tensors of a function, of which the first two are paths."""
    sizes = {"B": 3, "C": 4, "m": 2, "n": 2, "K": 8, "D": 3}
    paths, *rest = calls.random_arguments(name, sizes, (5, 2)).values()
    return [*paths, *rest]


def results(module, name, leaves, grad_outputs):
    leaves = [t.detach().requires_grad_() for t in leaves]
    outputs = calls.call(name, module, leaves[:2], leaves[2:])
    grads = grad_outputs(outputs)
    pairs = [(y, g) for y, g in zip(outputs, grads) if g is not None]
    torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
    return [*outputs, *(t.grad for t in leaves)]


def compare(name, leaves, grad_outputs):
    fused = results(functional, name, leaves, grad_outputs)
    reference = results(eager, name, leaves, grad_outputs)
    for actual, expected in zip(fused, reference):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


functions = pytest.mark.parametrize("name", OPERATORS)


def zero(t):
    return torch._efficientzerotensor(tuple(t.shape), dtype=t.dtype)


def negated(t):
    return torch._neg_view(-t.detach())


LAZY = {"zero": zero, "negated": negated}


@pytest.mark.parametrize("lazy", LAZY)
@functions
def test_lazy_gradients(name, lazy):
    """Lazy zeros have no memory, and the memory of a negated view holds the opposite sign."""

    def grads(outputs):
        torch.manual_seed(1)
        return [LAZY[lazy](randn(*y.shape)) for y in outputs]

    compare(name, leaves_of(name), grads)

    def mixed(outputs):
        return [g if j == 0 else g + 1.0 for j, g in enumerate(grads(outputs))]

    compare(name, leaves_of(name), mixed)


@pytest.mark.parametrize("lazy", LAZY)
@functions
def test_lazy_arguments(name, lazy):
    leaves = leaves_of(name)
    for index in range(len(leaves)):
        changed = [LAZY[lazy](t) if q == index else t for q, t in enumerate(leaves)]
        with torch.no_grad():
            actual = calls.call(name, functional, changed[:2], changed[2:])
            expected = calls.call(name, eager, changed[:2], changed[2:])
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@functions
def test_gradients_in_different_layouts(name):
    """Each output's gradient has its own strides, or is absent."""

    def grads(outputs):
        torch.manual_seed(2)
        grads = [randn(*y.shape) for y in outputs]
        if outputs[0].dim() == 4:
            grads[0] = grads[0].contiguous(memory_format=torch.channels_last)
        if len(outputs) > 1:
            y = outputs[1]
            grads[1] = randn(1, *y.shape[1:]).expand(y.shape)
        return grads

    for leaves in (leaves_of(name), [channels_last(t) for t in leaves_of(name)]):
        compare(name, leaves, grads)
        compare(name, leaves, lambda outputs: [*grads(outputs)[:1], *[None] * (len(outputs) - 1)])


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def test_biases_are_added_to_predictions_before_the_gates():
    """g (U + b), not g U + g b, which would be [nan, inf]."""
    us, gates, bias = (
        [torch.tensor([[2.0, 2.0]])],
        torch.tensor([[[INF]]]),
        torch.tensor([[-1, 1.0]]),
    )
    assert functional.combine(us, gates, bias, False)[0].tolist() == [[INF, INF]]


@pytest.mark.parametrize("inputs", [1, 2, 5])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "vector"])
@pytest.mark.parametrize("value", [INF, -INF, math.nan, 1e30, 1e20])
def test_combine_of_extreme_values(value, layout, inputs):
    """Infinities and NaN are where eager has them, and cancellation leaves what eager leaves."""
    shape = (2, 6) if layout == "vector" else (2, 6, 3, 3)
    us, bias = [randn(*shape) for _ in range(inputs)], randn(inputs, 6)
    gates, scale, shift = torch.rand(2, inputs, 3), torch.rand(3, 2), randn(3, 2)
    for leaf, index in [(us[0], 0), (bias, 0), (gates, 1), (scale, 0), (shift, 1)]:
        leaf.flatten()[index] = value
        if leaf is bias and math.isfinite(value):
            us[0][:, 0] = -value  # cancels the bias
    leaves = [channels_last(u) if layout == "channels_last" else u for u in us]
    leaves += [gates, bias, scale, shift]
    outputs = {}
    for module in (functional, eager):
        torch.manual_seed(3)
        own = [
            t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in leaves
        ]
        ys = module.combine(own[:inputs], *own[inputs : inputs + 2], True, *own[inputs + 2 :])
        torch.autograd.backward(ys, [randn(*y.shape) for y in ys])
        outputs[module] = [*ys, *(t.grad for t in own)]
    # The bias's gradient is g scale sum D; eager instead sums g scale D, which overflows earlier.
    skipped = None if abs(value) < 1e29 else len(ys) + inputs + 1
    for index, (actual, expected) in enumerate(zip(outputs[functional], outputs[eager])):
        if index == skipped:
            continue
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("size", [50.0, 1e3, 1e30])
@functions
def test_large_logits(name, size):
    """The softmax subtracts its maximum: e^1000 would be infinite."""
    if "b2" not in ARGUMENTS[name]:
        pytest.skip("has no gate MLP")
    leaves = leaves_of(name)
    leaves[1 + [*ARGUMENTS[name]].index("b2")] = torch.tensor([[size, -size], [size, size]])
    compare(name, leaves, lambda ys: [torch.ones_like(y) for y in ys])
    gates = calls.call(name, functional, leaves[:2], leaves[2:])[-1]
    assert gates.isfinite().all()
    torch.testing.assert_close(gates[:, 0], torch.tensor([[1.0, 0.0]]).expand(3, 2))


@pytest.mark.parametrize("dims", [3, 4, 5])
def test_strides_of_dimensions_of_size_one_say_nothing(dims):
    """A sequence as a map [B, C, L, 1] is channels_last, as PyTorch has it."""
    sequence = randn(2, 6, 4).transpose(1, 2)
    x = sequence[(...,) + (None,) * (dims - 3)]
    for y in functional.mix([x, x], torch.rand(2, 2, 2)):
        assert y.transpose(1, -1 if dims == 3 else 2).flatten(2).is_contiguous()
    leaf = x.detach().requires_grad_()
    torch.autograd.backward(mpk.CrossConnect(4, 1, 2)(leaf), [randn(*x.shape)] * 2)
    assert leaf.grad.stride(1) == 1
    wide = randn(2, 4, 1, 6)  # one row, in NCHW
    assert functional.mix(wide, torch.rand(2, 1, 1))[0].is_contiguous()


@functions
def test_refused_calls_keep_nothing(name):
    """A call that C++ refuses releases all of its arguments."""
    leaves = leaves_of(name)
    operator = getattr(torch.ops.mpkernels, name)
    for index in range(len(leaves)):
        arguments = [t.int() if i == index else t.clone() for i, t in enumerate(leaves)]
        xs = [arguments.pop(0), arguments.pop(0)]
        handles = [t.untyped_storage()._weak_ref() for t in (*xs, arguments[0])]
        with pytest.raises((RuntimeError, TypeError)):
            operator(xs, *calls.packed(name, arguments))
        del xs, arguments
        freed = [torch.UntypedStorage._expired(handle) for handle in handles]
        for handle in handles:
            torch.UntypedStorage._free_weak_ref(handle)
        assert all(freed)


def test_too_little_memory_is_said_in_bytes():
    """The message has the words of PyTorch's allocator, which tools look for, and no build path."""
    x = torch.zeros(1).expand(1 << 20, 1 << 25)
    with pytest.raises(
        RuntimeError, match="can't allocate memory: you tried to allocate"
    ) as caught:
        functional.mix([x], torch.ones(1).expand(1 << 20, 1, 2))
    assert str(4 << 45) in str(caught.value)
    assert "csrc" not in str(caught.value)


def test_torch_repeats_an_allocation_that_failed_in_cuda_kernels():
    """The error raised is then torch's own, for that device."""
    size = 1 << 50

    def operator(value):
        raise RuntimeError(f"mpkernels: torch did not allocate {size} bytes on the device")

    with pytest.raises(RuntimeError, match=f"you tried to allocate {size} bytes") as caught:
        run_on(torch.device("cpu"), operator, 3)
    assert "mpkernels" not in str(caught.value)
    calls = []

    def once(value):
        calls.append(value)
        if len(calls) == 1:
            raise RuntimeError("mpkernels: torch did not allocate 64 bytes on the device")
        return value

    assert run_on(torch.device("cpu"), once, 3) == 3
    with pytest.raises(RuntimeError, match="another"):
        run_on(torch.device("cpu"), lambda: (_ for _ in ()).throw(RuntimeError("another")))
