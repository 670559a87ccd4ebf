"""Writes what serve.cpp reads: a compiled network, and batches with the logits of each.

Run: python examples/cpp/export.py FOLDER
"""

import sys
from pathlib import Path

import torch

from mpkernels.models import create


def main(folder: Path) -> None:
    """Exports a network of two paths for any batch; AOTInductor compiles it with its operators."""
    torch.manual_seed(0)
    network = create("basecnn_2_cc").eval()
    batches = [torch.randn(size, 3, 32, 32) for size in (2, 7)]
    with torch.no_grad():
        torch.save([(x, network(x)) for x in batches], folder / "batches.pt")
        any_batch = {0: torch.export.Dim("batch", min=1, max=1024)}
        program = torch.export.export(network, (batches[0],), dynamic_shapes=(any_batch,))
    package = folder / "network.pt2"
    torch._inductor.aoti_compile_and_package(program, package_path=str(package))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
