"""Libraries that are published need nothing of glibc that is newer than the wheel's name says."""

import ctypes
import importlib.util
import shutil
import subprocess

import pytest

from proof.where import ROOT

pytest.importorskip("elftools")
COMPILER = shutil.which("cc") or pytest.skip("no C compiler here", allow_module_level=True)
spec = importlib.util.spec_from_file_location("bind", ROOT / "release/bind.py")
bind = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bind)

# Functions with a newer version than their first; dlmopen has none of glibc's first.
CALLS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
static void* three(void* unused) { return (void*)3; }
double power(double x) {
  pthread_t thread;
  void* result = 0;
  if (pthread_create(&thread, 0, three, 0) || pthread_join(thread, &result)) return -1;
  return exp(x) + (long)result + (dlsym(RTLD_DEFAULT, "malloc") ? 1 : 0);
}
void* other(void) { return dlmopen(LM_ID_BASE, "libm.so.6", RTLD_NOW); }
"""


def library(folder, code, *options):
    path = folder / "library.so"
    (folder / "code.c").write_text(code)
    command = [COMPILER, "-shared", "-fPIC", "-O1", folder / "code.c", "-o", path, *options]
    subprocess.run(command, check=True)
    return path


def newer(path):
    with path.open("rb") as file:
        found = bind.newer(bind.ELFFile(file), "GLIBC_2.28")
        return sorted(name for _, symbols in found for name, _ in symbols)


def test_a_library_is_bound_to_old_versions_and_works(tmp_path):
    path = library(tmp_path, CALLS, "-lm", "-ldl", "-lpthread")
    before = newer(path)
    if "pthread_create" not in before:
        pytest.skip("this glibc still has libpthread apart")
    assert sorted(bind.bind(path, "GLIBC_2.28")) == before
    assert {"exp", "dlsym", "dlmopen", "pthread_create"} <= set(before) and newer(path) == []
    loaded = ctypes.CDLL(str(path))  # which asks for every function at once
    loaded.power.restype, loaded.power.argtypes = ctypes.c_double, [ctypes.c_double]
    loaded.other.restype = ctypes.c_void_p
    assert loaded.power(0.0) == 5.0 and loaded.other()
    assert bind.bind(path, "GLIBC_2.28") == []


def test_what_glibc_had_not_is_refused(tmp_path):
    """arc4random came with 2.36."""
    path = library(tmp_path, "unsigned arc4random(void); unsigned f(void) { return arc4random(); }")
    if newer(path) != ["arc4random"]:
        pytest.skip("this glibc has none")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="arc4random is newer than GLIBC_2.28"):
        bind.bind(path, "GLIBC_2.28")
    assert path.read_bytes() == before
