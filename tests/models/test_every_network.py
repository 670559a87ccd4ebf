"""What every network by name must do: learn, tell its classes, save itself."""

import pytest
import torch

import models
from models.training import judge
from proof.problems.small_networks import DEEP, HEAVY, small


@pytest.fixture(autouse=True)
def one_thread():
    """Images are too small to be shared among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(slow):
    """All names, those of `slow` marked so."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in models.list()
    ]


@pytest.mark.parametrize("name", named(HEAVY))
def test_a_step_lowers_the_loss_and_the_network_saves_itself(name):
    model, x, y = small(name)
    # One generator makes all kernels of hyper_wrn40_2, and a reward jumps where a sampled decision
    # of blockdrop_resnet110 turns over: only a shorter step stays where the gradient holds.
    short = name in ("blockdrop_resnet110", "hyper_wrn40_2")
    optimiser = torch.optim.SGD(model.parameters(), 2e-4 if short else 0.005)
    losses = []
    chance = {k: v for k, v in model.state_dict().items() if k.endswith("_extra_state")}
    for _ in range(2):
        model.load_state_dict({**model.state_dict(), **chance})  # the same random decisions
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


@pytest.mark.parametrize("name", named(HEAVY | DEEP | set(models.list("*_[34]_c[cp]"))))
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
