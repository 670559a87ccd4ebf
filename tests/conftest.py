"""Fixtures shared by all tests."""

import ctypes
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


M_PERTURB = -6  # mallopt's: new memory is filled with the complement of this byte


@pytest.fixture(autouse=True)
def poison():
    """Fills every new tensor, so that no hole stays unseen: with NaN those that torch makes.

    Those made in our C++ come from the allocator, which fills them with 0x7f: about 3e38 as a
    float32 or bfloat16, 1e306 as a float64, NaN as a float16.
    """
    torch.use_deterministic_algorithms(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 0x80)
    yield
    if mallopt is not None:
        mallopt(M_PERTURB, 0)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed(request):
    torch.manual_seed(request.config.getoption("--seed"))


@pytest.fixture
def one_thread():
    """For work too small to be shared among threads, which would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs CPU tensors in this process, forced."""
    with mpk.use_backend(request.param):
        yield request.param
