"""Builds the compiled parts; everything else about the package is in pyproject.toml.

mpkernels/_C.so       over torch's stable ABI: CPU kernels, compiled once per instruction set, and
                      launches of the kernels that Triton compiles; needs no CUDA to build
mpkernels/_C_cuda.so  CUDA kernels over the stable ABI, where a CUDA torch and nvcc are found
mpkernels/_nodes.so   calls and autograd nodes, which spare host time; loaded only beside the Python
                      and torch it was built against
mpkernels/build.json  what was built by which compiler, why a part is missing, and size and hash of
                      each part: mpkernels loads only what is as it was built

A part that fails to build does not fail the installation: mpkernels says at import what is
missing and runs on its eager definition. Two environment variables:

MPKERNELS_REQUIRE_NATIVE=1  a part that fails to build fails the installation
MPKERNELS_EVERY_TORCH=1     a wheel for every Python and torch, without _nodes (`make wheel`)
"""

import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build


def cuda_toolkit() -> Path | None:
    """The folder that holds bin/nvcc and include/cuda_runtime.h; CUDA_HOME overrides."""
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if not any(candidates):
        nvcc = shutil.which("nvcc")
        candidates = [Path(nvcc).resolve().parents[1] if nvcc else None, "/usr/local/cuda"]
    for candidate in filter(None, candidates):
        home = Path(candidate)
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime.h").exists():
            return home.resolve()
    return None


CUDA_TOOLKIT = cuda_toolkit()
if CUDA_TOOLKIT is not None:
    os.environ["CUDA_HOME"] = str(CUDA_TOOLKIT)  # torch reads it when cpp_extension is imported
ROOT = Path(__file__).resolve().parent
CSRC = str(ROOT / "csrc")
SCHEMAS = ROOT / "mpkernels/ops/schemas.def"
LINUX = sys.platform == "linux"
STRIP = ["-Wl,-s"] if LINUX else []
# Nothing is exported by name: operators are registered as a library loads.
LOCAL = [*STRIP, f"-Wl,--version-script={CSRC}/exports.map"] if LINUX else []
EVERY_TORCH = os.environ.get("MPKERNELS_EVERY_TORCH") == "1"
REQUIRE_NATIVE = os.environ.get("MPKERNELS_REQUIRE_NATIVE") == "1"
COMPILER = shlex.split(os.environ.get("CXX", "")) or ["c++"]
os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX")

import torch  # noqa: E402
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths  # noqa: E402

