"""The parameter counts that the paper prints, in millions (its Tables 2 to 4), with remarks.

Remarks say what is known about a figure that does not fit. A quoted figure is one that the authors
took from another paper.
"""

from __future__ import annotations

from dataclasses import dataclass

QUOTED = "quoted figure"


@dataclass(frozen=True)
class Printed:
    """One row of a table of the paper.

    Args:
        table: number of the table; 0 for a network that only the text mentions.
        label: the paper's name of the network.
        name: our name of it, for `models.create`.
        millions: the parameter count as printed; empty if there is none.
        remark: what is known about the figure.
    """

    table: int
    label: str
    name: str
    millions: str
    remark: str = ""


ROWS = (
    Printed(2, "BaseCNN", "basecnn", "0.55"),
    Printed(2, "WideCNN", "widecnn", "1.67"),
    Printed(2, "DeepCNN", "deepcnn", "2.0", "2.05 follows from All Ensemble"),
    Printed(
        2, "BaseCNN-3", "basecnn_3", "1.5",
        "unexplained: sharing or averaging any part does not give 1.5; likely a misprint of 1.65",
    ),
    Printed(2, "BaseCNN Ensemble", "basecnn_ensemble", "1.66", "3 members"),
    Printed(2, "All Ensemble", "all_ensemble", "4.27"),
    Printed(
        2, "SEBaseCNN", "se_basecnn", "0.58",
        "no common rule gives both SE figures; a reduction of 16 is the usual choice, "
        "squeeze=\"hidden32\" gives 580,906",
    ),
    Printed(2, "SEDeepCNN", "se_deepcnn", "2.06", "squeeze=\"ends\" gives 2,056,616"),
    Printed(2, "Cr-Stitch2", "cr_stitch_2", "1.11"),
    Printed(2, "VGG16", "vgg16", "14.9"),
    Printed(
        2, "Capsule network (Sabour et al.)", "capsnet", "8.2",
        f"{QUOTED}; that of 28x28 grey images and 32 primary types, here 8,215,568",
    ),
    Printed(2, "Highway", "highway", "2.3", QUOTED),
    Printed(2, "BaseCNN-2-CP", "basecnn_2_cp", "1.3"),
    Printed(2, "BaseCNN-3-CP", "basecnn_3_cp", "2.23"),
    Printed(2, "BaseCNN-4-CP", "basecnn_4_cp", "3.34"),
    Printed(2, "BaseCNN-2-CC", "basecnn_2_cc", "1.11"),
    Printed(2, "BaseCNN-3-CC", "basecnn_3_cc", "1.67"),
    Printed(
        2, "BaseCNN-4-CC", "basecnn_4_cc", "2.22",
        "no choice of biases and batch norm rounds to all figures of this table",
    ),
    Printed(3, "ResNet20", "resnet20", "0.27"),
    Printed(3, "ResNet110", "resnet110", "1.7", QUOTED),
    Printed(
        3, "ResNet164", "resnet164", "2.5",
        f"{QUOTED}; the standard ResNet164 of bottlenecks has 1.70 M",
    ),
    Printed(3, "WRN-40-2", "wrn_40_2", "2.2", QUOTED),
    Printed(3, "HyperWRN40-2", "hyper_wrn40_2", "0.15", QUOTED),
    Printed(3, "SEResNet110", "se_resnet110", "1.7", QUOTED),
    Printed(
        3, "BlockDrop", "blockdrop_resnet110", "1.7",
        f"{QUOTED}; that of the ResNet110 alone, the policy has 81,046 more",
    ),
    Printed(3, "ConvNet-AIG", "aig_resnet110", "1.78", QUOTED),
    Printed(3, "ResNet20-2-CP", "resnet20_2_cp", "0.59", "at least one CP figure is no rounding"),
    Printed(3, "ResNet20-3-CP", "resnet20_3_cp", "0.92", "see ResNet20-2-CP"),
    Printed(3, "ResNet20-4-CP", "resnet20_4_cp", "1.29", "see ResNet20-2-CP"),
    Printed(3, "ResNet20-2-CC", "resnet20_2_cc", "0.55"),
    Printed(3, "ResNet20-3-CC", "resnet20_3_cc", "0.82"),
    Printed(3, "ResNet20-4-CC", "resnet20_4_cc", "1.1"),
    Printed(3, "ResNet32-2-CC", "resnet32_2_cc", "0.94"),
    Printed(3, "ResNet32-3-CC", "resnet32_3_cc", "1.41"),
    Printed(3, "ResNet32-4-CC", "resnet32_4_cc", "1.88"),
    Printed(4, "ResNet18", "resnet18", "11.7", QUOTED),
    Printed(4, "ResNet34", "resnet34", "21.8", QUOTED),
    Printed(4, "WRN-18-1.5", "wrn_18_1_5", "25.9", QUOTED),
    Printed(4, "ResNet18-2-CC", "resnet18_2_cc", "23.4"),
    Printed(4, "ResNet50", "resnet50", "23.71"),
    Printed(4, "ResNet101", "resnet101", "42.7"),
    Printed(
        4, "WideResNet50-2", "wide_resnet50_2", "62.0",
        "probably a misprint of 67.0 (68.88 with 1000 classes)",
    ),
    Printed(
        4, "ResNeXt50-2-64", "resnext50_2_64", "47.5",
        "unexplained: the figure of ResNet50-2-CC (46.25 with 1000 classes)",
    ),
    Printed(4, "ResNet50-2-CC", "resnet50_2_cc", "47.5"),
    Printed(0, "VGG13-2", "vgg13_2_cc", ""),
)  # fmt: skip
