"""Tensors whose elements are not what their memory holds: negated views and known zeros.

PyTorch turns them into plain ones before a kernel sees them, but not in lists of optional tensors,
which the gradients of several outputs are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpkernels.ops.internals import below_autograd
from mpkernels.ops.schema import SCHEMAS, library


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value._is_zerotensor() else value.resolve_neg()


def _with_plain_tensors(name: str) -> Callable[..., Any]:
    operator = getattr(torch.ops.mpkernels, name).default

    def kernel(*arguments: Any) -> Any:
        with below_autograd():
            return operator(*map(_plain, arguments))

    return kernel


if below_autograd is not None:  # else no operator is called below autograd
    for _name, _schema in SCHEMAS.items():
        if "Tensor?[]" in _schema:
            for _key in ("Negative", "ZeroTensor"):
                library.impl(_name, _with_plain_tensors(_name), _key)
