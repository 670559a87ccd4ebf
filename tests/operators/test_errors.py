"""Bad input raises before any kernel runs; the message says what was expected and what came."""

import re

import pytest
import torch

import mpkernels as mpk
from mpkernels import functional


def xs(*shapes, dtype=torch.float32):
    return [torch.zeros(shape, dtype=dtype) for shape in shapes]


A = (2, 4, 3, 3)
W1, B1, W2, B2 = torch.zeros(2, 16, 4), torch.zeros(2, 16), torch.zeros(2, 3, 16), torch.zeros(2, 3)
GATE = [
    ([], W1, B1, W2, B2, ValueError, "xs must hold at least one path, got none"),
    ([1], W1, B1, W2, B2, TypeError, "xs[0] must be a tensor, got int"),
    (xs(A, (2, 5, 3, 3)), W1, B1, W2, B2, ValueError,
     "xs[1] must be [2, 4, 3, 3] as xs[0], got [2, 5, 3, 3]"),
    (xs(A) + xs(A, dtype=torch.float64), W1, B1, W2, B2, TypeError,
     "xs[1] must be torch.float32 as xs[0], got torch.float64"),
    (xs(A) + [torch.zeros(A, device="meta")], W1, B1, W2, B2, ValueError,
     "xs[1] must be on cpu as xs[0], got meta"),
    (xs(A, A, dtype=torch.int64), W1, B1, W2, B2, TypeError,
     "xs[0] must be float32, float64, bfloat16 or float16, got torch.int64"),
    (xs((3,), (3,)), W1, B1, W2, B2, ValueError,
     "xs[0] must be [B, C, *spatial] or [B, C], got [3]"),
    (xs(A, A), W1[:, :, :3], B1, W2, B2, ValueError,
     "xs[0] must have C = 3 channels as w1 [m, K, C], got 4 in [2, 4, 3, 3]"),
    (xs(A), W1, B1, W2, B2, ValueError, "xs must hold m = 2 paths as w1 [m, K, C], got 1"),
    (xs(A, A), W1[0], B1, W2, B2, ValueError, "w1 must be [m, K, C], each at least 1, got [16, 4]"),
    (xs(A, A), W1, B1[:, :3], W2, B2, ValueError, "b1 must be [m, K] = [2, 16], got [2, 3]"),
    (xs(A, A), W1, B1, W2[:, :, :8], B2, ValueError,
     "w2 must be [m, n, K] = [2, 3, 16], got [2, 3, 8]"),
    (xs(A, A), W1, B1, W2[:, :0], B2, ValueError,
     "w2 must be [m, n, K], each at least 1, got [2, 0, 16]"),
    (xs(A, A), W1, B1, W2, B2[:1], ValueError, "b2 must be [m, n] = [2, 3], got [1, 3]"),
    (xs(A, A), W1.long(), B1, W2, B2, TypeError,
     "w1 must be float32, float64, bfloat16 or float16, got torch.int64"),
    (xs(A, A), None, B1, W2, B2, TypeError, "w1 must be a tensor, got NoneType"),
    (xs(A, A), W1, B1, W2, B2.to("meta"), ValueError, "b2 must be on cpu as xs, got meta"),
]  # fmt: skip


@pytest.mark.parametrize("function", ["cross_connect", "gate"])
@pytest.mark.parametrize("row", GATE, ids=lambda row: row[-1][:40])
def test_gate_arguments(function, row, backend):
    *arguments, kind, message = row
    with pytest.raises(kind, match=re.escape(f"{function}: {message}")):
        getattr(functional, function)(*arguments)


