"""Thousands of damaged image files, made from a seed: each is read, or refused by name."""

import io
import random
import resource
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from models import data
from models.data import folders
from models.data.decoding import FORMATS, picture

pytest.importorskip("torchvision", reason="torchvision is not installed")

SIZE, SECONDS, GIBIBYTES = 32, 60, 2

SIDES = (23, 17)
OPTIONS = {
    "TIFF": [{"compression": c} for c in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")],
    "JPEG": [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}],
    "WEBP": [{}, {"lossless": True}],
    "PNG": [{}, {"transparency": 7}],
}


MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")


def whole():
    """Small images as bytes, by format and mode; of what is not read, only the colour ones."""
    from PIL import Image

    Image.init()
    noise = np.random.default_rng(0).integers(0, 256, (*SIDES[::-1], 4), dtype=np.uint8)
    colours = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    for form in sorted(set(Image.SAVE) & set(Image.OPEN)):
        for mode in MODES if form in FORMATS else MODES[:1]:
            for options in OPTIONS.get(form, [{}]):
                file = io.BytesIO()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        image = Image.new(mode, SIDES, 1) if mode == "I;16" else None
                        image = image or colours.convert("RGB").convert(mode)
                        frames = [image, image.transpose(Image.Transpose.ROTATE_180)]
                        several = {"save_all": True, "append_images": frames[1:]}
                        # Pillow 13 crashes where it writes an animated AVIF that is turned.
                        extra = several if form in Image.SAVE_ALL else {}
                        extra = extra if form == "AVIF" else {**extra, "exif": exif}
                        image.save(file, form, **extra, **options)
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    continue  # no such mode in this format
                files[f"{form} {mode} {options}"] = file.getvalue()
    return files


def _damage(content, choose):
    """One kind of damage, at random."""
    data, kind = bytearray(content), choose.randrange(6)
    if kind == 0:
        return data[: choose.randrange(len(data))]
    if kind == 1:
        for _ in range(choose.randint(1, 8)):
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    elif kind == 2:
        for _ in range(choose.randint(1, 4)):
            data[choose.randrange(min(96, len(data)))] = choose.randrange(256)
    elif kind == 3:  # other sizes: each place where a side stands may get a larger number
        width = choose.choice((1, 2, 4))
        order = choose.choice(("big", "little"))
        side = choose.choice(SIDES).to_bytes(width, order)
        most = choose.choice((255, 65535, 2**31))
        number = min(choose.randint(0, most), 256**width - 1).to_bytes(width, order)
        data = data.replace(side, number, choose.randint(1, 3))
    elif kind == 4:
        at = choose.randrange(len(data))
        data[at : at + choose.randrange(9)] = choose.randbytes(choose.randrange(9))
    else:
        at = choose.randrange(len(data))
        data[at : at + 64] = choose.randbytes(64)
    return data


def mutated(count, seed=0):
    """Names and contents of `count` files, damaged once or twice."""
    choose, files = random.Random(seed), list(whole().items())
    choose.shuffle(files)
    for number in range(count):
        name, content = files[number % len(files)]
        for _ in range(choose.randint(1, 2)):
            content = bytes(_damage(content, choose)) or b"\0"
        yield f"{number:05d} {name}", content


class HangsError(BaseException):
    """Not an `Exception`, which a reader may catch."""


def read(path):
    """Its pixels or the reason, in `SECONDS`."""

    def stop(number, frame):
        raise HangsError(path)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return picture(path, SIZE)
    except data.DataMissing as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def poison():
    """None: memory that a decoder asks for and never touches would count once it is filled."""


def memory():
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_by_name(count, tmp_path, capfd):
    files = list(mutated(count))
    capfd.readouterr()  # what those who wrote them had to say
    before, samples, results = memory(), [], []
    for name, content in files:
        path = tmp_path / name
        path.write_bytes(content)
        samples.append((str(path), 0))
        results.append(read(str(path)))
    assert memory() - before < GIBIBYTES
    for (path, _), result in zip(samples, results):
        assert isinstance(result, torch.Tensor) or (path in result and "\n" not in result)
    refused = [at for at, result in enumerate(results) if isinstance(result, str)]
    assert count // 4 < len(refused) < count  # many, and some can still be read

    # The same through processes that read, of which no file ends one.
    seen = data.Preparation(("a",), (0.0,) * 3, (1.0,) * 3, SIZE, SIZE)
    images = folders.Folder([], samples, seen, workers=2)
    loader = DataLoader(
        folders._Test(images, False), batch_sampler=[[at] for at in range(count)], num_workers=2,
        collate_fn=folders._batch, timeout=SECONDS,
    )  # fmt: skip
    for result, again in zip(results, loader, strict=True):
        if isinstance(result, str):
            assert type(again) is data.DataMissing and str(again) == result
        else:
            assert torch.equal(again, result[None])
    readable = [at for at in range(count) if at not in set(refused)]
    for x, at in zip(images.test_batches(torch.tensor(readable).split(1), "cpu"), readable):
        assert torch.equal(x[0][0], data.normalise(seen, results[at]))
    for at in refused[:3]:
        with pytest.raises(data.DataMissing) as caught:
            list(images.test_batches([torch.tensor([at])], "cpu"))
        assert str(caught.value) == results[at]
    assert capfd.readouterr() == ("", "")
