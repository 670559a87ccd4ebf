"""Every function refuses by name whatever is not a dense tensor of floats, on every backend."""

import re

import numpy as np
import pytest
import torch

import mpkernels as mpk
from mpkernels import functional
from mpkernels.selftest import OPERATORS, flat
from proof.problems import calls

BATCH, CHANNELS, M, N = 2, 4, 2, 3
SIZES = {"B": BATCH, "C": CHANNELS, "m": M, "n": N, "K": 5, "D": 2}
CALLS = {name: calls.random_arguments(name, SIZES, random=torch.rand) for name in OPERATORS}
GATE = {name: CALLS["gate"][name] for name in ("w1", "b1", "w2", "b2")}
XS, GATES = CALLS["mix"].values()
PATHS = ("xs", "us")
DENSE = "must be a dense tensor, got "
DTYPE = "must be float32, float64, bfloat16 or float16, got torch."

# Kind -> how to make one from a tensor, and the error message.
# Of torch, once per process: of whichever test first makes such a tensor.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.sparse|.*Sparse|.*nested tensor|.*quantize")
KINDS = {
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), DENSE + "a nested one"),
    "jagged": (
        lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
        DENSE + "a nested one",
    ),
    "coo": (lambda t: t.to_sparse(), DENSE + "one of layout torch.sparse_coo"),
    "csr": (lambda t: t.to_sparse_csr(), DENSE + "one of layout torch.sparse_csr"),
    "csc": (lambda t: t.to_sparse_csc(), DENSE + "one of layout torch.sparse_csc"),
    "bsr": (lambda t: t.to_sparse_bsr((1, 1)), DENSE + "one of layout torch.sparse_bsr"),
    "bsc": (lambda t: t.to_sparse_bsc((1, 1)), DENSE + "one of layout torch.sparse_bsc"),
    "mkldnn": (lambda t: t.to_mkldnn(), DENSE + "one of layout torch._mkldnn"),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
        DTYPE + "quint8",
    ),
    "complex": (lambda t: t.to(torch.complex64), DTYPE + "complex64"),
    "int64": (lambda t: t.long(), DTYPE + "int64"),
    "uint8": (lambda t: t.byte(), DTYPE + "uint8"),
    "bool": (lambda t: t.bool(), DTYPE + "bool"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), DTYPE + "float8_e4m3fn"),
    "uninitialized": (
        lambda t: torch.nn.parameter.UninitializedParameter(),
        "must be a tensor, got an uninitialized parameter",
    ),
    "numpy": (lambda t: t.numpy(), "must be a tensor, got ndarray"),
    "list": (lambda t: t.tolist(), "must be a tensor, got list"),
    "number": (lambda t: 2.0, "must be a tensor, got float"),
}
BACKENDS = ("auto", "native", "eager", "triton")


@pytest.fixture(params=BACKENDS)
def any_backend(request):
    """Each backend, even one that cannot run here: arguments are checked before it is reached."""
    with mpk.use_backend(request.param):
        yield request.param


