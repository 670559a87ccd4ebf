"""Gates that a caller or `route` gives a router: what it computes by them, and their gradients."""

import pytest
import torch
from torch import nn

import mpkernels as mpk
from mpkernels import eager
from mpkernels.route import RULES
from proof.problems.routers import ROUTERS, TwoRouters, router_and_paths

KINDS = pytest.mark.parametrize("kinds", [mpk, eager], ids=["fused", "eager"])
OF_ALL = pytest.mark.parametrize("name", ROUTERS)


def sums(name, router, paths, gates):
    """The outputs by their definition, of gates [B, m, n]."""
    if name in ("CrossConnect", "CrossStitch"):
        predictions = [[x] * 3 for x in paths]
    else:
        width = router.weight.shape[1] // 3
        us = [router._predict(x, w) for x, w in zip(paths, router.weight)]
        us = [u + b.view(-1, *[1] * (u.dim() - 2)) for u, b in zip(us, router.bias)]
        predictions = [u.split(width, 1) for u in us]
    shape = (-1, *[1] * (paths[0].dim() - 1))
    ys = [
        sum(gates[:, i, j].view(shape) * p[j] for i, p in enumerate(predictions)) for j in range(3)
    ]
    if name in ("CrossConnect", "CrossStitch"):
        return ys
    return [(norm(y) if router.norms else y).relu() for y, norm in zip(ys, router.norms or ys)]


@KINDS
@OF_ALL
@pytest.mark.parametrize("sizes", [(2, 3), (5, 2, 3)], ids=["one_for_all", "of_each_image"])
def test_outputs_and_gradients_by_given_gates(name, kinds, sizes, backend):
    router, paths = router_and_paths(name, kinds)
    router.double()
    paths = [x.double().requires_grad_() for x in paths]
    gates = torch.rand(sizes, dtype=torch.float64, requires_grad=True)
    ys, used = router(paths, return_gates=True, gates=gates)
    expected = sums(name, router, paths, gates.expand(5, 2, 3))
    assert torch.equal(used, gates.expand(5, 2, 3))
    outer = [torch.randn_like(y) for y in ys]
    leaves = [*paths, gates]
    for pair in (
        (ys, tuple(expected)),
        (torch.autograd.grad(ys, leaves, outer), torch.autograd.grad(expected, leaves, outer)),
    ):
        torch.testing.assert_close(*pair)


@KINDS
@OF_ALL
def test_learned_gates_reproduce_every_bit(name, kinds, backend):
    router, paths = router_and_paths(name, kinds)
    ys, gates = router(paths, return_gates=True)
    again = [forced(router, paths, "learned")]
    if name != "CrossPredictLinear":  # small vectors: one operator otherwise, of other sums
        again += [router(paths, gates=gates), forced(router, paths, gates)]
    for each in again:
        assert all(torch.equal(a, y) for a, y in zip(each, ys))


def forced(router, paths, rule):
    with mpk.route(router, rule):
        return router(paths)


@KINDS
@OF_ALL
def test_rules(name, kinds):
    router, paths = router_and_paths(name, kinds)
    own = router(paths, return_gates=True)[1]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(7))
    expected = {
        "learned": own,
        "mean": own.mean(0).expand(5, 2, 3),
        "uniform": torch.full((5, 2, 3), 1 / 3),
        "shuffled": own[order],
        "argmax": nn.functional.one_hot(own.argmax(2), 3).to(own.dtype),
    }
    assert expected.keys() == RULES.keys()
    given = torch.rand(2, 3)
    rules = [*expected.items(), (given, given.expand(5, 2, 3)), (lambda g: 2 * g, 2 * own)]
    for rule, wanted in rules:
        torch.manual_seed(7)
        with mpk.route(router, rule), mpk.record(router) as recorded:
            gates = router(paths, return_gates=True)[1]
        assert torch.equal(recorded[""].gates, gates)
        torch.testing.assert_close(gates, wanted)
    assert torch.equal(router(paths, return_gates=True)[1], own)


def test_one_router_at_a_time_and_contexts_within_each_other():
    network, x = TwoRouters(), torch.randn(2, 4, 3)
    _, first, second = network(x)
    with mpk.route(network, {"second": "uniform"}):
        _, one, two = network(x)
        assert torch.equal(one, first) and torch.equal(two, torch.full_like(two, 1 / 3))
        with mpk.route(network, "argmax"):
            assert network(x)[2].max() == 1
            own = network.second([x, x], gates=torch.ones(2, 3), return_gates=True)[1]
            assert torch.equal(own, torch.ones(2, 2, 3))  # the call's own gates win
        assert torch.equal(network(x)[2], two)
    assert torch.equal(network(x)[2], second)


@pytest.mark.parametrize("before", [True, False], ids=["compiled_before", "compiled_within"])
@KINDS
def test_compiled_models(kinds, before):
    torch._dynamo.reset()
    network, x = TwoRouters(kinds), torch.randn(3, 4, 5)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    own = [network(x) for _ in range(2)][0]
    if before:
        compiled(x)
    for rule in ("uniform", "argmax", torch.full((3, 1, 2), 0.25)):
        rules = {"first": rule}
        with mpk.route(network, rules):
            expected, actual = network(x), compiled(x)
        for pair in zip(actual, expected):
            torch.testing.assert_close(*pair)
    for pair in zip(compiled(x), own):
        torch.testing.assert_close(*pair)


