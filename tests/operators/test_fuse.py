"""`fuse` and `unfuse`: what they swap, what they say, and routers whose class PyTorch changed."""

import copy
import logging
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrizations, parametrize, prune

import mpkernels as mpk
from mpkernels import eager
from mpkernels.models.training import parallel
from proof.problems.cross_predictions import F64, assert_same


def eager_model():
    return nn.ModuleDict(
        {
            "connect": eager.CrossConnect(4, 2, 3),
            "nested": nn.Sequential(eager.CrossConnect(4, 1, 2, hidden=5, gate_bias=False)),
            "stitch": eager.CrossStitch(2),
            "conv": eager.CrossPredictConv2d(4, 3, 1, 2, 2, batch_norm=True),
            "dense": eager.CrossPredictLinear(4, 3, 2, 2),
            "other": nn.Linear(2, 2),
        }
    )


def kinds(model):
    names = ("connect", "stitch", "conv", "dense")
    return [type(m) for m in (model["nested"][0], *(model[name] for name in names))]


def classes(package):
    first = [package.CrossConnect, package.CrossConnect, package.CrossStitch]
    return [*first, package.CrossPredictConv2d, package.CrossPredictLinear]


class Custom(eager.CrossConnect):
    pass


class CustomFused(mpk.CrossConnect):
    pass


def logged(caplog, swap, model):
    """What a call says in the log; a warning would be an error."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "mpkernels"):
        assert swap(model) is model
    return [(record.name, record.getMessage()) for record in caplog.records]


def warned(swap, model):
    """The one warning of a call, which points at the line of the call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert swap(model) is model
    (warning,) = caught
    assert warning.filename == __file__ and warning.category is UserWarning
    return str(warning.message)


def test_fuse_swaps_in_place_and_unfuse_undoes_it(caplog):
    model = eager_model()
    parameters = {name: id(p) for name, p in model.named_parameters()}
    hook_calls = []
    model["connect"].register_forward_hook(lambda *_: hook_calls.append(1))
    said = "swapped 5 of 5 routers in ModuleDict: "
    said += "'connect', 'nested.0', 'stitch', 'conv', 'dense'"
    assert logged(caplog, mpk.fuse, model) == [("mpkernels.fuse", f"fuse: {said}")]
    assert kinds(model) == classes(mpk)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    xs = [torch.randn(3, 4, 2, 2) for _ in range(2)]
    fused = model["connect"](xs)
    assert logged(caplog, mpk.unfuse, model) == [("mpkernels.fuse", f"unfuse: {said}")]
    assert kinds(model) == classes(eager)
    plain = model["connect"](xs)
    assert hook_calls == [1, 1]
    assert all((f - p).abs().max() <= 64 * 2**-24 * p.abs().max() for f, p in zip(fused, plain))


def test_state_dicts_load_both_ways():
    plain, fused = eager_model(), mpk.fuse(eager_model())
    fused.load_state_dict(plain.state_dict())
    other = eager_model()
    other.load_state_dict(copy.deepcopy(fused.state_dict()))
    for (name, a), (same, b) in zip(plain.state_dict().items(), other.state_dict().items()):
        assert name == same and torch.equal(a, b)


def test_a_model_that_is_a_router_and_one_that_is_used_twice(caplog):
    router = eager.CrossStitch(2)
    twice = nn.ModuleList([router, router])
    ((_, said),) = logged(caplog, mpk.fuse, router)
    assert said == "fuse: swapped 1 of 1 routers in CrossStitch: the model itself"
    assert type(router) is mpk.CrossStitch
    ((_, said),) = logged(caplog, mpk.unfuse, twice)
    assert said == "unfuse: swapped 1 of 1 routers in ModuleList: '0'"


def test_a_warning_says_why_nothing_was_swapped():
    model = eager_model()
    said = "swapped 0 of 5 routers in ModuleDict"
    paths = "'connect', 'nested.0', 'stitch', 'conv', 'dense'"
    assert warned(mpk.unfuse, model) == f"unfuse: {said}; eager already: {paths}"
    mpk.fuse(model)
    assert warned(mpk.fuse, model) == f"fuse: {said}; fused already: {paths}"
    assert kinds(model) == classes(mpk)
    assert warned(mpk.fuse, nn.Linear(2, 2)) == "fuse: found no routers in Linear"
    assert warned(mpk.unfuse, nn.Sequential()) == "unfuse: found no routers in Sequential"


