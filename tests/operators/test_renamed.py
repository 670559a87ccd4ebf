"""Old names of arguments and attributes do what the new ones do, and warn."""

import re

import pytest

import mpkernels as mpk
from proof.where import ROOT

MODULES = pytest.mark.parametrize("module", [mpk, mpk.eager], ids=["fused", "eager"])
# By the old name, by the new one, and what is said.
RENAMED = {
    "CrossConnect": (
        lambda module: module.CrossConnect(4, 2, 3, bias=False),
        lambda module: module.CrossConnect(4, 2, 3, gate_bias=False),
        "CrossConnect: bias is now gate_bias; the old name goes in mpkernels 0.2",
    ),
    "CrossStitch": (
        lambda module: module.CrossStitch(paths=3, inputs=2),
        lambda module: module.CrossStitch(inputs=2, outputs=3),
        "CrossStitch: paths is now outputs; the old name goes in mpkernels 0.2",
    ),
    "CrossStitch.paths": (
        lambda module: module.CrossStitch(2).paths,
        lambda module: module.CrossStitch(2).outputs,
        "CrossStitch.paths is now outputs; the old name goes in mpkernels 0.2",
    ),
}


@MODULES
@pytest.mark.parametrize("name", RENAMED)
def test_an_old_name_works_and_warns_where_it_is_written(name, module):
    by_old, by_new, message = RENAMED[name]
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$") as warned:
        old = by_old(module)
    assert [warning.filename for warning in warned] == [__file__]
    assert repr(old) == repr(by_new(module))


@MODULES
def test_positions_are_as_they_were(module):
    assert module.CrossConnect(4, 2, 3, 16, False).b1 is None
    assert module.CrossStitch(3, 2).alpha.shape == (2, 3)


def test_one_of_both_names():
    message = "^CrossConnect: bias and gate_bias are the same; pass gate_bias alone$"
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match=message):
        mpk.CrossConnect(4, 2, 3, bias=True, gate_bias=True)


def test_no_old_name_outlives_its_release():
    def numbers(version):
        return [int(number) for number in version.split(".")]

    sources = [path.read_text() for path in (ROOT / "mpkernels").rglob("*.py")]
    gone = [release for source in sources for release in re.findall(r'gone="([\d.]+)"', source)]
    assert len(gone) >= 3 and all(numbers(mpk.__version__) < numbers(release) for release in gone)
