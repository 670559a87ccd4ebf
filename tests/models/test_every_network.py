"""What every network by name must do: learn, tell its classes, save itself."""

import pytest
import torch

import models
from models.training import judge
from proof.problems.small_networks import ADAPTIVE, DEEP, HEAVY, small

pytestmark = pytest.mark.usefixtures("one_thread")


def named(slow, elsewhere):
    """All names but those that test_adaptive.py covers; those of `slow` are marked so."""
    names = [name for name in models.list() if name not in elsewhere]
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in names]


@pytest.mark.parametrize("name", named(HEAVY, ADAPTIVE & HEAVY))
def test_a_step_lowers_the_loss_and_the_network_saves_itself(name):
    model, x, y = small(name)
    optimiser = torch.optim.SGD(model.parameters(), 0.005)
    losses = []
    for _ in range(2):
        loss, logits = judge(model, model(x), y)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[1] < losses[0]
    assert logits.shape == (len(x), models.options(name)["num_classes"])
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []

    with torch.no_grad():
        model.eval()
        loss, logits = judge(model, model(x), y)
        assert loss.isfinite() and logits.shape[0] == len(x)
        other, _, _ = small(name)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        other.load_state_dict(state)
        assert torch.equal(judge(other.eval(), other(x), y)[1], logits)
        # Without batch statistics a sample does not depend on the others; convolutions of other
        # batches may sum in another order.
        alone = judge(model, model(x[:1]), y[:1])[1]
        assert (alone - logits[:1]).abs().max() <= 2**-24 * 1e4 * logits.abs().max()


@pytest.mark.parametrize("name", named(HEAVY | DEEP | set(models.list("*_[34]_c[cp]")), ADAPTIVE))
def test_memorises_a_batch(name):
    model, x, y = small(name)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(60):
        loss, logits = judge(model, model(x), y)
        if torch.equal(logits.argmax(1), y):
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError(f"predicts {logits.argmax(1).tolist()} for {y.tolist()} after 60 steps")