@pytest.mark.parametrize("laid", ["plain", "parametrized"])
def test_subclasses_are_left_by_name(laid):
    model = nn.Sequential(Custom(4, 1, 2), mpk.CrossStitch(2), eager.CrossStitch(2))
    if laid == "parametrized":
        parametrizations.weight_norm(model[0], "w1")
    kind = type(model[0])
    assert warned(mpk.fuse, model) == (
        "fuse: swapped 1 of 3 routers in Sequential: '2'; fused already: '1'; "
        "left: '0' (Custom is a subclass of mpkernels.eager.CrossConnect: "
        "derive it from mpkernels.CrossConnect instead)"
    )
    assert [type(m) for m in model] == [kind, mpk.CrossStitch, mpk.CrossStitch]


def test_subclasses_of_fused_routers_are_fused_and_not_undone():
    model = nn.Sequential(CustomFused(4, 1, 2))
    assert warned(mpk.fuse, model).endswith("0 of 1 routers in Sequential; fused already: '0'")
    assert warned(mpk.unfuse, model) == (
        "unfuse: swapped 0 of 1 routers in Sequential; left: '0' "
        "(CustomFused is a subclass of mpkernels.CrossConnect: "
        "derive it from mpkernels.eager.CrossConnect instead)"
    )
    assert type(model[0]) is CustomFused


@pytest.mark.parametrize("swap", [mpk.fuse, mpk.unfuse])
def test_only_modules_are_taken(swap):
    with pytest.raises(TypeError, match=f"{swap.__name__}: model must be a module, got list"):
        swap([eager.CrossStitch(2)])


class Scaled(nn.Module):
    """A parametrization with a parameter of its own."""

    def __init__(self, like):
        super().__init__()
        self.scale = nn.Parameter(torch.full_like(like, 1.5))

    def forward(self, w):
        return self.scale * w.tanh()


def router_of(kind):
    """A router of each kind, and a tensor to change."""
    if kind == "stitch":
        return eager.CrossStitch(2, dtype=F64), "alpha"
    if kind == "connect":
        return eager.CrossConnect(4, 2, 2, dtype=F64), "w1"
    if kind == "conv":
        router = eager.CrossPredictConv2d(4, 3, 1, 2, 2, batch_norm=True, dtype=F64)
        for norm in router.norms:
            norm.momentum = 0.0  # two outcomes in a row are the same
            norm.running_mean.normal_()
        return router, "weight"
    return eager.CrossPredictLinear(4, 3, 2, 2, dtype=F64), "weight"


KINDS = pytest.mark.parametrize("kind", ["connect", "stitch", "conv", "dense"])
FUSED = {
    "connect": mpk.CrossConnect,
    "stitch": mpk.CrossStitch,
    "conv": mpk.CrossPredictConv2d,
    "dense": mpk.CrossPredictLinear,
}


def outcome(router, xs):
    """Outputs, and the gradients of paths and parameters, in training and in inference."""
    found = []
    for training in (True, False):
        router.train(training)
        leaves = [x.clone().requires_grad_() for x in xs]
        ys = router(leaves)
        sum(y.pow(2).sum() * (j + 1) for j, y in enumerate(ys)).backward()
        found += [*ys, *(t.grad for t in (*leaves, *router.parameters()))]
        router.zero_grad()
    return [t.full_tensor() if isinstance(t, DTensor) else t for t in found]


def paths_of(kind):
    return [torch.randn((5, 4) if kind == "dense" else (5, 4, 3, 3), dtype=F64) for _ in range(2)]


def fused_operators(router, xs):
    """Those that a forward runs."""
    with torch.no_grad(), torch.profiler.profile(acc_events=True) as profile:
        router(xs)
    return [e.key for e in profile.key_averages() if e.key.startswith("mpkernels::")]


def check_swaps(router, kind, xs):
    """Fused, the router is of the fused class and gives what it gave; then back again."""
    before = type(router)
    expected = outcome(router, xs)
    assert mpk.fuse(router) is router
    assert isinstance(router, FUSED[kind]) and type(router).__name__ == before.__name__
    assert_same(outcome(router, xs), expected)
    assert fused_operators(router, xs)
    assert warned(mpk.fuse, router).endswith("; fused already: the model itself")
    mpk.unfuse(router)
    assert not isinstance(router, FUSED[kind]) and type(router).__name__ == before.__name__
    assert_same(outcome(router, xs), expected)
    assert not fused_operators(router, xs)


