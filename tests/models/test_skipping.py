"""Networks that skip blocks: what a block costs, and how gates and policies learn."""

import pytest
import torch
from torch import nn

import models
from models import data
from models.networks.aig import GatedBlock, gumbel_gate
from models.networks.blockdrop import Decided, policy_loss, reward
from models.networks.skipping import Draws, SkippableBlock
from models.training import checkpoint
from models.training.recipe import recipe_for
from models.training.step import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64
ROUNDING = 2.0**-53 * 1e4  # of some thousand float64 operations, relative to the result


def close(actual, expected):
    return (actual - expected).abs().max() <= ROUNDING * expected.abs().max().clamp_min(1)


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    return calls


def test_a_dropped_block_is_the_identity_and_costs_nothing():
    block = SkippableBlock(16, 16).double().eval()
    calls = count_calls(block.conv1)
    x = torch.randn(5, 16, 8, 8, dtype=F64).relu()
    assert block(x, torch.zeros(5)) is x
    assert calls == []
    narrowing = SkippableBlock(16, 32, 2).double().eval()
    calls = count_calls(narrowing.conv1)
    assert torch.equal(narrowing(x, torch.zeros(5)), narrowing.shortcut(x).relu())
    assert calls == []


def test_a_block_is_computed_for_the_images_that_keep_it():
    block = SkippableBlock(16, 16).double().eval()
    calls = count_calls(block.conv1)
    x = torch.randn(5, 16, 8, 8, dtype=F64).relu()
    keep = torch.tensor([1.0, 0, 0.5, 0, 1], dtype=F64)
    output = block(x, keep)
    assert calls == [3]
    assert close(output, (x + keep.view(-1, 1, 1, 1) * block.branch(x)).relu())
    assert torch.equal(output[1], x[1]) and torch.equal(output[3], x[3])
    block.train()
    calls.clear()
    block(x, keep)
    assert calls == [5]  # batch norm needs all of them


# ConvNet-AIG


def test_gates_are_zero_or_one_and_have_gradients():
    scores = torch.randn(200, 2, requires_grad=True)
    gates = gumbel_gate(scores, torch.rand(200, 2))
    assert set(gates.tolist()) == {0.0, 1.0}
    gates.sum().backward()
    assert (scores.grad[:, 1] > 0).all() and (scores.grad[:, 0] < 0).all()


def test_gates_open_as_often_as_their_scores_say():
    count = 20_000
    gates = gumbel_gate(torch.tensor([0.1, 2.0]).expand(count, 2), torch.rand(count, 2))
    p = torch.tensor([0.1, 2.0]).softmax(0)[1].item()
    assert abs(gates.mean().item() - p) < 4 * (p * (1 - p) / count) ** 0.5


def aig(**options):
    torch.manual_seed(0)
    return models.create("aig_resnet110", depth=1, **options)


def set_gates(model, scores):
    with torch.no_grad():
        for block in model.blocks:
            block.gate[-1].weight.zero_()
            block.gate[-1].bias.copy_(torch.tensor(scores))


def test_gates_of_a_network():
    model = aig().train()
    assert all(isinstance(block, GatedBlock) for block in model.blocks)
    logits, gates = model(torch.randn(8, 3, 8, 8))
    assert gates.shape == (8, 3) and ((gates == 0) | (gates == 1)).all()
    model.loss((logits, gates), torch.arange(8)).backward()
    assert all((block.gate[0].weight.grad.abs().sum() > 0) for block in model.blocks)
    again = model(torch.randn(8, 3, 8, 8))[1]
    assert not torch.equal(again, gates)


def test_the_loss_pulls_the_rate_to_its_target():
    model = aig(target_rate=0.25, rate_weight=3.0)
    logits = torch.zeros(4, 10)
    gates = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 1]], requires_grad=True)
    plain = nn.functional.cross_entropy(logits, torch.arange(4))
    loss = model.loss((logits, gates), torch.arange(4))
    assert torch.equal(loss, plain + 3 * torch.tensor([0.75**2, 0]).mean())
    loss.backward()
    assert (gates.grad[:, 0] > 0).all()  # open too often
    assert (gates.grad[:, 1] == 0).all()


def test_closed_blocks_are_not_computed():
    model = aig().eval()
    calls = [count_calls(block.conv1) for block in model.blocks]
    x = torch.randn(4, 3, 8, 8)
    set_gates(model, [5.0, 0.0])
    _, gates = model(x, return_gates=True)
    assert (gates == 0).all() and calls == [[], [], []]
    set_gates(model, [0.0, 5.0])
    _, gates = model(x, return_gates=True)
    assert (gates == 1).all() and calls == [[4], [4], [4]]


def test_all_blocks_are_computed_scaled_by_their_rate():
    model = aig(execute="all")
    set_gates(model, [0.0, 50.0])
    x = torch.randn(4, 3, 8, 8)
    before = model.rate.clone()
    model.train()(x)
    assert (model.rate - (0.9 * before + 0.1)).abs().max() <= 2**-22
    set_gates(model, [50.0, 0.0])
    _, gates = model.eval()(x, return_gates=True)
    assert torch.equal(gates, model.rate.expand(4, 3))


