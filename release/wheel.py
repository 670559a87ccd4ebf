"""Builds what is published, and checks it: `make wheel` leaves it in dist/.

An sdist, and from it one wheel for every Python and every torch on Linux with glibc 2.28 or newer.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bind import bind

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
GLIBC = "2.28"  # the oldest that PyTorch's own wheels run on
TAG = f"manylinux_{GLIBC.replace('.', '_')}_{platform.machine()}"
TORCHS = ("libtorch*", "libc10*")  # the user's own torch brings them
EVERYWHERE = {"MPKERNELS_EVERY_TORCH": "1", "MPKERNELS_REQUIRE_NATIVE": "1"}


def call(*command: str | Path, folder: Path = ROOT, **variables: str) -> str:
    """What a command prints; raises CalledProcessError where it fails."""
    environment = {**os.environ, **variables}
    print("$", *command, flush=True)
    said = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    if said.returncode:
        print(said.stdout)
        said.check_returncode()
    return said.stdout


def python(*arguments: str | Path, folder: Path = ROOT, **variables: str) -> str:
    """The same of this Python."""
    return call(sys.executable, *arguments, folder=folder, **variables)


def only(folder: Path, pattern: str) -> Path:
    """The one file or folder of this name."""
    (found,) = folder.glob(pattern)
    return found


def build(work: Path) -> tuple[Path, Path]:
    """The sdist, and a wheel that was built from it alone."""
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    python("-c", script, work)
    sdist = only(work, "mpkernels-*.tar.gz")
    pip = ("-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir")
    python(*pip, work, sdist, folder=work, **EVERYWHERE)
    return sdist, only(work, "mpkernels-*.whl")


def for_old_systems(wheel: Path, work: Path) -> Path:
    """The wheel with libraries that need no newer glibc than GLIBC, named for that."""
    python("-m", "wheel", "unpack", "--dest", work / "unpacked", wheel, folder=work)
    package = only(work / "unpacked", "mpkernels-*") / "mpkernels"
    record = json.loads((package / "build.json").read_text())
    for name, file in record["files"].items():
        library = package / f"{name}.so"
        print(f"{library.name} was bound:", *bind(library, f"GLIBC_{GLIBC}"))
        content = library.read_bytes()
        file |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (package / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    wheel.unlink()
    python("-m", "wheel", "pack", "--dest-dir", work, package.parent, folder=work)
    left = [f"--exclude={name}" for name in TORCHS]
    command = ("-m", "auditwheel", "repair", *left, "--plat", TAG, "--only-plat")
    python(*command, "--wheel-dir", work / "dist", only(work, "mpkernels-*.whl"))
    return only(work / "dist", "*.whl")


def check(wheel: Path, sdist: Path, work: Path) -> None:
    """Raises unless the wheel is one for all, whole, without a path of this machine, and runs.

    Raises:
        AssertionError, CalledProcessError: it is not.
    """
    assert wheel.name.endswith(f"-py3-none-{TAG}.whl"), wheel.name
    print(python("-m", "auditwheel", "show", wheel))
    print(python("-m", "twine", "check", "--strict", wheel, sdist))
    installed = work / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    tops = sorted(path.name for path in installed.iterdir())
    assert len(tops) == 2 and tops[0] == "mpkernels", tops
    for library in installed.rglob("*.so"):
        dynamic = call("readelf", "--dynamic", library)
        assert "RUNPATH" not in dynamic and "RPATH" not in dynamic, dynamic
        content = library.read_bytes()
        for folder in (str(ROOT), os.path.join(tempfile.gettempdir(), "pip-")):
            assert folder.encode() not in content, (library, folder)
    said = python("-m", "mpkernels", "--self-test", "native", folder=installed)
    print(said)
    assert "self-test passed: native on cpu" in said


def main() -> None:
    """Builds, checks, and only then writes to dist/."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sdist, built = build(work)
        wheel = for_old_systems(built, work)
        check(wheel, sdist, work)
        DIST.mkdir(exist_ok=True)
        for path in (sdist, wheel):
            print(f"{shutil.copy(path, DIST)}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