@pytest.mark.parametrize("how", ["weight_norm", "custom", "both"])
@KINDS
def test_parametrized_routers(kind, how):
    router, name = router_of(kind)
    if how != "custom":
        parametrizations.weight_norm(router, name)
    if how != "weight_norm":
        parametrize.register_parametrization(router, name, Scaled(getattr(router, name)))
    assert type(router).__name__.startswith("Parametrized")
    check_swaps(router, kind, paths_of(kind))


@KINDS
def test_parametrizations_can_be_added_to_and_removed_from_swapped_routers(kind):
    router, name = router_of(kind)
    plain, xs = type(router), paths_of(kind)
    parametrize.register_parametrization(router, name, Scaled(getattr(router, name)))
    mpk.fuse(router)
    assert parametrize.type_before_parametrizations(router) is FUSED[kind]
    other = {"stitch": "beta", "connect": "w2"}.get(kind, "bias")
    if kind == "stitch":  # it has one parameter only
        router.register_parameter(other, nn.Parameter(torch.ones(2, dtype=F64)))
    parametrize.register_parametrization(router, other, Scaled(getattr(router, other)))
    expected = [t.detach() for t in router(xs)]
    parametrize.remove_parametrizations(router, name)
    assert type(router) is not FUSED[kind] and parametrize.is_parametrized(router, other)
    assert_same(router(xs), expected)
    parametrize.remove_parametrizations(router, other)
    assert type(router) is FUSED[kind]
    assert_same(router(xs), expected)
    parametrize.register_parametrization(router, name, Scaled(getattr(router, name)))
    mpk.unfuse(router)
    parametrize.remove_parametrizations(router, name)
    assert type(router) is plain


def test_a_copy_of_a_parametrized_router_is_fused_alone():
    """PyTorch lets the copies of a parametrized module share its class."""
    router = parametrizations.weight_norm(eager.CrossConnect(4, 2, 2, dtype=F64), "w1")
    fused = copy.deepcopy(router)
    assert type(fused) is type(router)
    mpk.fuse(fused)
    again = copy.deepcopy(fused)
    assert not isinstance(router, mpk.CrossConnect)
    assert isinstance(fused, mpk.CrossConnect) and isinstance(again, mpk.CrossConnect)
    xs = paths_of("connect")
    parametrize.remove_parametrizations(fused, "w1")
    assert type(fused) is mpk.CrossConnect
    assert_same(fused(xs), router(xs))
    again.load_state_dict(router.state_dict())


@KINDS
def test_pruned_routers(kind):
    router, name = router_of(kind)
    prune.random_unstructured(router, name, amount=0.5)
    check_swaps(router, kind, paths_of(kind))
    prune.remove(router, name)
    check_swaps(router, kind, paths_of(kind))


@pytest.fixture
def mesh():
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    parallel.finish()


@pytest.mark.parametrize("laid", ["plain", "parametrized"])
@KINDS
def test_fully_sharded_routers(kind, laid, mesh):
    router, name = router_of(kind)
    if laid == "parametrized":
        parametrize.register_parametrization(router, name, Scaled(getattr(router, name)))
    unsharded = type(router)
    fully_shard(router, mesh=mesh)
    check_swaps(router, kind, paths_of(kind))
    # As `fully_shard` makes it: FSDPModule's methods first, then those of the class before.
    assert [c.__name__ for c in type(router).__mro__[1:3]] == ["FSDPModule", unsharded.__name__]


def test_a_sharded_model_with_routers(mesh):
    model = nn.Sequential(eager.CrossConnect(4, 2, 2, dtype=F64), eager.CrossStitch(2, dtype=F64))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    xs = paths_of("connect")
    expected = model(xs)
    mpk.fuse(model)
    assert isinstance(model[0], mpk.CrossConnect) and type(model[1]) is mpk.CrossStitch
    assert isinstance(model, FSDPModule) and isinstance(model[0], FSDPModule)
    assert_same(model(xs), expected)
    custom = fully_shard(Custom(4, 2, 2), mesh=mesh)
    assert "left: the model itself (Custom is a subclass of" in warned(mpk.fuse, custom)