def test_the_graph_of_a_network_that_nobody_routes_is_as_it_was():
    network, x = TwoRouters().eval(), torch.randn(2, 4, 3)
    plain = torch.export.export(network, (x,)).graph_module.code
    with mpk.route(network, "uniform"):
        assert torch.export.export(network, (x,)).graph_module.code != plain
    assert torch.export.export(network, (x,)).graph_module.code == plain


@KINDS
def test_contexts_left_in_another_order(kinds):
    network, x = TwoRouters(kinds), torch.randn(2, 4, 3)
    own = network(x)[2]
    outer, inner = mpk.route(network, "argmax"), mpk.route(network, "uniform")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert (network(x)[2] == 1 / 3).all()
    inner.__exit__(None, None, None)
    assert torch.equal(network(x)[2], own)


@KINDS
def test_hooks_see_gates_through_a_layer_that_hands_them_on(kinds):
    network, x = TwoRouters(kinds), torch.randn(2, 4, 3)
    value, _, second = network(x)
    tap, seen = nn.Identity(), []
    tap.register_forward_hook(lambda layer, inputs, gates: seen.append(gates))
    with mpk.route(network, {"second": tap}):
        again = network(x)
    assert torch.equal(seen[0], second) and torch.equal(again[0], value)
    (grad,) = torch.autograd.grad(again[0].sum(), seen[0])
    assert grad.count_nonzero() > 0
    handle = tap.register_forward_hook(lambda layer, inputs, gates: torch.zeros_like(gates))
    with mpk.route(network, {"second": tap}):
        assert network(x)[0].count_nonzero() == 0
    handle.remove()


@KINDS
def test_hooks_see_and_change_scores_through_a_layer_between_logarithm_and_softmax(kinds):
    network, x = TwoRouters(kinds), torch.randn(2, 4, 3)
    _, _, second = network(x)
    tap, seen = nn.Identity(), []
    tap.register_forward_hook(lambda layer, inputs, scores: seen.append(scores))

    def by_scores(gates):
        return tap(gates.log()).softmax(2)

    with mpk.route(network, {"second": by_scores}), mpk.record(network) as calls:
        value, _, _ = network(x)
    # Scores are known up to one number of each softmax.
    recorded = calls["second"].scores
    torch.testing.assert_close(
        seen[0] - seen[0].mean(2, True), recorded - recorded.mean(2, True), rtol=1e-5, atol=1e-5
    )
    (grad,) = torch.autograd.grad(value.sum(), seen[0])
    assert grad.count_nonzero() > 0
    torch.testing.assert_close(value, network(x)[0])
    tap.register_forward_hook(lambda layer, inputs, scores: torch.zeros_like(scores))
    with mpk.route(network, {"second": by_scores}):
        changed = network(x)[0]
    with mpk.route(network, {"second": "uniform"}):
        torch.testing.assert_close(changed, network(x)[0])
    assert not torch.allclose(second, second.mean(2, True))


REFUSED = {
    "size": (torch.rand(3, 2), ValueError, r"gates must be \[2, 3\] or \[5, 2, 3\], got \[3, 2\]"),
    "batch": (torch.rand(4, 2, 3), ValueError, r"gates must be \[2, 3\] or \[5, 2, 3\]"),
    "list": ([[1.0]], TypeError, "gates must be a tensor, got list"),
    "device": (torch.rand(2, 3, device="meta"), ValueError, "gates must be on cpu as xs, got meta"),
    "integers": (torch.ones(2, 3, dtype=torch.int64), TypeError, "gates"),
}


@KINDS
@OF_ALL
@pytest.mark.parametrize("what", REFUSED)
def test_gates_that_do_not_fit_are_refused(name, kinds, what):
    router, paths = router_and_paths(name, kinds)
    gates, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        router(paths, gates=gates)
    with pytest.raises(error, match=message), mpk.route(router, lambda own: gates):
        router(paths)


@KINDS
@OF_ALL
def test_bad_paths_are_refused_in_the_routers_terms(name, kinds):
    router, paths = router_and_paths(name, kinds)
    with pytest.raises(ValueError, match=r"xs must hold inputs = 2 paths, got 1"):
        router(paths[:1], gates=torch.rand(2, 3))
    if name != "CrossStitch":
        with pytest.raises(ValueError, match="= 4"):
            router([x[:, :3] for x in paths], gates=torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"xs\[1\]"):
        router([paths[0], paths[1][:2]], gates=torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"xs\[1\]"):
        router([paths[0], paths[1].double()], gates=torch.rand(2, 3))


def test_refusals():
    network = TwoRouters()
    for rules, error, message in (
        ("best", ValueError, "route: a rule must be one of learned, mean, uniform, shuffled, arg"),
        (
            {"third": "mean"},
            ValueError,
            "'third' is no router of the model; its routers: 'first', 'sec",
        ),
        (3, TypeError, "route: a rule must be a name, a tensor or a function, got int"),
    ):
        with pytest.raises(error, match=message), mpk.route(network, rules):
            pass
        assert network.first._rules == ()


def test_stitches_by_channel_take_gates_by_channel():
    stitch, xs = mpk.CrossStitch(2, channels=4), [torch.randn(3, 4, 2) for _ in range(2)]
    ys = stitch(xs, gates=torch.ones(2, 2, 4))
    torch.testing.assert_close(ys[1], xs[0] + xs[1])
    with pytest.raises(ValueError, match=r"gates must be \[2, 2, 4\] or \[3, 2, 2, 4\]"):
        stitch(xs, gates=torch.ones(2, 2))