# The libraries use torch's interfaces as of 2.11 and load on every later torch.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
KERNEL_FLAGS = [
    "-O3",
    "-std=c++20",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-maybe-uninitialized",  # false alarms inside gcc's own AVX-512 headers
]
# Errors name the file that raised them, which is then no path of the machine that built it. The
# same folder may be spelled in two ways where a link leads to it.
FOLDERS = {str(ROOT), os.getcwd(), *(str(Path(path)) for path in include_paths())}
FOLDERS |= {str(CUDA_TOOLKIT / "include")} if CUDA_TOOLKIT is not None else set()
NO_PATHS = [f"-ffile-prefix-map={folder}/=" for folder in sorted(FOLDERS)]
GLUE_FLAGS = ["-O2", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wno-attributes"]

# Name of the namespace that holds the kernels -> flags they are compiled with. The first entry
# runs everywhere; csrc/cpu/processor.cpp chooses the last one that this processor supports.
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS = {
        "x86_64": [],
        "avx2": ["-march=x86-64-v3"],
        "avx512": ["-march=x86-64-v4"],
    }
else:
    INSTRUCTION_SETS = {"portable": []}

REGISTERED = ("cross_connect", "mix", "combine", "cross_predict")
GLUE_SOURCES = [
    *("csrc/cpu/processor.cpp", "csrc/cpu/library.cpp", "csrc/older_systems.cpp"),
    *(f"csrc/cpu/register_{name}.cpp" for name in REGISTERED),
    *(f"csrc/launches/{name}.cpp" for name in ("call", "driver", "plan", "register")),
]
MIXING = ("cross_connect", "cross_connect_backward", "gate_parameter_grads", "mix")
COMBINING = ("combine", "combine_backward", "combine_parameter_grads", "predict")
KERNEL_SOURCES = [f"csrc/cpu/{name}.cpp" for name in (*MIXING, *COMBINING, "kernels")]
NODE_SOURCES = ["csrc/nodes/module.cpp", "csrc/nodes/node.cpp", "csrc/nodes/operator.cpp"]
CUDA_SOURCES = ("register", "cross_connect", "cross_connect_backward")


def says(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace").stdout


@functools.cache
def nvcc_version() -> str:
    found = re.search(r"release (\d+\.\d+)", says(CUDA_TOOLKIT / "bin/nvcc", "--version"))
    return found[1] if found else ""


@functools.cache
def why_no_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if CUDA_TOOLKIT is None:
        return "no folder with bin/nvcc and include/cuda_runtime.h (set CUDA_HOME)"
    nvcc, version = CUDA_TOOLKIT / "bin/nvcc", nvcc_version()
    if not version:
        return f"{nvcc} does not tell its version"
    # torch's build refuses another major version for all parts, those for CPUs too.
    if version.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        return f"{nvcc} {version} does not fit CUDA {torch.version.cuda} of torch"
    return None


def why_no_compiler() -> str | None:
    return None if shutil.which(COMPILER[0]) else f"the C++ compiler {COMPILER[0]} was not found"


def extensions() -> list[Extension]:
    has = [f"-DMPK_HAS_{name}" for name in INSTRUCTION_SETS]
    cpu = Extension(
        "mpkernels._C",
        GLUE_SOURCES,
        depends=[*map(str, Path("csrc").rglob("*.h")), str(SCHEMAS)],
        include_dirs=[CSRC, *include_paths()],
        library_dirs=library_paths(),
        libraries=["torch_cpu"],
        extra_compile_args={"cxx": [*GLUE_FLAGS, *NO_PATHS, *STABLE_ABI, *has]},
        extra_link_args=LOCAL,
        optional=True,
    )
    nodes = Extension(
        "mpkernels._nodes",
        NODE_SOURCES,
        depends=[str(path) for path in Path("csrc/nodes").glob("*.h")],
        include_dirs=[CSRC, *include_paths()],
        library_dirs=library_paths(),
        libraries=["c10", "torch_cpu", "torch_python"],
        extra_compile_args={"cxx": [*GLUE_FLAGS, *NO_PATHS]},
        extra_link_args=STRIP,
        optional=True,
    )
    for_all = [cpu] if EVERY_TORCH else [cpu, nodes]
    if why_no_cuda():
        return for_all
    cuda = Extension(
        "mpkernels._C_cuda",
        [*(f"csrc/cuda/{name}.cu" for name in CUDA_SOURCES), "csrc/older_systems.cpp"],
        depends=[str(path) for path in Path("csrc").rglob("*.*h") if "cpu" not in path.parts],
        include_dirs=[CSRC, *include_paths(), str(CUDA_TOOLKIT / "include")],
        library_dirs=[*library_paths(), str(CUDA_TOOLKIT / "lib64")],
        # The static runtime: the library then needs only the driver that torch already needs.
        libraries=["torch_cpu", "torch_cuda", "cudart_static", "rt", "dl", "pthread"],
        extra_compile_args={
            "cxx": [*GLUE_FLAGS, *NO_PATHS, *STABLE_ABI],
            # torch's own flags take away the conversions of half types that the kernels use.
            "nvcc": [
                "-O3",
                "-std=c++20",
                "-DUSE_CUDA",
                "-U__CUDA_NO_HALF_CONVERSIONS__",
                "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
                *STABLE_ABI,
                *(f"-Xcompiler={flag}" for flag in NO_PATHS),
            ],
        },
        extra_link_args=LOCAL,
        optional=True,
    )
    return [*for_all, cuda]


def cuda_architectures() -> str:
    return os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", ",").replace(" ", ",")


def described(library: Path) -> dict[str, int | str]:
    content = library.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


END = b"\0 that was all\n"


@contextmanager
def errors(found: list[str]) -> Iterator[None]:
    """Adds to `found` the lines with errors of what compilers print, which goes by sys.stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, (read, write) = (os.dup(1), os.dup(2)), os.pipe()

    def copy() -> None:
        with open(read, "rb") as lines:
            for line in lines:
                # Not until the pipe is closed: a compiler may leave a process that holds it open.
                line, end, _ = line.partition(END)
                os.write(kept[1], line)
                text = line.decode(errors="replace").strip()
                if re.search(r"\berror\b.*:|undefined reference|cannot find -l", text):
                    found.append(text.replace(f"{ROOT}/", ""))
                if end:
                    break

    copier = threading.Thread(target=copy)
    copier.start()
    try:
        for number in (1, 2):
            os.dup2(write, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept):
            os.dup2(before, number)
        os.write(write, END)
        copier.join()
        for number in (*kept, write):
            os.close(number)


class FreshBuild(build):
    """Builds the package anew: what an older build left in the folder is no part of it."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib, "mpkernels"), ignore_errors=True)
        super().run()


class Wheel(bdist_wheel):
    """Names a wheel for every torch as one for every Python: nothing in it is bound to one."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform_name = super().get_tag()
        return ("py3", "none", platform_name) if EVERY_TORCH else (python, abi, platform_name)


class Build(BuildExtension):
    """Compiles the CPU kernels once per instruction set and records what was built."""

    failures: dict[str, str]

    def run(self) -> None:
        self.failures = {}
        if reason := why_no_cuda():
            self.failures["_C_cuda"] = reason
        if EVERY_TORCH:
            self.failures["_nodes"] = "it was left out of a build for every torch"
        super().run()
        for folder in {Path(self.build_lib), *([Path(".")] if self.inplace else [])}:
            self.write_record(folder / "mpkernels" / "build.json")

    def write_record(self, path: Path) -> None:
        names = ("_C", "_nodes", "_C_cuda")
        compiler = "" if why_no_compiler() else says(*COMPILER, "--version")
        record = {
            "torch": torch.__version__,
            "torch_minimum": "2.11",
            "cuda_toolkit": "" if "_C_cuda" in self.failures else nvcc_version(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "compiler": compiler.partition("\n")[0],
            "compiler_flags": " ".join(KERNEL_FLAGS),
            "instruction_sets": list(INSTRUCTION_SETS),
            "cuda_architectures": "" if "_C_cuda" in self.failures else cuda_architectures(),
            "schemas": hashlib.sha256(SCHEMAS.read_bytes()).hexdigest(),
            "missing": {name: self.failures[name] for name in names if name in self.failures},
            "files": {
                name: described(path.with_name(f"{name}.so"))
                for name in names
                if name not in self.failures and path.with_name(f"{name}.so").exists()
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not there: a process that imports mpkernels meanwhile reads the old one.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:  # torch asks the compiler before it builds anything
            for ext in self.extensions:
                self.fail(ext, [], error)

    def build_extension(self, ext: Extension) -> None:
        if LINUX:  # not as Python was linked, whose flags may hold a path of this machine
            linker = [*COMPILER, "-shared", *shlex.split(os.environ.get("LDFLAGS", ""))]
            self.compiler.linker_so = self.compiler.linker_so_cxx = linker
        found: list[str] = []
        try:
            with errors(found):
                if ext.name == "mpkernels._C":
                    ext.extra_objects = self.compile_kernels(ext)
                super().build_extension(ext)
        # Everything a toolchain can do wrong ends up here.
        except Exception as error:
            self.fail(ext, found, error)

    def fail(self, ext: Extension, found: list[str], error: Exception) -> None:
        """Leaves a part out: the record and mpkernels' warning will name the first error."""
        name = ext.name.rpartition(".")[2]
        lines = found or str(error).strip().splitlines() or [type(error).__name__]
        self.failures[name] = why_no_compiler() or lines[0]
        said = f"mpkernels: {name} was not built: {self.failures[name]}"
        if REQUIRE_NATIVE:
            raise SystemExit(f"error: {said} (MPKERNELS_REQUIRE_NATIVE is set)") from error
        print(f"warning: {said}", file=sys.stderr)

    def compile_kernels(self, ext: Extension) -> list[str]:
        objects: list[str] = []
        for name, flags in INSTRUCTION_SETS.items():
            objects += self.compiler.compile(
                KERNEL_SOURCES,
                output_dir=os.path.join(self.build_temp, name),
                include_dirs=[CSRC],
                depends=ext.depends,
                extra_postargs=[*KERNEL_FLAGS, *NO_PATHS, *flags, f"-DMPK_NAMESPACE={name}"],
            )
        return objects


setup(
    ext_modules=extensions(),
    cmdclass={
        "bdist_wheel": Wheel,
        "build": FreshBuild,
        "build_ext": Build.with_options(no_python_abi_suffix=True),
    },
)
