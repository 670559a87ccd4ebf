"""Every way to differentiate a function of tensors and to batch it, and their combinations.

Each way is a function of (function, flat): what it differentiates, and its tensors.
"""

from functools import partial

import torch
import torch.autograd.forward_ad as fw
from torch.func import (
    functionalize,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)


def loss(function, *flat):
    return sum((j + 1) * y.pow(2).sum() for j, y in enumerate(function(*flat)))


def every(flat):
    return tuple(range(len(flat)))


def tangents(flat):
    torch.manual_seed(1)
    return tuple(torch.randn_like(t) for t in flat)


def forward_mode(function, flat):
    with fw.dual_level():
        dual = [fw.make_dual(t, d) for t, d in zip(flat, tangents(flat))]
        return [t for y in function(*dual) for t in fw.unpack_dual(y)]


def forward_mode_of_one(function, flat):
    """Only the first tensor has a tangent."""
    with fw.dual_level():
        dual = [fw.make_dual(flat[0], tangents(flat)[0]), *flat[1:]]
        return [t for y in function(*dual) for t in fw.unpack_dual(y) if t is not None]


def forward_over_backward(function, flat):
    with fw.dual_level():
        leaves = [t.detach().clone().requires_grad_() for t in flat]
        dual = [fw.make_dual(t, d) for t, d in zip(leaves, tangents(flat))]
        grads = torch.autograd.grad(loss(function, *dual), leaves)
        return [t for g in grads for t in fw.unpack_dual(g)]


def tangents_in_backward(function, flat):
    """Forward sees no tangents; the gradients that enter backward have them."""
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    with fw.dual_level():
        dual = [fw.make_dual(y.detach().clone(), d) for y, d in zip(ys, tangents(ys))]
        grads = torch.autograd.grad(ys, leaves, dual)
        return [t for g in grads for t in fw.unpack_dual(g)]


def forward_over_double_backward(function, flat):
    with fw.dual_level():
        leaves = [t.detach().clone().requires_grad_() for t in flat]
        dual = [fw.make_dual(t, d) for t, d in zip(leaves, tangents(flat))]
        firsts = torch.autograd.grad(loss(function, *dual), leaves, create_graph=True)
        grads = torch.autograd.grad(sum(g.pow(2).sum() for g in firsts), leaves)
        return [t for g in grads for t in fw.unpack_dual(g)]


def by_jvp(function, flat):
    return jvp(function, tuple(flat), tangents(flat))


def by_linearize(function, flat):
    ys, push = linearize(function, *flat)
    return [ys, push(*tangents(flat))]


def by_vjp(function, flat):
    ys, pull = vjp(function, *flat)
    return [ys, pull(tuple(ys))]


def by_grad(function, flat):
    return grad(partial(loss, function), every(flat))(*flat)


def sum_of_squares(tensors):
    return sum(t.pow(2).sum() for t in tensors)


def grad_of_grad(function, flat):
    def inner(*flat):
        return sum_of_squares(grad(partial(loss, function), every(flat))(*flat))

    return grad(inner, every(flat))(*flat)


def third_grad(function, flat):
    def first(x):
        return loss(function, x, *flat[1:])

    def second(x):
        return grad(first)(x).pow(2).sum()

    return grad(lambda x: grad(second)(x).pow(2).sum())(flat[0])


def grad_over_jvp(function, flat):
    def inner(*flat):
        return sum_of_squares(jvp(function, flat, tangents(flat))[1])

    return grad(inner, every(flat))(*flat)


def jvp_over_grad(function, flat):
    return jvp(grad(partial(loss, function), every(flat)), tuple(flat), tangents(flat))


def jvp_over_jvp(function, flat):
    def inner(*flat):
        return jvp(function, flat, tangents(flat))

    return jvp(inner, tuple(flat), tangents(flat))


def many(flat, which):
    return [torch.stack([t, 2 * t, -t]) if i in which else t for i, t in enumerate(flat)]


def vmap_of_everything(function, flat):
    return vmap(function)(*many(flat, every(flat)))


def vmap_of_the_first(function, flat):
    return vmap(function, (0, *[None] * (len(flat) - 1)))(*many(flat, {0}))


def vmap_of_the_last(function, flat):
    stacked = many(flat, {len(flat) - 1})
    moved = [*stacked[:-1], stacked[-1].movedim(0, -1)]
    return vmap(function, (*[None] * (len(flat) - 1), -1))(*moved)


def vmap_of_vmap(function, flat):
    stacked = many(many(flat, every(flat)), every(flat))
    return vmap(vmap(function))(*stacked)


