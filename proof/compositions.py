"""Random compositions of the transforms of torch.func, by a seed.

A transform takes a function of tensors that returns tensors, and returns such a function.
"""

import random

import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from proof.transforms import loss

MEMBERS = 2


def direction(t):
    """A tangent that depends on the shape alone: both sides of a comparison have the same."""
    return torch.arange(t.numel(), dtype=t.dtype).cos().view(t.shape)


def of_gradients(function, draw, count):
    places = tuple(sorted(draw.sample(range(count), draw.randint(1, count))))
    return lambda *flat: grad(lambda *given: loss(function, *given), places)(*flat)


def of_members(function, draw, count):
    mapped = draw.sample(range(count), draw.randint(1, count))

    def of_all(*flat):
        dims = tuple(0 if i in mapped else None for i in range(count))
        members = [
            t if dim is None else torch.stack([t, t * 0.7 + 0.1]) for t, dim in zip(flat, dims)
        ]
        return vmap(function, dims)(*members)

    return of_all


def of_tangents(function, draw, count):
    def both(*flat):
        ys, tangents = jvp(function, flat, tuple(map(direction, flat)))
        return (*ys, *tangents)

    return both


def _jacobian(transform):
    def of_sums(function, draw, count):
        place = draw.randrange(count)

        def sums(*flat):
            return torch.stack([y.square().sum() for y in function(*flat)])

        return lambda *flat: (transform(sums, place)(*flat),)

    return of_sums


TRANSFORMS = {
    "grad": of_gradients,
    "vmap": of_members,
    "jvp": of_tangents,
    "jacrev": _jacobian(jacrev),
    "jacfwd": _jacobian(jacfwd),
}


def composition(seed, count):
    """The names of one to three transforms, and what applies them to a function of `count` tensors.

    The last name is the outermost transform.
    """
    draw = random.Random(seed)
    names = draw.choices(list(TRANSFORMS), k=draw.randint(1, 3))
    choices = draw.random()

    def apply(function):
        draw = random.Random(choices)
        for name in names:
            function = TRANSFORMS[name](function, draw, count)
        return function

    return names, apply
