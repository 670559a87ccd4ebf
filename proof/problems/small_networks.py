"""Every network on images so small that a test can afford it."""

import torch

import models

# Bottlenecks and wide stacks on ImageNet's scale, 110 layers with decisions, capsules: seconds a
# step, even on small images.
HEAVY = {"resnet101", "resnet50", "resnet50_2_cc", "resnext50_2_64", "wide_resnet50_2"}
HEAVY |= {"aig_resnet110", "blockdrop_resnet110", "capsnet", "hyper_wrn40_2", "se_resnet110"}
DEEP = {"resnet44", "resnet56", "resnet110", "resnet164", "wrn_40_2"}
# Those that decide per image which of their parts run; test_adaptive.py builds them smaller still.
ADAPTIVE = {"aig_resnet110", "blockdrop_resnet110", "capsnet", "highway", "hyper_wrn40_2"}
ADAPTIVE |= {"se_basecnn", "se_deepcnn", "se_resnet110"}
ROUTED = models.list("*_cc") + models.list("*_cp") + ["cr_stitch_2"]


def image_size(name):
    """The smallest that the network's pools and strides leave something of."""
    if name == "all_ensemble" or "deepcnn" in name:
        return 16
    if name == "capsnet":
        return 20
    known = models.options(name)
    if "stages" in known or "members" in known:
        return 32 if name.startswith("vgg") else 8
    if known.get("size") == 224:
        return 48  # the last maps are 2x2
    return 16 if "size" in known else 32


def small(name, batch=4, **options):
    """The network, always with the same weights, and images and labels for it."""
    size = image_size(name)
    known = models.options(name)
    if "size" in known:
        options["size"] = size
    torch.manual_seed(0)
    model = models.create(name, **options)
    x = torch.randn(batch, 3, size, size)
    return model, x, torch.arange(batch) % known["num_classes"]
