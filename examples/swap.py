"""Makes the routers of an existing model fused, and shows that nothing else changed.

Run: python examples/swap.py
"""

import copy
import logging

import torch
from torch import Tensor, nn

import mpkernels as mpk
from mpkernels import eager


class TwoPaths(nn.Module):
    """A routed network as one writes it in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.split = eager.CrossConnect(3, inputs=1, outputs=2)
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 32, 3, padding=1) for _ in range(2))
        self.exchange = eager.CrossConnect(32, inputs=2, outputs=2)
        self.predict = eager.CrossPredictConv2d(32, 32, 3, inputs=2, outputs=2, padding=1)
        self.classifiers = nn.ModuleList(nn.Linear(32, 10) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, 10], the mean of both paths."""
        maps = self.split(images)
        maps = self.exchange([conv(x).relu() for conv, x in zip(self.convolutions, maps)])
        maps = self.predict(maps)
        logits = [layer(x.mean((2, 3))) for layer, x in zip(self.classifiers, maps)]
        return torch.stack(logits).mean(0)


def main() -> None:
    """Compares the plain and the fused model, and explains what runs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # `fuse` logs what it swaps
    torch.manual_seed(0)
    plain = TwoPaths()
    fused = mpk.fuse(copy.deepcopy(plain))
    images = torch.randn(16, 3, 32, 32)
    difference = (fused(images) - plain(images)).abs().max().item()
    print(f"largest difference of the logits: {difference:.1e}")
    fused.load_state_dict(plain.state_dict())
    print("a state dict of the plain model loads into the fused one")
    print(mpk.explain(fused, images))
    print(mpk.explain(plain, images))


if __name__ == "__main__":
    main()