def bad_arguments(named, argument, make):
    """Pairs (bad argument, all arguments); of two paths the first, the last and both are bad."""
    if argument not in PATHS:
        yield argument, {**named, argument: make(named[argument])}
        return
    first, last = named[argument]
    for index, bad in ((0, [make(first), last]), (1, [first, make(last)])):
        yield f"{argument}[{index}]", {**named, argument: bad}
    yield f"{argument}[0]", {**named, argument: [make(first), make(last)]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_by_name(name, kind, any_backend):
    assert_refused(name, kind)


def assert_refused(name, kind):
    make, message = KINDS[kind]
    for argument in CALLS[name]:
        for where, bad in bad_arguments(CALLS[name], argument, make):
            with pytest.raises(TypeError, match=re.escape(f"{name}: {where} {message}")):
                getattr(functional, name)(**bad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_autocast_makes_nothing_legal(name, kind):
    with torch.autocast("cpu", torch.bfloat16):
        assert_refused(name, kind)


@pytest.mark.parametrize("name", CALLS)
def test_tensors_of_another_device(name, any_backend):
    for argument in CALLS[name]:
        for where, bad in bad_arguments(CALLS[name], argument, lambda t: t.to("meta")):
            if where.endswith("[0]"):  # the later tensors are then those on another device
                where = r"\w+(\[1\])?"
            where = where.replace("us[1]", r"us\[1\]").replace("xs[1]", r"xs\[1\]")
            with pytest.raises(ValueError, match=f"^{name}: {where} must be on"):
                getattr(functional, name)(**bad)


def test_tensors_without_storage_stay_legal():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {
            name: {k: [mode.from_tensor(t) for t in v] if k in PATHS else mode.from_tensor(v)
                   for k, v in named.items()}
            for name, named in CALLS.items()
        }  # fmt: skip
        for name, named in fake.items():
            getattr(functional, name)(**named)
    for name, named in CALLS.items():
        meta = {
            k: [t.to("meta") for t in v] if k in PATHS else v.to("meta") for k, v in named.items()
        }
        getattr(functional, name)(**meta)
    gradients = torch.func.grad(lambda x: functional.mix([x, XS[1]], GATES)[0].sum())(XS[0])
    assert gradients.shape == XS[0].shape


# Kind of argument in place of a list of tensors -> how to make it, and the error.
LISTS = {
    "none": (lambda xs: None, "must be a tensor or a list of tensors, got NoneType"),
    "number": (lambda xs: 3, "must be a tensor or a list of tensors, got int"),
    "text": (lambda xs: "xs", "must be a tensor or a list of tensors, got str"),
    "dict": (lambda xs: dict(enumerate(xs)), "must be a tensor or a list of tensors, got dict"),
    "set": (lambda xs: set(xs), "must be a tensor or a list of tensors, got set"),
    "array": (
        lambda xs: np.stack([x.numpy() for x in xs]),
        "must be a tensor or a list of tensors, got a NumPy array",
    ),
    "lists": (lambda xs: [list(xs), list(xs)], r"\[0\] must be a tensor, got list"),
    "arrays": (lambda xs: [x.numpy() for x in xs], r"\[0\] must be a tensor, got ndarray"),
    "nothing": (lambda xs: [], "must hold at least one path, got none"),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_list_of_tensors(name, kind, any_backend):
    make, message = LISTS[kind]
    argument = next(iter(CALLS[name]))
    with pytest.raises((TypeError, ValueError), match=f"^{name}: {argument} ?{message}"):
        getattr(functional, name)(**{**CALLS[name], argument: make(CALLS[name][argument])})


@pytest.mark.parametrize("name", CALLS)
def test_whatever_holds_tensors_in_order_is_fine(name):
    argument = next(iter(CALLS[name]))
    xs = CALLS[name][argument]
    call = getattr(functional, name)
    expected = flat(call(**CALLS[name]))
    for same in (tuple(xs), iter(xs), (x for x in xs), dict(enumerate(xs)).values(),
                 torch.stack(xs).unbind(), torch.nn.ParameterList(xs)):  # fmt: skip
        actual = flat(call(**{**CALLS[name], argument: same}))
        assert all(map(torch.equal, actual, expected)) and len(actual) == len(expected)


MAP = (BATCH, CHANNELS, 3, 5)
HINTS = [
    (torch.zeros(M, BATCH, CHANNELS, 3, 5),
     "xs must hold m = 2 paths as w1 [m, K, C], got 1; for a stack [m, B, C, *spatial] pass "
     "xs.unbind()"),
    (torch.zeros(7, M, CHANNELS, 3, 5),
     "xs must hold m = 2 paths as w1 [m, K, C], got 1; for a stack [B, m, C, *spatial] pass "
     "xs.unbind(1)"),
    ([torch.zeros(MAP)], "xs must hold m = 2 paths as w1 [m, K, C], got 1"),
    ([torch.zeros(MAP)] * 3, "xs must hold m = 2 paths as w1 [m, K, C], got 3"),
    ([torch.zeros(4, 8, 6, 6)] * 2,
     "xs[0] must have C = 4 channels as w1 [m, K, C], got 8 in [4, 8, 6, 6]"),
    ([torch.zeros(BATCH, 7, CHANNELS)] * 2,
     "xs[0] must have C = 4 channels as w1 [m, K, C], got 7 in [2, 7, 4]; for tokens [B, T, C] "
     "pass x.transpose(1, 2)"),
    ([torch.zeros(BATCH, 3, 5, CHANNELS)] * 2,
     "xs[0] must have C = 4 channels as w1 [m, K, C], got 3 in [2, 3, 5, 4]; for "
     "[B, *spatial, C] pass x.movedim(-1, 1)"),
    ([torch.zeros(CHANNELS)] * 2,
     "xs[0] must be [B, C, *spatial] or [B, C], got [4]; for one vector [C] pass "
     "xs[0].unsqueeze(0)"),
    ([torch.zeros(())] * 2, "xs[0] must be [B, C, *spatial] or [B, C], got []"),
]  # fmt: skip


@pytest.mark.parametrize("xs, message", HINTS, ids=lambda value: str(value)[-24:])
@pytest.mark.parametrize("name", ["cross_connect", "gate"])
def test_shapes_name_the_paths_and_tell_what_is_meant(name, xs, message, any_backend):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name}: {message}')}$"):
        getattr(functional, name)(xs, **GATE)


def test_a_stack_for_given_gates(any_backend):
    for call in (functional.mix, functional.combine):
        us = call is functional.combine
        stack = torch.zeros(M, BATCH, 6, 3, 3)
        with pytest.raises(ValueError, match=rf"pass {'us' if us else 'xs'}.unbind\(\)$"):
            call(stack, GATES)


MODULES = [
    (mpk.CrossConnect, (CHANNELS, M, N), "xs[0] must have channels = 4, got 7 in"),
    (mpk.eager.CrossConnect, (CHANNELS, M, N), "xs[0] must have channels = 4, got 7 in"),
    (mpk.CrossStitch, (N, M, CHANNELS), "xs[0] must have channels = 4, got 7 in"),
    (mpk.eager.CrossStitch, (N, M, CHANNELS), "xs[0] must have channels = 4, got 7 in"),
    (mpk.CrossPredictConv2d, (CHANNELS, 3, 1, M, N),
     "xs[0] must be [B, C, H, W] with C = in_channels = 4, got"),
    (mpk.eager.CrossPredictConv2d, (CHANNELS, 3, 1, M, N),
     "xs[0] must be [B, C, H, W] with C = in_channels = 4, got"),
    (mpk.CrossPredictLinear, (CHANNELS, 3, M, N),
     "xs[0] must be [B, C] with C = in_features = 4, got"),
    (mpk.eager.CrossPredictLinear, (CHANNELS, 3, M, N),
     "xs[0] must be [B, C] with C = in_features = 4, got"),
]  # fmt: skip
ROUTERS = pytest.mark.parametrize("module, sizes, wrong", MODULES, ids=lambda v: str(v)[8:44])


def shape_for(module, channels):
    return (BATCH, channels) if "Linear" in module.__name__ else (BATCH, channels, 5, 5)


@ROUTERS
def test_modules_say_it_in_their_terms(module, sizes, wrong, any_backend):
    router = module(*sizes)
    with pytest.raises(ValueError, match=re.escape(wrong)):
        router([torch.zeros(shape_for(module, 7))] * M)
    good = torch.zeros(shape_for(module, CHANNELS))
    message = "xs must hold inputs = 2 paths, got 1; for a stack [m, B, C, *spatial] pass"
    with pytest.raises(ValueError, match=re.escape(message)):
        router(torch.stack([good] * M))
    for kind, (make, message) in KINDS.items():
        if good.dim() > 2 and kind.startswith(("cs", "bs", "mkldnn")):
            continue
        with pytest.raises(TypeError, match=re.escape(f"xs[1] {message}")):
            router([good, make(good)])
        with pytest.raises(TypeError, match=re.escape(f"xs[0] {message}")):
            router([make(good), good])
    for make, message in LISTS.values():
        message = message.replace("at least one path, got none", "inputs = 2 paths, got 0")
        with pytest.raises((TypeError, ValueError), match=f"^xs ?{message}"):
            router(make([good.clone(), good.clone()]))


@ROUTERS
def test_tokens(module, sizes, wrong):
    if "Predict" in module.__name__:
        return
    tokens = [torch.zeros(BATCH, 7, CHANNELS)] * M
    with pytest.raises(ValueError, match=r"for tokens \[B, T, C\] pass x.transpose\(1, 2\)$"):
        module(*sizes)(tokens)
