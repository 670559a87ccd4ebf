"""Fixtures shared by all tests."""

import os

import pytest
import torch

import mpkernels as mpk

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["triton"] if INTERPRETED else ["native", "eager"]


@pytest.fixture(autouse=True)
def poison():
    """Fills every new tensor with NaN, those made in C++ too, so that no hole stays unseen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs CPU tensors in this process, forced."""
    with mpk.use_backend(request.param):
        yield request.param
