"""The networks: their sizes, their routers, their memory format."""

import pytest
import torch
from torch import nn

import models
import mpkernels as mpk
from models._registry import register

# Trainable parameters as the paper's specification has them, and with batch norm's statistics.
COUNTS = {
    "basecnn": (551_594, 552_618),
    "basecnn_3": (1_654_782, 1_657_854),
    "basecnn_2_cc": (1_111_878, 1_113_926),
    "basecnn_3_cc": (1_667_989, 1_671_061),
    "basecnn_4_cc": (2_224_236, 2_228_332),
    "basecnn_2_cp": (1_294_498, 1_296_546),
    "basecnn_3_cp": (2_222_092, 2_225_164),
    "basecnn_4_cp": (3_336_604, 3_340_700),
    "cr_stitch_2": (1_103_206, 1_105_254),
}
ROUTED = [name for name in COUNTS if name not in ("basecnn", "basecnn_3")]


def test_every_network_is_listed():
    assert models.list() == sorted(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    model = models.create(name)
    train = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for b in model.buffers() if b.dim() > 0)
    assert (train, train + statistics) == COUNTS[name]


def test_the_stitches_are_eighteen_weights():
    model = models.create("cr_stitch_2")
    stitches = [m for m in model.modules() if isinstance(m, mpk.CrossStitch)]
    assert sum(m.alpha.numel() for m in stitches) == 18


def build(name, routers, **options):
    torch.manual_seed(0)
    return models.create(name, routers=routers, **options)


@pytest.mark.parametrize("name", ROUTED)
def test_eager_and_fused_are_one_network(name):
    fused, eager = build(name, "fused"), build(name, "eager")
    kinds = [{type(m).__module__ for m in net.routers} for net in (fused, eager)]
    file = "cross_predict" if name.endswith("_cp") else "modules"
    assert kinds == [{"mpkernels.modules"}, {f"mpkernels.eager.{file}"}]
    for (a, x), (b, y) in zip(fused.state_dict().items(), eager.state_dict().items(), strict=True):
        assert a == b and torch.equal(x, y)
    eager.load_state_dict(fused.state_dict())
    fused.load_state_dict(eager.state_dict())


@pytest.mark.parametrize("name", ROUTED)
def test_eager_and_fused_agree(name):
    # In float64 two correct networks differ by rounding alone, amplified by nine layers; a wrong
    # router differs in the first digits.
    fused, eager = build(name, "fused").double().eval(), build(name, "eager").double().eval()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found, wanted = fused(x), eager(x)
    assert (found - wanted).abs().max() <= 2**-53 * 1e6 * wanted.abs().max()


def step(model, x):
    """Loss and gradients."""
    loss = model(x).pow(2).sum()
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_gradients_of_eager_and_fused_agree(channels_last):
    options = {"channels_last": channels_last}
    nets = [build("basecnn_2_cp", kind, **options).double() for kind in ("fused", "eager")]
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found, wanted = (step(net, x) for net in nets)
    for f, w in zip(found, wanted, strict=True):
        assert (f - w).abs().max() <= 2**-53 * 1e6 * (w.abs().max() + 1)


def test_a_cross_predicted_network_compiles_and_exports():
    torch.use_deterministic_algorithms(False)
    model = build("basecnn_2_cp", "fused").double()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for f, w in zip(step(compiled, x), step(model, x), strict=True):
        assert (f - w).abs().max() <= 2**-53 * 1e6 * (w.abs().max() + 1)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model.eval(), (x,), dynamic_shapes={"x": {0: batch}})
    code = program.graph_module.code
    assert code.count("mpkernels.combine") == code.count("mpkernels.gate") == 4
    wanted = model(x[:2])
    assert (program.module()(x[:2]) - wanted).abs().max() <= 2**-53 * 1e6 * wanted.abs().max()


@pytest.mark.parametrize(("name", "routers"), [("basecnn_3_cc", 5), ("basecnn_3_cp", 4)])
def test_gates_are_returned_in_order(name, routers):
    model = models.create(name).eval()
    logits, gates = model(torch.randn(2, 3, 32, 32), return_gates=True)
    assert logits.shape == (2, 10)
    assert [tuple(g.shape) for g in gates] == [(2, 1, 3)] + [(2, 3, 3)] * (routers - 1)
    for g in gates:
        assert (g.sum(-1) - 1).abs().max() <= 4 * 2**-23
    assert models.create("basecnn_3").eval()(torch.randn(2, 3, 32, 32), return_gates=True)[1] == []


def test_the_logits_of_the_paths_are_averaged():
    model = models.create("basecnn_3").eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), torch.stack([path(x) for path in model.paths]).mean(0))


@pytest.mark.parametrize("routers", ["fused", "eager"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp"])
def test_all_maps_keep_the_memory_format(name, channels_last, routers):
    model = build(name, routers, channels_last=channels_last).eval()
    seen = []

    def note(module, inputs, output):
        maps = output[0] if isinstance(output, tuple) else output
        for y in maps if isinstance(maps, list) else [maps]:
            if y.dim() == 4:
                seen.append((type(module).__name__, y))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)) or module in set(
            model.routers
        ):
            module.register_forward_hook(note)
    model(torch.randn(2, 3, 32, 32))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert len(seen) >= 20
    assert [kind for kind, y in seen if not y.is_contiguous(memory_format=wanted)] == []


@pytest.mark.parametrize("name", ["basecnn_2_cc", "basecnn_2_cp"])
def test_channels_last_is_the_same_network(name):
    plain = build(name, "fused").double().eval()
    last = build(name, "fused", channels_last=True).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    wanted = plain(x)
    assert (last(x) - wanted).abs().max() <= 2**-53 * 1e6 * wanted.abs().max()


def test_options():
    model = models.create("basecnn_2_cc", classes=7, in_channels=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_errors():
    with pytest.raises(ValueError, match="create: name must be one of basecnn.*got 'basecnm'"):
        models.create("basecnm")
    with pytest.raises(ValueError, match="routers must be .* got 'fast'"):
        models.create("basecnn_2_cc", routers="fast")
    with pytest.raises(TypeError):
        models.create("basecnn", routers="fused")

    def basecnn():
        return nn.Identity()

    with pytest.raises(ValueError, match="'basecnn' is taken"):
        register(basecnn)
