"""Capsules: their lengths, their routing, their loss and the input of their decoder."""

import pytest
import torch
from torch import nn

import models
from models import data
from models.networks.capsnet import CapsuleLayer, coupling, margin_loss, route, squash
from models.suited import options_for

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64
ROUNDING = 2.0**-53 * 1e4  # of some thousand float64 operations, relative to the result


def close(actual, expected):
    return (actual - expected).abs().max() <= ROUNDING * expected.abs().max().clamp_min(1)


def test_squash_keeps_the_direction_and_bounds_the_length():
    s = torch.randn(50, 16, dtype=F64) * torch.logspace(-6, 3, 50, dtype=F64)[:, None]
    v = squash(s)
    length, before = v.norm(dim=-1), s.norm(dim=-1)
    assert (length < 1).all() and (length > 0).all()
    assert close(length, before**2 / (1 + before**2))
    assert close(v / length[:, None], s / before[:, None])
    zero = torch.zeros(1, 16, requires_grad=True)
    squash(zero).sum().backward()
    assert squash(zero).abs().max() == 0 and zero.grad.isfinite().all()


def test_coefficients_sum_to_one_over_the_classes():
    b = torch.randn(2, 30, 10, dtype=F64)
    assert close(coupling(b, none=False).sum(-1), torch.ones(2, 30, dtype=F64))
    # With "none of the above" the coefficients leave it the probability of a log prior of 0.
    none = 1 / (1 + b.exp().sum(-1))
    assert close(coupling(b, none=True).sum(-1), 1 - none)


def test_agreement_raises_the_coefficients():
    # All capsules below but the last predict the same vector for class 0; the rest is noise.
    u = torch.randn(1, 4, 20, 8, dtype=F64) * 0.2
    u[:, 0] = torch.ones(8, dtype=F64)
    u[:, 0, -1] = -1
    once, first = route(u, 1)
    assert torch.equal(first, torch.full_like(first, 1 / 4))
    _, c = route(u, 3)
    assert (c[0, :-1, 0] > 0.4).all()
    assert c[0, -1, 0] < 1 / 4
    assert route(u, 3)[0][0, 0].norm() > once[0, 0].norm()


def test_capsules_are_connected_by_a_matrix_for_each_pair():
    layer = CapsuleLayer(below=5, below_size=8, above=3, above_size=16).double()
    u = torch.randn(2, 5, 8, dtype=F64)
    matrices = layer.weight.view(5, 8, 3, 16)
    assert close(layer.predict(u), torch.einsum("bid,idje->bjie", u, matrices))
    assert layer(u).shape == (2, 3, 16)


def test_margin_loss():
    lengths = torch.tensor([[0.95, 0.05], [0.5, 0.3]], dtype=F64)
    expected = torch.tensor((0 + 0.5 * (0.5 - 0.1) ** 2 + (0.9 - 0.3) ** 2) / 2, dtype=F64)
    assert close(margin_loss(lengths, torch.tensor([0, 1])), expected)


def test_the_decoder_reconstructs_from_the_class_alone():
    torch.manual_seed(0)
    model = models.create("capsnet", size=20, channels=8, primary_types=2)
    x = torch.randn(3, 3, 20, 20)
    target = torch.tensor([4, 0, 9])
    capsules = torch.randn(3, 10, 16, requires_grad=True)
    model.reconstruct(capsules, target).square().sum().backward()
    used = capsules.grad.abs().sum(-1) > 0
    assert torch.equal(used, nn.functional.one_hot(target, 10).bool())

    optimizer = torch.optim.Adam(model.decoder.parameters(), 1e-3)
    errors = []
    for _ in range(30):
        error = (model.reconstruct(capsules.detach(), target) - x.flatten(1)).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert errors[-1] < errors[0] / 2


def test_the_loss_has_margin_and_reconstruction():
    torch.manual_seed(0)
    model = models.create("capsnet", size=20, channels=8, primary_types=2)
    x, y = torch.randn(3, 3, 20, 20), torch.arange(3)
    lengths, capsules, images = model(x)
    assert images is x and torch.equal(lengths, capsules.norm(dim=-1))
    error = (model.reconstruct(capsules, y) - x.flatten(1)).square().sum(1).mean()
    expected = margin_loss(lengths, y) + 5e-4 * 0.25**2 * error
    torch.testing.assert_close(model.loss((lengths, capsules, x), y), expected)
    assert torch.equal(model.loss(lengths, y), margin_loss(lengths, y))


def test_the_reconstruction_is_weighed_as_for_pixels_from_0_to_1():
    torch.manual_seed(0)
    mean, deviation = 0.4, 0.3
    model = models.create("capsnet", size=20, channels=8, primary_types=2, deviation=deviation)
    pixels, y = torch.rand(3, 3, 20, 20), torch.arange(3)
    output = model((pixels - mean) / deviation)
    made = model.reconstruct(output[1], y) * deviation + mean
    error = (made - pixels.flatten(1)).square().sum(1).mean()
    torch.testing.assert_close(model.loss(output, y), margin_loss(output[0], y) + 5e-4 * error)
    with pytest.raises(ValueError, match="deviation must be above 0, got 0"):
        models.create("capsnet", deviation=0)


def test_a_data_set_decides_the_deviation():
    images = data.load("digits", limit=8)
    assert options_for("capsnet", images)["deviation"] == pytest.approx(images.std[0])
    assert options_for("basecnn", images, routers="eager", kind="cc") == {
        "num_classes": 10, "size": 32, "routers": "eager", "kind": "cc",
    }  # fmt: skip
