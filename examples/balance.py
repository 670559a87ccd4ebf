"""Trains with the gates in the loss: a penalty keeps a router from sending everything one way.

Run: python examples/balance.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mpkernels as mpk


def train(penalty: float, steps: int = 150) -> Tensor:
    """The mean share of the input that each of two outputs got after training: [2]."""
    torch.manual_seed(0)
    router = mpk.CrossConnect(8, inputs=1, outputs=2)
    nn.init.constant_(router.b2, 0.0)
    with torch.no_grad():
        router.b2[:, 0] += 3.0  # begins by sending nearly all to the first output
    classifiers = nn.ModuleList(nn.Linear(8, 4) for _ in range(2))
    optimizer = torch.optim.Adam([*router.parameters(), *classifiers.parameters()], lr=0.02)
    centres = torch.randn(4, 8)
    for _ in range(steps):
        labels = torch.randint(4, (64,))
        x = centres[labels] + 0.3 * torch.randn(64, 8)
        ys, gates = router(x, return_gates=True)
        loss = cross_entropy(sum(layer(y) for layer, y in zip(classifiers, ys)), labels)
        share = gates.mean((0, 1))  # over the batch and the inputs: [n]
        balance = (share * share.log()).sum()  # negative entropy: least where shares are equal
        optimizer.zero_grad()
        (loss + penalty * balance).backward()
        optimizer.step()
    return share.detach()


def main() -> None:
    """Trains without and with the penalty."""
    for penalty in (0.0, 1.0):
        first, second = train(penalty).tolist()
        print(f"penalty {penalty}: outputs get {first:.2f} and {second:.2f} of the input")


if __name__ == "__main__":
    main()
