"""BaseCNN for 32x32 images, its wider and deeper forms, and BaseCNN with several paths.

C32 C32 P C64 C64 P C128 C128 Flatten F32 F32 F (the paper's Table 1).
"""

from __future__ import annotations

from dataclasses import replace

from .cnn import CNNConfig
from .registry import register_config

BASECNN = CNNConfig()
WIDECNN = CNNConfig(stages=((64, 64), (128, 128), (256, 256)))
DEEPCNN = CNNConfig(stages=((32, 32), (64, 64), (128, 128, 128), (256, 256, 256)))

register_config("basecnn", BASECNN, "BaseCNN: six convolutions, three dense layers.")
register_config("widecnn", WIDECNN, "WideCNN: BaseCNN with twice the channels.")
register_config("deepcnn", DEEPCNN, "DeepCNN: ten convolutions, three dense layers.")
register_config("basecnn_3", replace(BASECNN, paths=3), "Three BaseCNNs on one input, averaged.")
for _paths in (2, 3, 4):
    for _kind, _word in (("cc", "cross-connected"), ("cp", "cross-predicted")):
        register_config(
            f"basecnn_{_paths}_{_kind}",
            replace(BASECNN, paths=_paths, kind=_kind),
            f"BaseCNN with {_paths} {_word} paths.",
        )
register_config(
    "cr_stitch_2",
    replace(BASECNN, paths=2, kind="stitch"),
    "BaseCNN with 2 paths mixed by learned weights that do not depend on the input.",
)
