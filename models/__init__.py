"""The networks of the paper, built on mpkernels' routers."""

from .networks import aig as _aig  # noqa: F401  (each registers its networks)
from .networks import basecnn as _basecnn  # noqa: F401
from .networks import blockdrop as _blockdrop  # noqa: F401
from .networks import capsnet as _capsnet  # noqa: F401
from .networks import ensemble as _ensemble  # noqa: F401
from .networks import highway as _highway  # noqa: F401
from .networks import hyper as _hyper  # noqa: F401
from .networks import resnet_cifar as _resnet_cifar  # noqa: F401
from .networks import resnet_imagenet as _resnet_imagenet  # noqa: F401
from .networks import squeeze as _squeeze  # noqa: F401
from .networks import vgg as _vgg  # noqa: F401
from .networks.registry import create, options
from .networks.registry import list_models as list

__all__ = ["create", "list", "options"]