@pytest.mark.parametrize(
    ("gates", "kind", "message"),
    [
        (torch.zeros(2, 3, 2), ValueError, "gates must be [B, m, n] = [2, 2, 2], got [2, 3, 2]"),
        (torch.zeros(2, 2), ValueError,
         "gates must be [B, m, n] or [B, m, n, C] with n at least 1, got [2, 2]"),
        (torch.zeros(2, 2, 0), ValueError, "with n at least 1, got [2, 2, 0]"),
        (torch.zeros(2, 2, 3, 5), ValueError,
         "gates must be [B, m, n, C] = [2, 2, 3, 4], got [2, 2, 3, 5]"),
        (torch.zeros(2, 2, 2).int(), TypeError, "gates must be float32, float64"),
        ([[1.0]], TypeError, "gates must be a tensor, got list"),
    ],
)  # fmt: skip
def test_mix_arguments(gates, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        functional.mix(xs(A, A), gates)


U = (2, 6, 3, 3)
GATES, BIAS, SCALE = torch.zeros(2, 2, 3), torch.zeros(2, 6), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("us", "gates", "named", "kind", "message"),
    [
        ([], GATES, {}, ValueError, "us must hold at least one path, got none"),
        ([1.0], GATES, {}, TypeError, "us[0] must be a tensor, got float"),
        (xs(U, (2, 6, 3, 4)), GATES, {}, ValueError,
         "us[1] must be [2, 6, 3, 3] as us[0], got [2, 6, 3, 4]"),
        (xs(U) + xs(U, dtype=torch.bfloat16), GATES, {}, TypeError,
         "us[1] must be torch.float32 as us[0], got torch.bfloat16"),
        (xs(U) + [torch.zeros(U, device="meta")], GATES, {}, ValueError,
         "us[1] must be on cpu as us[0], got meta"),
        (xs(U, U, dtype=torch.int32), GATES, {}, TypeError,
         "us[0] must be float32, float64, bfloat16 or float16, got torch.int32"),
        (xs((6,), (6,)), GATES, {}, ValueError,
         "us[0] must be [B, C, *spatial] or [B, C], got [6]"),
        (xs(U, U), GATES[:1], {}, ValueError, "gates must be [B, m, n] = [2, 2, 3], got [1, 2, 3]"),
        (xs(U), GATES, {}, ValueError, "gates must be [B, m, n] = [2, 1, 3], got [2, 2, 3]"),
        (xs(U, U), GATES[..., None], {}, ValueError,
         "gates must be [B, m, n] with n at least 1, got [2, 2, 3, 1]"),
        (xs(U, U), GATES[..., :0], {}, ValueError, "with n at least 1, got [2, 2, 0]"),
        (xs(U, U), GATES.int(), {}, TypeError, "gates must be float32, float64"),
        (xs(U, U), None, {}, TypeError, "gates must be a tensor, got NoneType"),
        (xs(U, U), GATES.to("meta"), {}, ValueError, "gates must be on cpu as us, got meta"),
        (xs(A, A), GATES, {}, ValueError,
         "us must be [B, n*C', *spatial] with n = 3 as gates, got 4 channels"),
        (xs(U, U), GATES, {"bias": BIAS[:, :2]}, ValueError,
         "bias must be [m, n*C'] = [2, 6], got [2, 2]"),
        (xs(U, U), GATES, {"bias": BIAS.long()}, TypeError,
         "bias must be float32, float64, bfloat16 or float16, got torch.int64"),
        (xs(U, U), GATES, {"scale": SCALE.T}, ValueError,
         "scale must be [n, C'] = [3, 2], got [2, 3]"),
        (xs(U, U), GATES, {"shift": SCALE[0]}, ValueError,
         "shift must be [n, C'] = [3, 2], got [2]"),
        (xs(U, U), GATES, {"shift": SCALE.to("meta")}, ValueError,
         "shift must be on cpu as us, got meta"),
        (xs(U, U), GATES, {"scale": 2.0}, TypeError, "scale must be a tensor, got float"),
        (xs(U, U), GATES, {"relu": SCALE}, TypeError, "relu must be a bool, got Tensor"),
        (xs(U, U), GATES, {"relu": 1}, TypeError, "relu must be a bool, got int"),
    ],
)  # fmt: skip
def test_combine_arguments(us, gates, named, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        functional.combine(us, gates, **named)


def test_modules():
    with pytest.raises(ValueError, match=re.escape("inputs must be at least 1, got 0")):
        mpk.CrossConnect(4, 0, 2)
    with pytest.raises(ValueError, match=re.escape("outputs must be at least 1, got -1")):
        mpk.CrossConnect(4, 2, -1)
    with pytest.raises(ValueError, match=re.escape("outputs must be at least 1, got 0")):
        mpk.CrossStitch(0)
    with pytest.raises(ValueError, match=re.escape("xs must hold inputs = 2 paths, got 1")):
        mpk.CrossConnect(4, 2, 2)(torch.zeros(A))


def test_backend_names():
    with pytest.raises(
        ValueError, match="name must be one of auto, eager, native, triton, got 'gpu'"
    ):
        mpk.use_backend("gpu")


def test_operators_check_what_they_read():
    """An operator called directly still refuses arguments that do not fit."""
    op = torch.ops.mpkernels
    with mpk.use_backend("native"):
        for call in (
            lambda: op.cross_connect(xs(A, (2, 5, 3, 3)), [W1, B1, W2, B2], 0),
            lambda: op.cross_connect(xs(A, A), [W1[:, :, :3].clone(), B1, W2, B2], 0),
            lambda: op.cross_connect([], [W1, B1, W2, B2], 0),
            lambda: op.cross_connect(xs(A, A), [W1, B1, W2], 0),
            lambda: op.cross_connect(xs(A, A), [None, B1, W2, B2], 0),
            lambda: op.cross_connect(xs(A, A), [W1, B1, W2, B2], 99),
            lambda: op.mix(xs(A, A), torch.zeros(2, 3, 2)),
            lambda: op.mix_backward([None], [], xs(A, A), torch.zeros(2, 2, 2), 7),
            lambda: op.combine(xs(U, A), GATES, [None] * 3, True),
            lambda: op.combine(xs(A, A), GATES, [None] * 3, True),
            lambda: op.combine(xs(U, U), GATES, [BIAS.T, None, None], True),
            lambda: op.combine(xs(U, U), GATES, [None, SCALE.T, None], True),
            lambda: op.combine(xs(U, U), GATES, [None], True),
            lambda: op.combine_backward([None] * 2, [], xs(U, U), GATES, [None] * 3, True, 7),
            lambda: op.combine_backward(xs(U, U, U), [], xs(U, U), GATES, [None] * 3, True, 7),
        ):
            with pytest.raises(RuntimeError, match="must"):
                call()
