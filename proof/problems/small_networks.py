"""Every network on images small enough for a test."""

import torch

import models

# Bottlenecks and wide stacks at ImageNet's scale, 110 layers with decisions, capsules: each step
# takes seconds, even on small images.
HEAVY = {"resnet101", "resnet50", "resnet50_2_cc", "resnext50_2_64", "wide_resnet50_2"}
HEAVY |= {"aig_resnet110", "blockdrop_resnet110", "capsnet", "hyper_wrn40_2", "se_resnet110"}
DEEP = {"resnet44", "resnet56", "resnet110", "resnet164", "wrn_40_2"}
# Those that decide per image which of their parts run; test_adaptive.py builds them smaller still.
ADAPTIVE = {"aig_resnet110", "blockdrop_resnet110", "capsnet", "highway", "hyper_wrn40_2"}
ADAPTIVE |= {"se_basecnn", "se_deepcnn", "se_resnet110"}
ROUTED = models.list("*_cc") + models.list("*_cp") + ["cr_stitch_2"]


def image_size(name):
    """The smallest image that survives the network's pools and strides."""
    if name == "all_ensemble" or "deepcnn" in name:
        return 16
    if name == "capsnet":
        return 20
    settings = models.options(name)
    if "stages" in settings or "members" in settings:
        return 32 if name.startswith("vgg") else 8
    if settings.get("size") == 224:
        return 48  # the last maps are 2x2
    return 16 if "size" in settings else 32


def small(name, batch=4, **options):
    """The network, always with the same weights, and a batch of images and labels."""
    size = image_size(name)
    settings = models.options(name)
    if "size" in settings:
        options["size"] = size
    torch.manual_seed(0)
    model = models.create(name, **options)
    x = torch.randn(batch, 3, size, size)
    return model, x, torch.arange(batch) % settings["num_classes"]
