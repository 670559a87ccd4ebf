"""Cross-prediction routers whose batch norms are far from the identity, so a wrong fold shows."""

import torch

import mpkernels as mpk
from proof.dispatched import Dispatched

KINDS = {"conv": "CrossPredictConv2d", "linear": "CrossPredictLinear"}
F64 = torch.float64


def build(kind, m, n, module=mpk, **options):
    if kind == "conv":
        options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), **options}
        router = module.CrossPredictConv2d(3, 5, (3, 2), m, n, hidden=4, **options)
    else:
        router = module.CrossPredictLinear(6, 5, m, n, hidden=4, **options)
    with torch.no_grad():  # fresh norms are nearly the identity, which hides a wrong fold
        for norm in router.norms:
            for t in (norm.weight, norm.running_var):
                t.uniform_(0.5, 2)
            for t in (norm.bias, norm.running_mean):
                t.normal_()
    return router


def maps(kind, m, dtype=F64, layout=torch.contiguous_format, batch=4):
    if kind == "linear":
        return [torch.randn(batch, 6, dtype=dtype) for _ in range(m)]
    shape = (batch, 3, 7, 5)
    return [torch.randn(shape, dtype=dtype).contiguous(memory_format=layout) for _ in range(m)]


def assert_same(actual, expected):
    # In float64 two correct results differ by the rounding of sums of some hundred terms; a wrong
    # formula changes the first digits.
    for f, w in zip(actual, expected, strict=True):
        assert f.shape == w.shape and f.dtype == w.dtype
        assert (f - w).abs().max() <= 2**-53 * 1e5 * (w.abs().max() + 1)


def dispatched_by(router, xs):
    """The operators that the router runs in inference."""
    with Dispatched() as dispatched, torch.no_grad():
        router(xs)
    return dispatched
