"""Exports a routed layer with torch.export and runs the file that it writes.

Run: python examples/export.py
"""

import tempfile
from pathlib import Path

import torch

import mpkernels as mpk  # registers the operators: the loading program imports it too


def main() -> None:
    """Exports for any batch, saves, loads, compares."""
    torch.manual_seed(0)
    router = mpk.CrossConnect(32, inputs=2, outputs=2).eval()
    xs = [torch.randn(4, 32, 16, 16) for _ in range(2)]
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(router, (xs,), dynamic_shapes=([{0: batch}, {0: batch}],))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    print("operators of the graph:", ", ".join(sorted(n for n in names if "mpkernels" in n)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router.pt2"
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    more = [torch.randn(9, 32, 16, 16) for _ in range(2)]
    same = all(torch.equal(a, b) for a, b in zip(loaded(more), router(more)))
    print("the loaded program gives the same for another batch size:", same)


if __name__ == "__main__":
    main()
