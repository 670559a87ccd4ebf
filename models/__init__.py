"""The networks of the paper, built on mpkernels' routers."""

from models import aig as _aig  # noqa: F401  (each registers its networks)
from models import basecnn as _basecnn  # noqa: F401
from models import blockdrop as _blockdrop  # noqa: F401
from models import capsnet as _capsnet  # noqa: F401
from models import ensemble as _ensemble  # noqa: F401
from models import highway as _highway  # noqa: F401
from models import hyper as _hyper  # noqa: F401
from models import resnet_cifar as _resnet_cifar  # noqa: F401
from models import resnet_imagenet as _resnet_imagenet  # noqa: F401
from models import squeeze as _squeeze  # noqa: F401
from models import vgg as _vgg  # noqa: F401
from models._registry import create, options
from models._registry import list_models as list

__all__ = ["create", "list", "options"]
