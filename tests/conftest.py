"""Fixtures shared by all tests."""

import os

import cases
import pytest
import torch

import mpkernels as mpk


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="of the maps in the table of cases")
    parser.addoption("--seed", type=int, default=0, help="of all random values")


def pytest_configure(config):
    cases.DEVICE = config.getoption("--device")
    if cases.DEVICE == "cuda":
        BACKENDS[:] = ["triton"]


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["triton"] if INTERPRETED else ["native", "eager"]


@pytest.fixture(autouse=True)
def poison():
    """Fills every new tensor with NaN, those made in C++ too, so that no hole stays unseen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed(request):
    torch.manual_seed(request.config.getoption("--seed"))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs CPU tensors in this process, forced."""
    with mpk.use_backend(request.param):
        yield request.param
