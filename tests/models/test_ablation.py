"""What record, route and the ablation say of a network whose gates are known: they see blue."""

import math

import pytest
import torch
from torch import nn

import mpkernels as mpk
from models import create, data
from models.paper.ablation import RULES, ablation, contrast, markdown
from models.training import fit
from models.training.gates import (
    Statistics,
    balance,
    entropy,
    figures,
    warn_of_deaths,
    watch,
)
from models.training.recipe import recipe_for

IMAGES = 60


class Images:
    """Every other image has much blue, and is of class 1; they are sorted by class."""

    test_count = IMAGES

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(IMAGES, 3, 4, 4, generator=generator)
        self.y = (torch.arange(IMAGES) >= IMAGES // 2).long()
        self.x[:, 2] += self.y[:, None, None]

    def test_batches(self, parts, device, crops=1):
        return ((self.x[part], self.y[part]) for part in parts)


class SeesBlue(nn.Module):
    """The first router sends blue images to the second path, which is all that it does.

    The second router's gates depend on the image as well, and on them nothing depends.
    """

    def __init__(self):
        super().__init__()
        self.blue, self.idle = mpk.CrossConnect(3, 1, 2, hidden=1), mpk.CrossConnect(3, 1, 2)
        with torch.no_grad():
            self.blue.w1.copy_(torch.tensor([[[0.0, 0.0, 1.0]]]))
            self.blue.b1.fill_(0)
            self.blue.w2.copy_(torch.tensor([[[-8.0], [8.0]]]))
            self.blue.b2.copy_(torch.tensor([[8.0, -8.0]]))  # even at a mean of 1

    def forward(self, x):
        first, second = self.blue(x)
        logits = [y.mean((1, 2, 3)) for y in (first, second)]
        return torch.stack(logits, 1) + 0 * sum(y.mean() for y in self.idle(x))


def test_a_gate_that_sees_blue():
    model, images = SeesBlue(), Images()
    with mpk.record(model) as recorded:
        model(images.x)
    blue = images.x[:, 2].mean((1, 2))
    gates = recorded["blue"].gates[:, 0, 1]
    assert torch.equal(gates > 0.5, images.y == 1)
    assert torch.corrcoef(torch.stack([blue, gates]))[0, 1] > 0.95
    torch.testing.assert_close(recorded["blue"].pooled[:, 0, 2], blue)

    result = ablation(model, images, "cpu", batch_size=20)
    assert result["accuracy"] == 1 and result["images"] == IMAGES
    assert result["routers"]["blue"]["deviation"] > 0.4 > result["routers"]["idle"]["deviation"]
    rows = {(row["routers"], row["rule"]): row for row in result["contrasts"]}
    assert rows.keys() == {(routers, rule) for routers in ("all", "blue", "idle") for rule in RULES}
    together = ablation(model, images, "cpu", batch_size=20, one_by_one=False)["contrasts"]
    assert together == [row for row in result["contrasts"] if row["routers"] == "all"]
    for routers in ("all", "blue"):
        for rule in ("mean", "uniform", "shuffled"):
            row = rows[routers, rule]
            assert 0.3 < row["accuracy"] < 0.7 and row["p"] < 1e-4, row
            assert row["low"] <= row["change"] < row["high"] < 0
        assert rows[routers, "argmax"]["accuracy"] == 1
    assert all(rows["idle", rule]["p"] == 1 == rows["idle", rule]["accuracy"] for rule in RULES)
    text = "\n".join(markdown(result))
    assert "With learned gates 100.00 % of 60 images" in text and "| blue | mean | 50.00 |" in text


def test_the_test_and_the_interval_of_a_change():
    learned = torch.tensor([True] * 90 + [False] * 10)
    right = torch.tensor([True] * 75 + [False] * 15 + [True] * 5 + [False] * 5)
    row = contrast("all", "mean", right, learned)
    assert (row.accuracy, round(row.change, 9)) == (0.8, -0.1)
    # 5 of 20 that differ: twice the lower tail of a fair coin.
    tail = sum(torch.tensor([1, 20, 190, 1140, 4845, 15504], dtype=torch.float64)) / 2**20
    assert row.p == pytest.approx(2 * float(tail))
    # Clopper's and Pearson's interval of 5 of 20: 0.0866 to 0.4910.
    assert (row.low, row.high) == pytest.approx(
        (-0.2 * (1 - 2 * 0.0866), -0.2 * (1 - 2 * 0.4910)), abs=1e-4
    )
    same = contrast("all", "mean", learned, learned)
    assert (same.change, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_statistics_of_batches_are_those_of_all():
    gates = torch.rand(11, 2, 3).softmax(-1)
    statistics = Statistics()
    for part in gates.split(4):
        statistics.add(part)
    torch.testing.assert_close(statistics.mean.float(), gates.mean(0))
    assert statistics.deviation == pytest.approx(float(gates.std(0, correction=0).mean()), rel=1e-4)
    entropy = -(gates * gates.log()).sum(2).mean()
    assert statistics.entropy == pytest.approx(float(entropy), rel=1e-5)


def test_a_stitch_with_a_negative_weight_has_no_entropy():
    statistics = Statistics()
    statistics.add(torch.tensor([[[1.05, -0.05]]]))
    assert statistics.entropy is None and statistics.usage == pytest.approx([1.05, -0.05])


def test_a_network_without_routers_is_refused():
    with pytest.raises(ValueError, match="no router"):
        ablation(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), Images(), "cpu")


def test_regularisers_by_hand():
    even, one = torch.full((3, 2, 4), 0.25), torch.eye(4)[:1].expand(3, 2, 4)
    ways = torch.eye(2).view(2, 1, 2)  # each image goes one way, both ways are used alike
    assert [float(balance(g)) for g in (even, one, ways)] == pytest.approx([0, 3, 0])
    assert [float(entropy(g)) for g in (even, one, ways)] == pytest.approx([math.log(4), 0, 0])
    never = one.clone().requires_grad_()
    assert torch.autograd.grad(entropy(never), never)[0].isfinite().all()
    gates = torch.randn(5, 2, 3, dtype=torch.float64).softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(balance, gates) and torch.autograd.gradcheck(entropy, gates)


def test_regularisers_do_in_training_what_they_say():
    small = {"stages": ((4,), (4,)), "dense": (4, 4)}

    def trained(**values):
        torch.manual_seed(0)
        model = create("basecnn_2_cc", **small)
        recipe = recipe_for("basecnn_2_cc", epochs=6, batch_size=32, **values)
        return fit(model, data.load("digits", limit=256), recipe, progress=False)[-1]

    plain, decided, even = trained(), trained(gate_entropy=1.0), trained(gate_entropy=-1.0)

    def total(line, what):
        return sum(value for name, value in line.items() if name.endswith(what))

    assert total(decided, "/entropy") < total(plain, "/entropy") < total(even, "/entropy")
    balanced = trained(balance=10.0, gate_entropy=1.0)
    imbalance = [
        sum(value**2 for name, value in line.items() if "/usage_" in name)
        for line in (balanced, decided)
    ]
    assert imbalance[0] < imbalance[1]
    for name in ("basecnn", "cr_stitch_2", "blockdrop_resnet110"):
        with pytest.raises(ValueError, match="the network returns no gates"):
            fit(create(name), data.load("digits", limit=32),
                recipe_for(name, epochs=1, balance=1.0), progress=False)  # fmt: skip


def test_dead_paths_are_told_once(capsys):
    model = SeesBlue()
    with watch(model) as watched:
        pass
    assert list(watched) == ["blue", "idle"]
    watched["blue"].add(torch.tensor([[[0.97, 0.03]]]).expand(4, 1, 2))
    watched["idle"].add(torch.full((4, 1, 2), 0.5))
    epoch = {"epoch": 1, **figures(watched)}
    assert epoch["gates/blue/dead_paths"] == 1 and epoch["gates/idle/dead_paths"] == 0
    assert epoch["gates/blue/usage_1"] == pytest.approx(0.03) and epoch["gates/idle/usage_0"] == 0.5
    warn_of_deaths([epoch])
    assert "1 of the paths behind blue get less than 10 %" in capsys.readouterr().err
    warn_of_deaths([epoch, {**epoch, "epoch": 2}])
    assert capsys.readouterr().err == ""
