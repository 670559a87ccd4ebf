"""Image sets: `load(name)` reads one of `SETS`."""

from .images import DataMissing, DataSet, Images, normalise
from .sets import SETS, load

__all__ = ["SETS", "DataMissing", "DataSet", "Images", "load", "normalise"]
