"""The networks of the paper, built on mpkernels' routers."""

from models import basecnn as _basecnn  # noqa: F401  (registers its networks)
from models._registry import create
from models._registry import list_models as list

__all__ = ["create", "list"]
