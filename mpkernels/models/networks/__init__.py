"""The networks. Importing a module adds its networks to the registry."""

from . import (  # noqa: F401
    aig,
    basecnn,
    blockdrop,
    capsnet,
    ensemble,
    highway,
    hyper,
    resnet_cifar,
    resnet_imagenet,
    squeeze,
    vgg,
)
