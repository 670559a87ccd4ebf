"""Image sets: `load(name)` reads one of `SETS`, `prepare(path, preparation)` a single picture."""

from .decoding import prepare
from .images import DataMissing, DataSet, Images, Preparation, normalise
from .loaders import Loaders
from .sets import SETS, load

__all__ = [
    "SETS",
    "DataMissing",
    "DataSet",
    "Images",
    "Loaders",
    "Preparation",
    "load",
    "normalise",
    "prepare",
]
