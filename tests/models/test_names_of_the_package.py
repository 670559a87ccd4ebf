"""The networks are `mpkernels.models`, in a wheel too, and have no part in another `models`."""

import importlib
import pickle
import pkgutil
import shutil
import subprocess
import sys

import pytest

import models
import mpkernels.models
from proof.fresh import succeeds
from proof.where import ROOT

EVERY = [one.name for one in pkgutil.walk_packages(mpkernels.models.__path__, "mpkernels.models.")]
CREATE = 'create("basecnn_2_cc", num_classes=7, size=8, stages=((4,), (4,)), dense=(4, 4))'


def test_both_names_are_one_package():
    assert models is mpkernels.models and "mpkernels.models.data.folders" in EVERY
    for name in EVERY:
        module = importlib.import_module(name)
        assert importlib.import_module(name.removeprefix("mpkernels.")) is module
        assert module.__name__ == module.__spec__.name == name
    with pytest.raises(ModuleNotFoundError, match="No module named 'models.none'"):
        importlib.import_module("models.none")


@pytest.mark.parametrize("first", ["models", "mpkernels.models"])
def test_either_name_may_come_first(first, tmp_path):
    """What is pickled under one name is unpickled under the other, with the same classes."""
    model = models.create("basecnn_2_cc", size=8, stages=((4,), (4,)), dense=(4, 4))
    (tmp_path / "network").write_bytes(pickle.dumps(model))
    succeeds(f"""
        import {first}
        import models.networks.cnn
        import mpkernels.models.networks.cnn as known
        import pickle
        assert models.networks.cnn is known
        model = pickle.loads(open({str(tmp_path / "network")!r}, "rb").read())
        assert type(model) is known.{type(model).__name__}
    """)


def test_the_second_name_may_be_given_to_another_package(own):
    """As where a process loads our checkout first and the user's package in its place later."""
    succeeds(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import models.networks
        for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
            del sys.modules[name]
        sys.path.remove({str(ROOT)!r})
        import models.train
        assert models.train.MINE == 1
    """,
        path=own,
    )


def test_a_command_starts_processes():
    """A process that is spawned imports the module which `python -m` ran, under that name."""
    result = succeeds("""
        import multiprocessing, sys
        from importlib.util import find_spec
        import models
        if __name__ == "__main__":
            sys.modules["__main__"].__spec__ = find_spec("models.table")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(models.list, ("basecnn_2_*",)))
    """)
    assert result.stdout == "['basecnn_2_cc', 'basecnn_2_cp']\n"


@pytest.fixture
def own(tmp_path):
    """A folder with another package `models`."""
    folder = tmp_path / "own"
    (folder / "models").mkdir(parents=True)
    (folder / "models/__init__.py").write_text("from models.train import MINE\n")
    (folder / "models/train.py").write_text("MINE = 1\n")
    return folder


MINE = "import models, models.train\nassert models.MINE == models.train.MINE == 1\n"
HUB = f"""
import torch
model = torch.hub.load({str(ROOT)!r}, "resnet20_2_cc", source="local", num_classes=7)
assert type(model).__module__.startswith("mpkernels.models.networks.")
assert model(torch.randn(2, 3, 8, 8)).shape == (2, 7)
"""


@pytest.mark.parametrize("before", [MINE, ""], ids=["imported", "in the folder"])
def test_torch_hub_beside_another_models(before, own):
    succeeds(before + HUB + MINE, path=own)


def test_torch_hub_from_an_archive_without_links(tmp_path):
    """As zipfile, and so torch.hub, unpacks one: a link becomes a file that holds its target."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mpkernels", tmp_path / "mpkernels", ignore=ignored)
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    links = [path for path in ROOT.iterdir() if path.is_symlink()]
    assert [path.name for path in links] == ["models"]
    assert not [path for path in (ROOT / "mpkernels").rglob("*") if path.is_symlink()]
    (tmp_path / "models").write_text(str(links[0].readlink()))
    succeeds(HUB.replace(str(ROOT), str(tmp_path)), path=tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What a wheel holds, but for the compiled libraries."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder]
    command += ["build_py", "--build-lib", folder / "lib"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_wheel_has_the_files_of_the_checkout(built):
    assert [path.name for path in (built / "lib").iterdir()] == ["mpkernels"]
    for path in (ROOT / "models").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            copy = built / "lib/mpkernels/models" / path.relative_to(ROOT / "models")
            assert copy.read_bytes() == path.read_bytes()
    commands = (built / "mpkernels.egg-info/entry_points.txt").read_text()
    assert "mpkernels = mpkernels.command:main" in commands


def test_a_wheel_beside_another_models(built, own):
    """Every module loads; none has looked for `models`, which is here and is another package."""
    code = f"""
        import sys
        from importlib import import_module
        import mpkernels.models
        from mpkernels.models.training.recipe import names
        for name in {EVERY}:
            import_module(name)
        assert "models" not in sys.modules
        print(mpkernels.models.__file__, names())
        mpkernels.models.{CREATE}
        import models
        assert models.MINE == 1
    """
    result = succeeds(code, path=own, PYTHONPATH=str(built / "lib"))
    assert str(built) in result.stdout and "'imagenet_100'" in result.stdout


def test_an_installed_package_has_no_commit(built):
    """The repository around the environment that it is installed in is another one."""
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-C", str(built)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    code = "from mpkernels.models.environment import environment; print(environment('cpu'))"
    result = succeeds(code, path=built / "lib")
    assert "'commit': None" in result.stdout


def test_networks_need_no_other_packages():
    succeeds(f"""
        import sys
        for name in ("matplotlib", "safetensors", "scipy", "sklearn", "torchvision", "tqdm"):
            sys.modules[name] = None
        import torch
        import mpkernels.models
        model = mpkernels.models.{CREATE}
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    """)
