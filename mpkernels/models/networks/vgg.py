"""VGG16 for 32x32 images, and the two-path VGG13 of the paper's visualisations (section 7)."""

from __future__ import annotations

from .cnn import CNNConfig
from .registry import register_config

# The usual form for CIFAR: one hidden dense layer of 512, and batch norm everywhere.
VGG16 = CNNConfig(
    stages=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    dense=(512,),
    pool_last=True,
)
# The paper does not say whether there is batch norm. Here it follows the convolutions and not the
# dense layers.
VGG13_2_CC = CNNConfig(
    num_classes=100,
    size=224,
    paths=2,
    kind="cc",
    stages=((32,) * 2, (64,) * 2, (128,) * 2, (256,) * 2, (256,) * 2),
    dense=(256, 256),
    dense_norm=False,
    pool_last=True,
)

register_config("vgg16", VGG16, "VGG16 for CIFAR: 13 convolutions, two dense layers.")
register_config("vgg13_2_cc", VGG13_2_CC, "VGG13 of half the width with 2 cross-connected paths.")
