"""Changes that users make to a router's batch norms, and whether the norms still fold."""

import types

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

F64 = torch.float64
BATCH_NORMS = {"conv": nn.BatchNorm2d, "linear": nn.BatchNorm1d}


class Act(nn.Module):
    def forward(self, x):
        return super().forward(x).tanh()


class Act2d(Act, nn.BatchNorm2d):
    pass


class Act1d(Act, nn.BatchNorm1d):
    pass


class Silent2d(nn.BatchNorm2d):
    """Differs in its name only, but a router cannot know that."""


class Silent1d(nn.BatchNorm1d):
    """The same for vectors."""


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


class Tagged(torch.Tensor):
    """A tensor subclass; torch functions on it go through its __torch_function__."""


def with_norms(router, make):
    norms = nn.ModuleList(make(5) for _ in router.norms).to(F64).train(router.training)
    for old, new in zip(router.norms, norms):
        state = {k: v for k, v in old.state_dict().items() if k in new.state_dict()}
        new.load_state_dict(state, strict=False)
    router.norms = norms


def kind_of(router):
    return "conv" if router.weight.dim() == 5 else "linear"


def of_kind(two, one):
    return lambda router: with_norms(router, two if kind_of(router) == "conv" else one)


def options(**named):
    def change(router):
        with_norms(router, lambda size: BATCH_NORMS[kind_of(router)](size, **named))

    return change


def forward_of_an_instance(router):
    norm = router.norms[1]
    norm.forward = lambda x: type(norm).forward(norm, x).tanh()


def call_of_an_instance(router):
    norm = router.norms[1]
    norm._call_impl = lambda x: type(norm)._call_impl(norm, x) + 1


def bound_forward(router):
    norm = router.norms[0]
    norm.forward = types.MethodType(lambda self, x: x * self.weight.sum(), norm)


def hook(register, *arguments, **named):
    def change(router):
        getattr(router.norms[1], register)(*arguments, **named)

    return change


def plain_weight(router):
    norm = router.norms[0]
    weight = norm.weight.detach() * 3
    del norm.weight
    norm.weight = weight


def tagged_weight(router):
    weight = router.norms[0].weight
    weight.data = weight.data * 2
    router.norms[0].weight = nn.Parameter(weight.detach().as_subclass(Tagged))


def parametrized(router):
    parametrize.register_parametrization(router.norms[0], "weight", Twice())


def weight_norm(router):
    parametrizations.weight_norm(router.norms[1], dim=None)


def differing_eps(router):
    router.norms[1].eps = 0.1


def no_bias(router):
    for norm in router.norms:
        norm.bias = None


def one_without_bias(router):
    router.norms[0].bias = None


def no_weight(router):
    for norm in router.norms:
        norm.weight = None


def untracked_later(router):
    for norm in router.norms:
        norm.track_running_stats = False


def one_in_training(router):
    router.norms[1].train(not router.training)


def learned_statistics(router):
    for norm in router.norms:
        norm.running_mean.requires_grad_()


def scaled(self_or_module, inputs, *rest):
    return rest[-1].tanh() if len(rest) else None


def no_memory(router):
    for norm in router.norms:
        norm.momentum = None


def shared(router):
    router.norms[1] = router.norms[0]


# Name -> (change to the router, whether its norms are folded in eval mode).
CHANGES = {
    "nothing": (lambda router: None, True),
    "not_affine": (options(affine=False), True),
    "cumulative": (options(momentum=None), True),
    "cumulative_later": (no_memory, True),
    "sync": (of_kind(nn.SyncBatchNorm, nn.SyncBatchNorm), True),
    "no_bias": (no_bias, True),
    "no_weight": (no_weight, True),
    "untracked_later": (untracked_later, True),
    "shared": (shared, True),
    "untracked": (options(track_running_stats=False), False),
    "subclass": (of_kind(Act2d, Act1d), False),
    "silent_subclass": (of_kind(Silent2d, Silent1d), False),
    "forward_of_an_instance": (forward_of_an_instance, False),
    "bound_forward": (bound_forward, False),
    "call_of_an_instance": (call_of_an_instance, False),
    "forward_hook": (hook("register_forward_hook", scaled), False),
    "forward_hook_always": (hook("register_forward_hook", scaled, always_call=True), False),
    "forward_hook_kwargs": (
        hook("register_forward_hook", lambda m, x, k, y: y.tanh(), with_kwargs=True),
        False,
    ),
    "pre_hook": (hook("register_forward_pre_hook", lambda m, x: (2 * x[0],)), False),
    "pre_hook_kwargs": (
        hook("register_forward_pre_hook", lambda m, x, k: ((2 * x[0],), k), with_kwargs=True),
        False,
    ),
    "backward_hook": (
        hook("register_full_backward_hook", lambda m, gi, go: (2 * gi[0],)),
        False,
    ),
    "backward_pre_hook": (
        hook("register_full_backward_pre_hook", lambda m, g: (3 * g[0],)),
        False,
    ),
    "plain_weight": (plain_weight, False),
    "tagged_weight": (tagged_weight, False),
    "parametrized": (parametrized, False),
    "weight_norm": (weight_norm, False),
    "differing_eps": (differing_eps, False),
    "one_without_bias": (one_without_bias, False),
    "one_in_training": (one_in_training, False),
    "learned_statistics": (learned_statistics, False),
    "instance_norm": (of_kind(nn.InstanceNorm2d, nn.LayerNorm), False),
    "identity": (of_kind(lambda size: nn.Identity(), lambda size: nn.Identity()), False),
    "of_another_dimension": (of_kind(nn.BatchNorm3d, nn.BatchNorm2d), False),
}
