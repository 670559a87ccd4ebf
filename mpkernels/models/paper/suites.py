"""What the paper's tables compare, with the errors they report and the claims they support."""

from __future__ import annotations

from dataclasses import dataclass

from .tables import ROWS

# Percent of wrong test images as printed: CIFAR10 in Table 2 (200 epochs) and Table 3, top-1 of one
# crop in Table 4. The paper prints none for VGG13-2.
ERRORS = {
    "basecnn": 9.26, "widecnn": 8.96, "deepcnn": 8.49, "basecnn_3": 9.41,
    "basecnn_ensemble": 7.87, "all_ensemble": 6.9, "se_basecnn": 8.99, "se_deepcnn": 8.15,
    "cr_stitch_2": 7.89, "vgg16": 6.98, "capsnet": 10.6, "highway": 7.54,
    "basecnn_2_cp": 7.24, "basecnn_3_cp": 6.63, "basecnn_4_cp": 6.45,
    "basecnn_2_cc": 7.03, "basecnn_3_cc": 6.51, "basecnn_4_cc": 6.55,
    "resnet20": 8.75, "resnet110": 6.61, "resnet164": 5.93, "wrn_40_2": 5.33,
    "hyper_wrn40_2": 7.23, "se_resnet110": 5.21, "blockdrop_resnet110": 6.4, "aig_resnet110": 5.76,
    "resnet20_2_cp": 5.86, "resnet20_3_cp": 4.99, "resnet20_4_cp": 4.81,
    "resnet20_2_cc": 5.5, "resnet20_3_cc": 5.18, "resnet20_4_cc": 4.96,
    "resnet32_2_cc": 5.14, "resnet32_3_cc": 4.96, "resnet32_4_cc": 4.59,
    "resnet18": 30.4, "resnet34": 26.77, "wrn_18_1_5": 27.06, "resnet18_2_cc": 26.48,
    "resnet50": 20.46, "resnet101": 19.16, "wide_resnet50_2": 19.82, "resnext50_2_64": 20.26,
    "resnet50_2_cc": 18.64,
}  # fmt: skip

# The same of CIFAR100, which the paper prints of some networks of Table 3.
ERRORS_CIFAR100 = {
    "resnet110": 26.88, "resnet164": 25.16, "wrn_40_2": 26.04, "se_resnet110": 23.85,
    "blockdrop_resnet110": 26.3, "resnet20_2_cp": 27.7, "resnet20_3_cp": 25.13,
    "resnet20_4_cp": 23.82, "resnet20_2_cc": 27.36, "resnet20_3_cc": 25.76, "resnet20_4_cc": 24.81,
    "resnet32_2_cc": 25.96, "resnet32_3_cc": 24.51, "resnet32_4_cc": 23.52,
}  # fmt: skip

# The column of 350 epochs in Table 2, and the recipe of it.
LONGER = "cifar_cnn_350"
ERRORS_350 = {
    "basecnn_2_cp": 6.48, "basecnn_3_cp": 6.04, "basecnn_4_cp": 5.91,
    "basecnn_2_cc": 6.53, "basecnn_3_cc": 6.09, "basecnn_4_cc": 6.26,
}  # fmt: skip

# Networks whose members train by themselves; the trials of the members are theirs.
ENSEMBLES = {"all_ensemble": ("basecnn", "widecnn", "deepcnn"), "basecnn_ensemble": ("basecnn",)}


@dataclass(frozen=True)
class Entry:
    """A row of a comparison.

    Args:
        name: our name of the network.
        label: the paper's name of it.
        millions: its parameters in millions, as printed.
    """

    name: str
    label: str
    millions: str


SUITES = {
    f"table{table}": tuple(
        Entry(row.name, row.label, row.millions) for row in ROWS if row.table == table
    )
    for table in (2, 3, 4)
}


@dataclass(frozen=True)
class Claim:
    """An order that the paper claims: networks in `better` have smaller errors than in `worse`.

    Args:
        text: the claim in words.
        better, worse: names of networks; the claim is about every pair.
        equal: whether the claim is that their errors are about equal instead.
    """

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    equal: bool = False


_ROUTED = tuple(f"basecnn_{paths}_{kind}" for paths in (2, 3, 4) for kind in ("cp", "cc"))
_PLAIN = ("basecnn", "widecnn", "deepcnn", "se_basecnn", "se_deepcnn")
CLAIMS = (
    Claim("routed by the input is better than mixed by fixed weights", _ROUTED, ("cr_stitch_2",)),
    Claim("two paths with fixed weights are better than one path", ("cr_stitch_2",), _PLAIN),
    Claim("routed is better than one path", _ROUTED, _PLAIN),
    Claim("routing helps, not width", ("basecnn_3_cc", "basecnn_3_cp"), ("basecnn_3",)),
    Claim("three routed paths are better than an ensemble of three networks",
          ("basecnn_3_cc", "basecnn_3_cp"), ("basecnn_ensemble", "all_ensemble")),
    Claim("paths that never meet are worse than one", ("basecnn",), ("basecnn_3",)),
    Claim("three cross-connected paths are better than two", ("basecnn_3_cc",), ("basecnn_2_cc",)),
    Claim("three cross-predicted paths are better than two", ("basecnn_3_cp",), ("basecnn_2_cp",)),
    Claim("a fourth path hardly helps", ("basecnn_4_cc",), ("basecnn_3_cc",), equal=True),
    Claim("a fourth path hardly helps", ("basecnn_4_cp",), ("basecnn_3_cp",), equal=True),
    Claim("both kinds of routers do the same, 2 paths", ("basecnn_2_cp",), ("basecnn_2_cc",), True),
    Claim("both kinds of routers do the same, 3 paths", ("basecnn_3_cp",), ("basecnn_3_cc",), True),
    Claim("routed ResNets are better than deeper ones",
          ("resnet20_3_cc", "resnet20_3_cp"), ("resnet110",)),
    Claim("three cross-connected ResNets are better than two",
          ("resnet20_3_cc",), ("resnet20_2_cc",)),
    Claim("deeper routed ResNets are better", ("resnet32_2_cc",), ("resnet20_2_cc",)),
    Claim("routed ResNets of ImageNet are better than those of one path, deeper or wider",
          ("resnet18_2_cc",), ("resnet18", "resnet34", "wrn_18_1_5")),
    Claim("routed ResNets of ImageNet are better than those of one path, deeper or wider",
          ("resnet50_2_cc",), ("resnet50", "resnet101", "wide_resnet50_2", "resnext50_2_64")),
)  # fmt: skip