# BlockDrop


def decided(right, likely_right, learned=3):
    """Decisions for two images and three blocks: u keeps (1, 0, 1), u~ keeps all."""
    logits = torch.tensor([[1.0, 0], [1, 0]])
    kept = torch.tensor([[1.0, 0, 1], [1, 0, 1]])
    probability = torch.full((2, 3), 0.6, requires_grad=True)
    likely_logits = logits if likely_right else -logits
    logits = logits if right else -logits
    return Decided(logits, probability, kept, likely_logits, torch.ones(2, 3), learned)


def test_rewards():
    output = decided(right=True, likely_right=False)
    y = torch.zeros(2, dtype=torch.long)
    expected = torch.full((2,), 1 - (2 / 3) ** 2)
    assert (reward(output.logits, output.kept, y, 10.0) - expected).abs().max() <= 2**-23
    assert reward(output.likely_logits, output.likely, y, 10.0).tolist() == [-10, -10]
    assert reward(output.logits, output.likely, y, 10.0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("right", "likely_right", "sign"), [(True, True, 1), (False, True, -1), (True, False, 1)]
)
def test_the_policy_follows_the_reward(right, likely_right, sign):
    output = decided(right, likely_right)
    policy_loss(output, torch.zeros(2, dtype=torch.long), 10.0).backward()
    # Descent makes the sampled decisions likelier where they earned more than the likely ones.
    likelier = torch.tensor([1.0, -1, 1])
    assert torch.equal((-output.probability.grad).sign(), (sign * likelier).expand(2, 3))


def test_equal_rewards_teach_nothing_and_kept_blocks_are_not_learned():
    y = torch.zeros(2, dtype=torch.long)
    wrong = decided(right=False, likely_right=False)
    assert policy_loss(wrong, y, 10.0).item() == 0
    partly = decided(right=True, likely_right=True, learned=2)
    policy_loss(partly, y, 10.0).backward()
    assert (partly.probability.grad[:, 0] == 0).all()
    assert (partly.probability.grad[:, 1:] != 0).all()


def blockdrop(**options):
    torch.manual_seed(0)
    return models.create("blockdrop_resnet110", depth=1, **options)


def test_the_curriculum_starts_with_the_last_block():
    model = blockdrop(stage="curriculum", steps_per_block=2).train()
    statistics = [b.clone() for b in model.backbone.buffers()]
    x = torch.randn(32, 3, 8, 8)
    for learned in (1, 1, 2, 2, 3, 3, 3):
        assert model.learned == learned
        output = model(x)
        assert output.learned == learned
        assert (output.kept[:, : 3 - learned] == 1).all()
        assert (output.likely[:, : 3 - learned] == 1).all()
        assert (output.kept[:, -learned:] == 0).any()
    y = output.logits.argmax(1)
    model.loss(output, y).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.backbone.buffers()))


def test_the_policy_learns_to_drop_what_nobody_needs():
    model = blockdrop(stage="curriculum", steps_per_block=1, penalty=1.0).train()
    with torch.no_grad():  # the class is always 3, so blocks only cost
        model.backbone.head[-1].bias[3] = 1e3
    x = torch.randn(32, 3, 8, 8)
    y = torch.full((32,), 3)
    optimizer = torch.optim.SGD(model.policy.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(model(x), y).backward()
        optimizer.step()
    calls = [count_calls(block.conv1) for block in model.backbone.blocks]
    logits, kept = model.eval()(x, return_gates=True)
    assert (logits.argmax(1) == y).all()
    assert kept.sum() == 0 and calls == [[], [], []]


def test_a_stage_starts_from_the_weights_of_the_one_before(tmp_path):
    previous, bias = None, torch.empty(0)
    for stage in ("pretrain", "curriculum", "joint"):
        model = blockdrop(stage=stage, pretrained=previous)
        assert model.stage == stage
        if previous is not None:
            assert torch.equal(model.backbone.head[-1].bias, bias)
        with torch.no_grad():
            bias = model.backbone.head[-1].bias.add_(1).clone()
        images = data.load("digits", limit=2)
        trainer = Trainer(model, images, recipe_for("own", batch_size=2))
        checkpoint.save(tmp_path, {"run": "1", **trainer.state({})})
        previous = tmp_path


def test_pretraining_keeps_every_block():
    model = blockdrop(stage="pretrain")
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4)
    logits = model(x)
    assert torch.equal(model.loss(logits, y), nn.functional.cross_entropy(logits, y))
    scores, kept = model.eval()(x, return_gates=True)
    assert (kept == 1).all()
    assert (scores - model.backbone(x)).abs().max() <= 2**-24 * 1e4 * scores.abs().max()


def test_draws_follow_from_the_state():
    first, second = Draws(), Draws()
    one = first(3, 4, device=torch.device("cpu"))
    assert one.shape == (3, 4) and ((one > 0) & (one < 1)).all()
    second.load_state_dict(first.state_dict())
    following = [draws(5, device=torch.device("cpu")) for draws in (first, second, first)]
    assert torch.equal(following[0], following[1])
    assert not torch.equal(following[0], following[2])
    assert first.seed != Draws().seed
