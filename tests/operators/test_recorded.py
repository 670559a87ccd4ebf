"""Recorded gates, scores and pooled inputs are those that routers used, whoever runs them."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import mpkernels as mpk
from mpkernels import eager
from proof.problems.routers import ROUTERS, TwoRouters, router_and_paths

KINDS = pytest.mark.parametrize("kinds", [mpk, eager], ids=["fused", "eager"])
OF_ALL = pytest.mark.parametrize("name", ROUTERS)


def scores(router, paths):
    def of_path(i, x):
        hidden = (eager.pool(x) @ router.w1[i].T + router.b1[i]).relu()
        return hidden @ router.w2[i].T + router.b2[i]

    return torch.stack([of_path(i, x) for i, x in enumerate(paths)], 1)


@KINDS
@OF_ALL
def test_what_is_recorded(name, kinds, backend):
    router, paths = router_and_paths(name, kinds)
    with mpk.record(router) as recorded:
        calls = [router([t * x for x in paths], return_gates=True)[1] for t in (1, 2)]
    assert list(recorded) == [""] and len(recorded[""]) == 2
    assert torch.equal(recorded[""].gates, torch.cat(calls))
    assert not recorded[""].gates.requires_grad
    if name == "CrossStitch":
        with pytest.raises(ValueError, match="CrossStitch has no scores"):
            recorded[""].scores  # noqa: B018
        return
    both = [torch.cat([x, 2 * x]) for x in paths]
    pooled = torch.stack([eager.pool(x) for x in both], 1)
    torch.testing.assert_close(recorded[""].pooled, pooled)
    torch.testing.assert_close(recorded[""].scores, scores(router, both).detach())
    torch.testing.assert_close(recorded[""].scores.softmax(-1), recorded[""].gates)
    router(paths)
    assert len(recorded[""]) == 2


@KINDS
def test_gradients_flow_through_what_is_not_detached(kinds):
    router, paths = router_and_paths("CrossConnect", kinds)
    paths = [x.double().requires_grad_() for x in paths]
    router.double()
    leaves = [*paths, *router.parameters()]
    with mpk.record(router, detach=False) as recorded:
        router(paths)
    expected = scores(router, paths)
    pairs = (
        (recorded[""].gates, expected.softmax(-1)),
        (recorded[""].scores, expected),
        (recorded[""].pooled, torch.stack([eager.pool(x) for x in paths], 1)),
    )
    for actual, wanted in pairs:
        grads = (
            torch.autograd.grad(t.sin().sum(), leaves, retain_graph=True, allow_unused=True)
            for t in (actual, wanted)
        )
        torch.testing.assert_close(*grads)


def test_contexts_within_each_other_and_a_router_called_twice():
    router, paths = router_and_paths("CrossConnect", mpk)
    twice = nn.ModuleDict({"a": router, "b": nn.Identity()})
    with mpk.record(twice) as outer:
        router(paths)
        with mpk.record(router) as inner:
            router(paths)
            router(paths)
    assert list(outer) == ["a"] and (len(outer["a"]), len(inner[""])) == (3, 2)
    assert router._listener is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_router_is_recorded_once(reentrant):
    network, x = TwoRouters(), torch.randn(2, 4, 3, requires_grad=True)
    with mpk.record(network) as recorded:
        checkpoint(lambda x: network(x)[0], x, use_reentrant=reentrant).sum().backward()
    assert [len(each) for each in recorded.values()] == [1, 1]


@pytest.mark.parametrize("before", [True, False], ids=["compiled_before", "compiled_within"])
@pytest.mark.parametrize("fullgraph", [True, False])
@KINDS
def test_compiled_models(kinds, before, fullgraph):
    torch._dynamo.reset()
    network, batches = TwoRouters(kinds), [torch.randn(3, 4, 5) for _ in range(2)]
    expected = [network(x) for x in batches]
    compiled = torch.compile(network, backend="aot_eager", fullgraph=fullgraph)
    if before:
        compiled(batches[0])
    with mpk.record(compiled) as recorded:
        for x in batches:
            compiled(x)[0].sum().backward()
    assert list(recorded) == ["first", "second"]
    for at, each in enumerate(recorded.values(), 1):
        torch.testing.assert_close(each.gates, torch.cat([e[at] for e in expected]).detach())
        assert each.scores.shape == each.gates.shape
    compiled(batches[0])
    assert len(recorded["first"]) == 2


def compiled_in_place(network, **options):
    network.compile(**options)
    return network


COMPILERS = pytest.mark.parametrize("compiler", [torch.compile, compiled_in_place])


@COMPILERS
def test_what_a_compiled_model_returns_is_copied(compiler):
    compiled = compiler(TwoRouters(), backend="eager")
    with mpk.record(compiled) as recorded:
        gates = compiled(torch.randn(3, 4, 5))[1]
        kept = gates.clone()
        gates.detach().zero_()  # as the next replay of a CUDA graph would
    assert torch.equal(recorded["first"].gates, kept)


@COMPILERS
@pytest.mark.parametrize("one_by_one", [False, True])
def test_two_graphs_serve_all_calls_and_contexts(compiler, one_by_one):
    torch._dynamo.reset()
    made, taken = [], []

    def backend(graph, inputs):
        made.append(graph)
        return graph

    def take(name, call):
        taken.append(len(taken))

    compiled = compiler(TwoRouters(), backend=backend, fullgraph=True)
    x, kept = torch.randn(3, 4, 5), 0
    for _ in range(12):
        with mpk.record(compiled, take=take if one_by_one else None) as recorded:
            for _ in range(3):
                compiled(x)
        kept += len(recorded["first"]) + len(recorded["second"])
        compiled(x)
    assert len(made) == 2
    assert len(taken) == (72 if one_by_one else 0) and kept == 72 - len(taken)


@KINDS
@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "CrossStitch"])
@pytest.mark.parametrize("detach", [True, False])
def test_under_autocast(name, kinds, detach):
    router, paths = router_and_paths(name, kinds)
    with torch.autocast("cpu", torch.bfloat16), mpk.record(router, detach=detach) as recorded:
        router(paths)
    torch.testing.assert_close(recorded[""].scores.softmax(-1), recorded[""].gates)


def test_gradients_through_a_checkpointed_router():
    network, x = TwoRouters(), torch.randn(2, 4, 3, requires_grad=True)

    def grads(run):
        with mpk.record(network, detach=False) as recorded:
            run()
            loss = sum(
                each.scores.sin().sum() + each.gates.cos().sum() for each in recorded.values()
            )
            loss.backward()
        found = [x.grad.clone(), *(p.grad.clone() for p in network.parameters())]
        x.grad = None
        network.zero_grad()
        return found

    plain = grads(lambda: network(x))
    again = grads(lambda: checkpoint(lambda x: network(x)[0], x, use_reentrant=False))
    torch.testing.assert_close(again, plain)


def test_copies_and_files_hold_nothing_of_open_contexts(tmp_path):
    router, paths = router_and_paths("CrossConnect", mpk)
    with mpk.record(router) as recorded, mpk.route(router, "uniform"):
        copied = copy.deepcopy(router)
        torch.save(router, tmp_path / "router.pt")
        loaded = torch.load(tmp_path / "router.pt", weights_only=False)
        for other in (copied, loaded):
            gates = other(paths, return_gates=True)[1]
            assert not (gates == 1 / 3).all()
        assert len(recorded[""]) == 0


def test_the_name_of_a_compiled_router_itself():
    router, paths = router_and_paths("CrossConnect", mpk)
    compiled = torch.compile(router, backend="eager")
    with mpk.record(compiled) as recorded, mpk.route(compiled, {"": "uniform"}):
        compiled(paths)
    assert (recorded[""].gates == 1 / 3).all()


def test_off_it_leaves_the_graph_as_it_is():
    network, x = TwoRouters().eval(), torch.randn(2, 4, 3)

    def graph():
        return torch.export.export(network, (x,)).graph_module.code

    plain = graph()
    with mpk.record(network):
        network(x)
    assert graph() == plain and "linear" not in plain


def test_calls_may_be_taken_one_by_one():
    network, x, taken = TwoRouters(), torch.randn(2, 4, 3), []
    with (
        mpk.route(network, "uniform"),
        mpk.record(network, take=lambda name, call: taken.append((name, call))) as recorded,
    ):
        network(x)
    assert [name for name, _ in taken] == ["first", "second"]
    assert all(set(call) == {"gates", "scores", "pooled"} for _, call in taken)
    assert (taken[1][1]["gates"] == 1 / 3).all()  # those that were used
    assert [len(each) for each in recorded.values()] == [0, 0]


def test_refusals():
    message = "record: model must be a module, got list"
    with pytest.raises(TypeError, match=message), mpk.record([]):
        pass
    with mpk.record(TwoRouters()) as recorded:
        pass
    with pytest.raises(ValueError, match="the router was not called"):
        recorded["first"].gates  # noqa: B018
