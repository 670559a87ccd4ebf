"""Networks by name: options, patterns, checkpoints, errors; their parameter counts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import models
import mpkernels as mpk
from models import data
from models.networks.basecnn import BASECNN
from models.networks.ensemble import Ensemble
from models.networks.registry import register_config
from models.training import fit
from models.training.recipe import recipe_for
from proof.problems.networks import NETWORKS
from proof.where import ROOT

# Trainable parameters as the paper's specification has them, and with batch norm's statistics.
COUNTS = {
    "all_ensemble": (4_269_854, 4_275_614),
    "basecnn": (551_594, 552_618),
    "basecnn_2_cc": (1_111_878, 1_113_926),
    "basecnn_2_cp": (1_294_498, 1_296_546),
    "basecnn_3_cp": (2_222_092, 2_225_164),
    "basecnn_4_cp": (3_336_604, 3_340_700),
    "basecnn_3": (1_654_782, 1_657_854),
    "basecnn_3_cc": (1_667_989, 1_671_061),
    "basecnn_4_cc": (2_224_236, 2_228_332),
    "basecnn_ensemble": (1_654_782, 1_657_854),
    "cr_stitch_2": (1_103_206, 1_105_254),
    "deepcnn": (2_045_226, 2_048_042),
    "resnet18": (11_689_512, 11_699_112),
    "resnet18_2_cc": (23_401_682, 23_420_754),
    "resnet20": (273_066, 274_442),
    "resnet20_2_cc": (549_842, 552_562),
    "resnet20_2_cp": (594_430, 597_374),
    "resnet20_3_cp": (926_419, 930_835),
    "resnet20_4_cp": (1_281_612, 1_287_500),
    "resnet20_3_cc": (824_540, 828_604),
    "resnet20_4_cc": (1_099_340, 1_104_748),
    "resnet32": (467_946, 470_218),
    "resnet32_2_cc": (939_602, 944_114),
    "resnet32_3_cc": (1_409_180, 1_415_932),
    "resnet32_4_cc": (1_878_860, 1_887_852),
    "resnet34": (21_797_672, 21_814_696),
    "resnet44": (662_826, 665_994),
    "resnet50": (23_712_932, 23_766_052),
    "resnet50_2_cc": (47_540_682, 47_646_794),
    "resnet56": (857_706, 861_770),
    "resnet101": (42_705_060, 42_810_404),
    "resnet110": (1_734_666, 1_742_762),
    "resnet164": (1_704_154, 1_729_274),
    "resnext50_2_64": (44_404_644, 44_472_868),
    "vgg13_2_cc": (11_349_186, 11_355_074),
    "vgg16": (14_991_946, 15_001_418),
    "wide_resnet50_2": (67_039_140, 67_107_364),
    "widecnn": (1_673_034, 1_674_954),
    "wrn_18_1_5": (25_875_816, 25_890_344),
    "wrn_40_2": (2_243_546, 2_248_954),
}
# Trainable parameters with 100 classes.
HUNDRED = {
    "resnet20_2_cc": 561_542, "resnet20_3_cc": 842_090, "resnet20_4_cc": 1_122_740,
    "resnet32_2_cc": 951_302, "resnet32_3_cc": 1_426_730, "resnet32_4_cc": 1_902_260,
    "resnet20_2_cp": 606_130, "resnet20_3_cp": 943_969, "resnet20_4_cp": 1_305_012,
}  # fmt: skip


def on_meta(name, **options):
    """The network on the meta device, without memory or values."""
    with torch.device("meta"):
        return models.create(name, **options)


def trainable(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    model = on_meta(name)
    statistics = sum(b.numel() for b in model.buffers() if b.dim() > 0)
    assert (trainable(model), trainable(model) + statistics) == COUNTS[name]


@pytest.mark.parametrize("name", HUNDRED)
def test_counts_with_a_hundred_classes(name):
    assert trainable(on_meta(name, num_classes=100)) == HUNDRED[name]


@pytest.mark.parametrize("paths", [1, 2, 5])
def test_counts_of_any_number_of_paths(paths):
    # The parameters of each part of the network, summed by hand.
    cc = on_meta("basecnn", paths=paths, kind="cc")
    assert trainable(cc) == 555_771 * paths + 68 * paths**2 + 64
    cp = on_meta("basecnn", paths=paths, kind="cp")
    assert trainable(cp) == 460_299 * paths + 93_459 * paths**2 + 64
    assert trainable(on_meta("basecnn", paths=paths)) == paths * COUNTS["basecnn"][0]


def test_the_stitches_are_eighteen_weights():
    stitches = [m for m in models.create("cr_stitch_2").modules() if isinstance(m, mpk.CrossStitch)]
    assert sum(m.alpha.numel() for m in stitches) == 18


@pytest.mark.parametrize("name", NETWORKS)
def test_routers_are_those_of_the_tables(name):
    """Every router gets maps of the shapes for which kernels are tested and timed."""
    model = on_meta(name, routers="eager").eval()
    routers = []

    def note(router, inputs):
        (xs,) = inputs
        routers.append((tuple(xs[0].shape[1:]), router.inputs, router.outputs))

    for router in model.routers:
        router.register_forward_pre_hook(note)
    size = models.options(name)["size"]
    model(torch.empty(1, 3, size, size, device="meta"))
    expected = [((r.channels, *r.spatial), r.inputs, r.outputs) for r in NETWORKS[name]]
    if "resnet" in name:  # the last router gets pooled maps only; the table has unpooled ones too
        del expected[-2]
    assert routers == expected


def test_names_by_pattern():
    assert set(COUNTS) <= set(models.list())
    assert models.list() == sorted(models.list())
    assert models.list("resnet32_*") == ["resnet32_2_cc", "resnet32_3_cc", "resnet32_4_cc"]
    assert {"basecnn_2_cc", "vgg13_2_cc"} <= set(models.list("*_cc"))
    assert models.list("none") == []


def test_options():
    model = models.create("basecnn_2_cc", num_classes=7, in_channels=1, size=8, hidden=5)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 7)
    assert model.routers[1].hidden == 5
    options = models.options("resnet18_2_cc")
    assert options["num_classes"] == 1000 and options["size"] == 224 and options["kind"] == "cc"
    for name in ("resnet18", "resnet20", "basecnn_ensemble"):
        model = models.create(name, num_classes=3, in_channels=1).eval()
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("basecnm", {}, "create: name must be one of basecnn.*got 'basecnm'"),
        ("basecnn_2_cc", {"routers": "fast"}, "routers must be .* got 'fast'"),
        ("basecnn_2_cc", {"kind": "moe"}, "kind must be one of cc, cp, stitch, None, got 'moe'"),
        ("resnet20", {"kind": "stitch"}, "kind must be one of cc, cp, None, got 'stitch'"),
        ("wrn_40_2", {"kind": "cc"}, "kind 'cc' needs block \"basic\", got 'preactivation'"),
        ("resnet18", {"kind": "cp"}, "kind must be one of cc, None, got 'cp'"),
        ("resnet20", {"paths": 0}, "paths must be at least 1, got 0"),
        ("resnet20", {"depth": 0}, "depth must be at least 1, got 0"),
        ("resnet20", {"block": "dense"}, "block must be one of basic, .* got 'dense'"),
        ("resnet20", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("basecnn", {"size": 30}, "size must be a multiple of 4, got 30"),
        ("basecnn", {"stages": ((32,), ())}, "stages must hold at least one convolution each"),
        ("basecnn", {"dense": ()}, "dense must hold at least one width"),
        ("vgg16", {"kind": "cp"}, "two hidden dense layers, got dense = .512,."),
        ("resnet18", {"blocks": (2, 2)}, "blocks must be four positive numbers"),
        ("resnet50", {"widen": 2.0}, "widen is for basic blocks"),
        ("basecnn_ensemble", {"members": ()}, "members must hold at least one network"),
    ],
)
def test_a_value_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)


def test_an_option_that_is_not_there():
    with pytest.raises(TypeError, match="basecnn_2_cc has no option classes; it has num_classes,"):
        models.create("basecnn_2_cc", classes=10)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'basecnn_2_cc' is taken"):
        register_config("basecnn_2_cc", replace(BASECNN, paths=2), "")


def test_pretrained(tmp_path):
    """A run's checkpoint loads into both kinds of routers."""
    model = models.create("basecnn_2_cc")
    images = data.load("digits", limit=8)
    images = replace(images, test_x=images.test_x[:8], test_y=images.test_y[:8])
    recipe = recipe_for("basecnn_2_cc", epochs=1, batch_size=8)
    fit(model, images, recipe, out=tmp_path, progress=False, names={"name": "basecnn_2_cc"})
    path = tmp_path / "checkpoint.json"
    x = torch.randn(2, 3, 32, 32)
    for routers in ("fused", "eager"):
        loaded = models.create("basecnn_2_cc", pretrained=path, routers=routers)
        for (name, value), expected in zip(
            loaded.state_dict().items(), model.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), name
    assert torch.equal(
        models.create("basecnn_2_cc", pretrained=str(path)).eval()(x), model.eval()(x)
    )
    with pytest.raises(ValueError, match="checkpoint.json holds basecnn_2_cc, not basecnn_3_cc"):
        models.create("basecnn_3_cc", pretrained=path)
    with pytest.raises(ValueError, match="(?s)does not fit basecnn_2_cc: .*size mismatch"):
        models.create("basecnn_2_cc", pretrained=path, dense=(9, 9))
    with pytest.raises(FileNotFoundError, match="pretrained: there is no checkpoint at"):
        models.create("basecnn_2_cc", pretrained=tmp_path / "none.json")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt is not a checkpoint that training wrote"):
        models.create("basecnn_2_cc", pretrained=tmp_path / "other.pt")


