"""One image file as the pixels that a network sees.

The first frame of an animation and the first page of a document, turned upright as its EXIF
orientation says, transparent parts on white, always as RGB bytes. Grey values of 16 bits are
divided by 257. Values without a fixed range (32-bit integers, floats) are refused: what is white
in them only their author knows.
"""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from contextlib import suppress
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .images import DataMissing, Preparation, normalise

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# What is looked for in folders, and how Pillow calls what may be in such a file: a JPEG named .png
# is read, and a PostScript program, for which Pillow would run another program, is not.
EXTENSIONS = {
    ".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# Pillow converts these to RGB by itself.
_OPAQUE = {"1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_TRANSPARENT = {"P", "LA", "La", "PA", "RGBA", "RGBa"}

# Without a handler Pillow's remarks on single files would fill the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow opens.

    From then on libtiff, with which Pillow reads, writes nothing about files on standard error.
    """
    from PIL import Image, _imaging

    Image.init()
    with suppress(
        AttributeError, OSError
    ):  # where it is linked so that its functions are not to be found
        libtiff = ctypes.CDLL(_imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)
    return [name for name in FORMATS if name in Image.OPEN]


def _grey_bytes(image: Image) -> Image:
    """Grey of 16 bits as 8: divided by 257 and rounded."""
    from PIL import Image

    # TIFF has grey of 12 bits too, and grey whose 0 is white.
    tags = getattr(image, "tag_v2", {})
    most = 2 ** tags.get(258, (16,))[0] - 1
    shades = ((np.arange(2**16) * 255 + most // 2) // most).astype(np.uint8)
    values = np.asarray(image)
    grey = shades[values]
    if tags.get(262) == 0:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _scale_transparency(image: ImageFile) -> None:
    """Gives a PNG's transparent colour as many bits as its pixels have once they are read."""
    if image.format != "PNG" or "transparency" not in image.info or not image.tile:
        return
    stored, colour = image.tile[0].args, image.info["transparency"]
    if stored in ("L;2", "L;4"):
        image.info["transparency"] = colour * (85 if stored == "L;2" else 17)
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _upright(image: Image, original: Image) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        turn = turns.get(original.getexif().get(0x0112, 1))
    except Exception:  # photographs with damaged EXIF data are common, and whole otherwise
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(original: ImageFile) -> Image:
    """The first frame, upright and opaque.

    Raises:
        DataMissing: its values have no fixed range, or Pillow cannot convert them.
    """
    from PIL import Image

    _scale_transparency(original)
    original.load()  # some formats have their EXIF data behind the pixels
    image: Image.Image = original
    # Netpbm's wide grey, and in older Pillows PNG's, is of 16 bits in the mode for 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and original.format in ("PNG", "PPM")):
        image = _grey_bytes(image)
    elif image.mode not in _OPAQUE | _TRANSPARENT:
        kind = {"I": "signed or 32-bit integers", "F": "floats"}.get(image.mode, image.mode)
        raise DataMissing(
            f"{os.fsdecode(original.filename)} has pixels whose black and white are not known, "
            f"{kind}: convert it to 8 or 16 bits without sign"
        )
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    # A conversion copies what needs none.
    return _upright(image if image.mode == "RGB" else image.convert("RGB"), original)


def picture(path: str | PathLike[str], size: int) -> Tensor:
    """An image file as uint8 [3, size, size], whatever its sides and colours.

    Raises:
        DataMissing: it cannot be read, is not whole, or its values have no fixed range; or the
            libraries that read images are not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise DataMissing("images are read with torchvision: pip install torchvision") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                pixels = functional.pil_to_tensor(_rgb(image))
        return functional.resize(pixels, [size, size], antialias=True)  # type: ignore[no-any-return]
    except DataMissing:
        raise
    except UnidentifiedImageError as error:
        reason = f"no {', '.join(_formats())} begins like this"
        raise DataMissing(f"{path} is not an image, or not whole: {reason}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not a decoder's
            raise DataMissing(f"{path} cannot be read: {error.strerror}") from error
        # Decoders raise whatever a damaged file makes them stumble over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataMissing(f"{path} is not an image, or not whole: {reason}") from error


def middle(path: str | PathLike[str], preparation: Preparation) -> Tensor:
    """What a network sees of an image file, before it is normalised: uint8 [3, size, size].

    Raises:
        DataMissing: see `picture`.
    """
    from torchvision.transforms.v2 import functional

    whole = picture(path, preparation.resized)
    return functional.center_crop(whole, [preparation.size] * 2)  # type: ignore[no-any-return]


def prepare(path: str | PathLike[str], preparation: Preparation) -> Tensor:
    """What a network sees of an image file, as `test_batches` gives it.

    Args:
        path: an image in any format that Pillow reads.
        preparation: that of the network.

    Returns:
        float32 [3, size, size].

    Raises:
        DataMissing: see `picture`.
    """
    return normalise(preparation, middle(path, preparation))