def vmap_of_grad(function, flat):
    return vmap(grad(partial(loss, function), every(flat)))(*many(flat, every(flat)))


def grad_of_vmap(function, flat):
    def inner(*flat):
        return loss(vmap(function), *flat)

    return grad(inner, every(flat))(*many(flat, every(flat)))


def vmap_of_jvp(function, flat):
    def inner(*flat):
        return jvp(function, flat, tangents(flat))

    return vmap(inner, randomness="same")(*many(flat, every(flat)))


def plain_backward_through_vmap(function, flat):
    leaves = [t.requires_grad_() for t in many(flat, every(flat))]
    return torch.autograd.grad(loss(vmap(function), *leaves), leaves)


def jacobian_by_reverse(function, flat):
    return jacrev(function, every(flat))(*flat)


def jacobian_by_forward(function, flat):
    return jacfwd(function, every(flat))(*flat)


def by_hessian(function, flat):
    return hessian(partial(loss, function), (0, len(flat) - 1))(*flat)


def reverse_over_reverse(function, flat):
    return jacrev(jacrev(partial(loss, function)))(*flat)


def batched_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    cotangents = [torch.stack([y, 2 * y + 1, y * 0]).detach() for y in ys]
    return torch.autograd.grad(ys, leaves, cotangents, is_grads_batched=True)


def batched_second_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    firsts = torch.autograd.grad(loss(function, *leaves), leaves, create_graph=True)
    cotangents = [torch.stack([g, 2 * g + 1]).detach() for g in firsts]
    return torch.autograd.grad(firsts, leaves, cotangents, is_grads_batched=True)


def gradients_of_batched_gradients(function, flat):
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    ys = function(*leaves)
    cotangents = [torch.stack([y, 2 * y + 1]).detach() for y in ys]
    firsts = torch.autograd.grad(ys, leaves, cotangents, is_grads_batched=True, create_graph=True)
    return torch.autograd.grad(sum_of_squares(firsts), leaves, allow_unused=True)


def old_jacobian(function, flat, **options):
    return torch.autograd.functional.jacobian(function, tuple(flat), vectorize=True, **options)


def old_hessian(function, flat):
    return torch.autograd.functional.hessian(
        partial(loss, function), tuple(flat), vectorize=True, outer_jacobian_strategy="forward-mode"
    )


def plain_over_func(function, flat):
    """torch.func.grad within plain autograd."""
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    firsts = grad(partial(loss, function), every(flat))(*leaves)
    return torch.autograd.grad(sum_of_squares(firsts), leaves)


def func_of_dual(function, flat):
    """torch.func.grad within a plain dual level."""
    with fw.dual_level():
        dual = [fw.make_dual(t, d) for t, d in zip(flat, tangents(flat))]
        grads = grad(partial(loss, function), every(flat))(*dual)
        return [t for g in grads for t in fw.unpack_dual(g)]


def by_functionalize(function, flat):
    return functionalize(function)(*flat)


WAYS = [
    forward_mode, forward_mode_of_one, forward_over_backward, tangents_in_backward,
    forward_over_double_backward, by_jvp, by_linearize, by_vjp, by_grad, grad_of_grad, third_grad,
    grad_over_jvp, jvp_over_grad, jvp_over_jvp, vmap_of_everything, vmap_of_the_first,
    vmap_of_the_last, vmap_of_vmap, vmap_of_grad, grad_of_vmap, vmap_of_jvp,
    plain_backward_through_vmap, jacobian_by_reverse, jacobian_by_forward, by_hessian,
    reverse_over_reverse, batched_gradients, batched_second_gradients,
    gradients_of_batched_gradients, old_jacobian, partial(old_jacobian, strategy="forward-mode"),
    old_hessian, plain_over_func, func_of_dual, by_functionalize,
]  # fmt: skip


def flattened(results):
    leaves, _ = torch.utils._pytree.tree_flatten(results)
    return leaves


def assert_same(actual, expected):
    actual, expected = flattened(actual), flattened(expected)
    assert len(actual) == len(expected)
    for f, w in zip(actual, expected):
        if f is None or w is None:  # None may stand for a gradient of zeros
            assert all(t is None or not t.any() for t in (f, w))
            continue
        assert f.shape == w.shape
        error, size = (f - w).detach().abs(), w.detach().abs()
        assert (error <= 2**-53 * 1e6 * size.amax().clamp(min=1)).all() if w.numel() else True


def name_of(way):
    return way.__name__ if hasattr(way, "__name__") else f"{way.func.__name__}_forward"
