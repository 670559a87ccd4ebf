"""Fixtures shared by all tests."""

import ctypes
import os

import pytest
import torch

import mpkernels as mpk
from proof import where


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="of the maps in the table of cases")
    parser.addoption("--seed", type=int, default=0, help="of all random values")


def pytest_configure(config):
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, (os.cpu_count() or 1) // int(workers))
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that tests start
        torch.set_num_threads(threads)
    where.use_device(config.getoption("--device"))


def pytest_collection_modifyitems(items):
    """Each file that is interpreted takes a minute or two: processes side by side share them."""
    long = [item for item in items if "test_in_the_interpreter[" in item.nodeid]
    rest = [item for item in items if item not in long]
    items[:] = [*long[::2], *rest, *long[1::2]]


def pytest_generate_tests(metafunc):
    """Each backend that runs tensors of the device in this process."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", where.BACKENDS, indirect=True)


M_PERTURB = -6  # mallopt's: new memory is filled with the complement of this byte


def _fill_new_memory(fill):
    torch.use_deterministic_algorithms(fill)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 0x80 if fill else 0)


@pytest.fixture(autouse=True)
def poison():
    """Fills every new tensor, so that no hole stays unseen: with NaN those that torch makes.

    Those made in our C++ come from the allocator, which fills them with 0x7f: about 3e38 as a
    float32 or bfloat16, 1e306 as a float64, NaN as a float16.
    """
    _fill_new_memory(True)
    yield
    _fill_new_memory(False)


@pytest.fixture
def no_poison(poison):
    """For tensors so large that filling them would take their memory, and seconds."""
    _fill_new_memory(False)


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


@pytest.fixture
def backend(request):
    """The backend of a test, forced."""
    with mpk.use_backend(request.param):
        yield request.param
