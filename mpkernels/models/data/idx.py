"""IDX files of bytes, as MNIST and its likes have them, packed or not."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .images import DataMissing

# What MNIST and Fashion-MNIST hold together. A header that promises more is damaged.
MOST = 70_000


def find(folder: Path, name: str) -> Path | None:
    """The file of this name, or the one with .gz behind it."""
    paths = folder / name, folder / f"{name}.gz"
    return next((path for path in paths if path.exists()), None)


def read(path: Path, item: tuple[int, ...] = ()) -> Tensor:
    """All items of a file.

    No more is read or unpacked than an honest header of such items promises, and one byte.

    Args:
        path: the file; packed if its name ends in .gz.
        item: the sizes that one item must have.

    Returns:
        uint8 [N, *item], with N from 1 to `MOST`.

    Raises:
        DataMissing: the file is damaged, or holds something else.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            header = file.read(4)
            if header != bytes((0, 0, 8, 1 + len(item))):
                raise DataMissing(
                    f"{path} must begin as an IDX file of bytes in {1 + len(item)} dimensions, "
                    f"00 00 08 {1 + len(item):02x}, got {header.hex(' ') or 'nothing'}"
                )
            count, *sizes = np.frombuffer(file.read(4 * (1 + len(item))), ">u4").tolist()
            if tuple(sizes) != item or not 1 <= count <= MOST:
                raise DataMissing(
                    f"{path} must hold 1 to {MOST:,} items of {list(item)}, "
                    f"got {count:,} of {sizes}"
                )
            promised = count * math.prod(item)
            held = promised if packed else os.fstat(file.fileno()).st_size - file.tell()
            values = file.read(min(held, promised) + 1)
    except DataMissing:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's
            raise DataMissing(f"{path} cannot be read: {error.strerror}") from error
        raise DataMissing(f"{path} is damaged or not whole: {error}") from error
    if len(values) != promised:
        more = " or more" if len(values) > promised else ""
        raise DataMissing(
            f"{path} must hold {promised:,} bytes after its header, got {len(values):,}{more}"
        )
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).view(count, *item)