EXPECTED_PATH = "a run's folder or its checkpoint.json is wanted, no weights come with the networks"


@pytest.mark.parametrize("value", [True, False, 1, b"run", ["run"], {}, torch.zeros(2)], ids=repr)
def test_pretrained_is_a_path(value):
    with pytest.raises(TypeError, match="pretrained must be the path of a run's folder or of its"):
        models.create("basecnn_2_cc", pretrained=value)
    with pytest.raises(TypeError, match="pretrained must be .* or None: no weights come with"):
        torch.hub.load(str(ROOT), "basecnn_2_cc", source="local", pretrained=value)


@pytest.mark.parametrize("value", ["imagenet", "", "none/checkpoint.json", "a\0b"], ids=repr)
def test_pretrained_that_is_not_there(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"pretrained: there is no .*; {EXPECTED_PATH}"):
        models.create("basecnn_2_cc", pretrained=value)


def test_pretrained_that_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path}/checkpoint.json; "):
        models.create("basecnn_2_cc", pretrained=tmp_path)
    (tmp_path / "checkpoint.json").mkdir()
    with pytest.raises(OSError, match="pretrained: .*checkpoint.json"):
        models.create("basecnn_2_cc", pretrained=tmp_path)
    for content in (b"", b"[]", b"3", b"\xff\xfe", b'{"format": "another"}'):
        (tmp_path / "other.json").write_bytes(content)
        with pytest.raises(ValueError, match="pretrained: .*other.json is not a checkpoint that"):
            models.create("basecnn_2_cc", pretrained=tmp_path / "other.json")


def test_an_ensemble_averages_probabilities():
    model = models.create("basecnn_ensemble", size=8).eval()
    x = torch.randn(3, 3, 8, 8)
    expected = torch.stack([member(x).softmax(1) for member in model.members]).mean(0)
    actual = model(x).exp()
    assert (actual - expected).abs().max() <= 2**-24 * 64
    assert torch.equal(model(x).argmax(1), expected.argmax(1))


def near(actual, expected):
    """Whether results agree up to the order of a few float64 operations."""
    return (actual - expected).abs().max() <= 2**-53 * 64 * expected.abs().max()


def test_members_train_by_themselves():
    members = [nn.Linear(4, 3).double() for _ in range(2)]
    x, y = torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])
    ensemble = Ensemble(members)
    ensemble.loss(ensemble(x), y).backward()
    for member in members:
        (expected,) = torch.autograd.grad(
            nn.functional.cross_entropy(member(x), y), [member.weight]
        )
        assert near(member.weight.grad, expected)
    ensemble.eval()
    expected = -torch.stack([m(x).softmax(1) for m in members]).mean(0).log()[range(5), y].mean()
    assert near(ensemble.loss(ensemble(x), y), expected)
