"""The operators' schemas: in the library, in Python, and where they differ."""

import json
import shutil

import pytest
import torch

import mpkernels as mpk
from mpkernels.ops import native
from mpkernels.ops.operator import OPERATORS
from mpkernels.ops.schema import SCHEMAS
from proof.fresh import PACKAGE, RUN_A_ROUTER, RUNS_ON_THE_DEFINITION, succeeds

needs_library = pytest.mark.skipif(native.why_no_cpu is not None, reason=f"{native.why_no_cpu}")

SHOW = """
for name in {names!r}:
    print(getattr(torch.ops.mpkernels, name).default._schema)
"""


def copy_of_the_package(folder):
    shutil.copytree(PACKAGE, folder / "mpkernels", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "mpkernels"


def test_every_schema_is_declared():
    assert set(OPERATORS) == set(SCHEMAS)
    for name, schema in SCHEMAS.items():
        assert str(getattr(torch.ops.mpkernels, name).default._schema) == f"mpkernels::{schema}"
        assert schema.endswith("-> Tensor[]"), "cpp_wrapper refuses returns of several types"


@needs_library
def test_the_library_alone_has_every_operator():
    """No Python of ours is imported; the kernels run."""
    code = f"""
    import sys, torch
    torch.ops.load_library({str(PACKAGE / "_C.so")!r})
    for name in {list(SCHEMAS)!r}:
        print(getattr(torch.ops.mpkernels, name).default._schema)
    y, = torch.ops.mpkernels.mix([torch.ones(2, 3)], torch.full((2, 1, 1), 2.0))
    assert y.tolist() == [[2.0] * 3] * 2
    xs, gate = [torch.randn(2, 4)] * 2, [torch.randn(2, 5, 4), None, torch.randn(2, 3, 5), None]
    *ys, gates, pooled = torch.ops.mpkernels.cross_connect(xs, gate, 0)
    assert len(ys) == 3 and torch.allclose(gates.sum(-1), torch.ones(2, 2))
    assert "mpkernels" not in sys.modules
    """
    lines = succeeds(code).stdout.splitlines()
    assert lines == [f"mpkernels::{schema}" for schema in SCHEMAS.values()]


@needs_library
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["export", "jit"])
def test_saved_programs_load_with_the_library_alone(way, tmp_path):
    router, xs = mpk.CrossConnect(4, 2, 3).eval().requires_grad_(False), torch.randn(2, 2, 4, 5, 5)
    path, values = str(tmp_path / "program"), str(tmp_path / "values")
    torch.save((xs, torch.stack(router(list(xs)))), values)
    if way == "export":
        torch.export.save(torch.export.export(router, (list(xs),)), path)
        load = f"torch.export.load({path!r}).module()"
    else:
        torch.jit.trace(lambda a, b: router([a, b]), tuple(xs)).save(path)
        load = f"(lambda xs: torch.jit.load({path!r})(*xs))"
    succeeds(f"""
    import sys, torch
    torch.ops.load_library({str(PACKAGE / "_C.so")!r})
    xs, expected = torch.load({values!r})
    torch.testing.assert_close(torch.stack(tuple({load}(list(xs)))), expected)
    assert "mpkernels" not in sys.modules
    """)


def test_python_defines_the_same_without_a_library(tmp_path):
    package = copy_of_the_package(tmp_path)
    for library in package.glob("*.so"):
        library.unlink()
    code = RUNS_ON_THE_DEFINITION + SHOW.format(names=list(SCHEMAS))
    lines = succeeds(code, path=tmp_path).stdout.splitlines()
    assert lines[1:] == [f"mpkernels::{schema}" for schema in SCHEMAS.values()]


@needs_library
@pytest.mark.parametrize("build", ["of other schemas", "before schemas were recorded"])
def test_a_library_with_other_schemas_is_refused(build, tmp_path):
    """An editable installation may hold a library older than its Python."""
    package = copy_of_the_package(tmp_path)
    record = json.loads((package / "build.json").read_text())
    if build == "of other schemas":
        with (package / "ops" / "schemas.def").open("a") as file:
            file.write("// Changed after the library was built.\n")
    else:
        del record["schemas"]
    (package / "build.json").write_text(json.dumps(record))
    result = succeeds(RUNS_ON_THE_DEFINITION, path=tmp_path)
    assert "_C.so was built for other operators than this mpkernels has" in result.stdout
    assert "pip install" in result.stdout


def test_without_the_short_way(tmp_path):
    """Deleting the short way is deleting its file: values, gradients and errors stay."""
    run = f"""
    import mpkernels as mpk, torch
    torch.manual_seed(0)
    {RUN_A_ROUTER.strip().replace(chr(10), chr(10) + "    ")}
    predict = mpk.CrossPredictLinear(4, 3, 2, 2)
    vectors = [torch.randn(2, 4, requires_grad=True) for _ in range(2)]
    zs = predict(vectors)
    firsts = torch.autograd.grad(sum(z.pow(2).sum() for z in zs), vectors, create_graph=True)
    sum(g.pow(2).sum() for g in firsts).backward()
    for t in (*ys, gates, *zs, *(x.grad for x in (*xs, *vectors, *router.parameters()))):
        print(t.flatten().tolist())
    try:
        router(xs[:1] + [torch.randn(2, 4, 3)])
    except ValueError as error:
        print(error)
    from mpkernels.ops import operator
    print(operator.nothing_above([]), file=__import__("sys").stderr)
    """
    package = copy_of_the_package(tmp_path)
    here = succeeds(run, path=tmp_path)
    (package / "ops" / "short_way.py").unlink()
    without = succeeds(run, path=tmp_path)
    assert here.stdout == without.stdout and "xs[1] must be [2, 4, 3, 3]" in here.stdout
    assert here.stderr.endswith("True\n") and without.stderr.endswith("False\n")
