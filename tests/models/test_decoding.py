"""Image files of every mode as RGB bytes, and what is refused."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

from models import data
from models.data.decoding import EXTENSIONS, FORMATS, picture

pytest.importorskip("torchvision", reason="torchvision is not installed")
from PIL import Image  # noqa: E402

SIZE = 16
RAMP = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def read(image, tmp_path, name="image.png", **options):
    """What becomes of an image that Pillow writes; its size is kept, so pixels are its own."""
    image.save(tmp_path / name, **options)
    return picture(tmp_path / name, SIZE).numpy().transpose(1, 2, 0)


def png(depth, kind, rows, **chunks):
    """A PNG of any bit depth and colour type, which Pillow need not be able to write."""

    def chunk(name, content):
        whole = name.encode() + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", SIZE, SIZE, depth, kind, 0, 0, 0)
    parts = {"IHDR": head, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm", "image.jp2"])
def test_sixteen_bits_are_divided_by_257(name, tmp_path):
    pixels = read(Image.fromarray(RAMP), tmp_path, name)
    assert np.array_equal(pixels[..., 0], np.rint(RAMP / 257)), pixels
    assert (pixels == pixels[..., :1]).all()
    assert 120 < pixels.mean() < 135


def tiff(bits, photometric, content, order="<", sample=1):
    """A TIFF of one strip in the simplest form."""
    tags = [(256, 3, SIZE), (257, 3, SIZE), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
            (273, 4, 200), (277, 3, 1), (278, 3, SIZE), (279, 4, len(content)),
            (339, 3, sample)]  # fmt: skip
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, 1)
        + struct.pack(order + ("I" if kind == 4 else "Hxx"), value)
        for tag, kind, value in tags
    )
    body = head + struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return body.ljust(200, b"\0") + content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(16, 1, RAMP.astype(">u2").tobytes(), ">"), RAMP / 257),
        (tiff(16, 0, RAMP.tobytes()), 255 - np.rint(RAMP / 257)),
        (tiff(12, 1, b"\x80\x0f\xff" * (SIZE * SIZE // 2)), np.tile([128, 255], SIZE * SIZE // 2)),
    ],
    ids=["big endian", "0 is white", "12 bits"],
)
def test_grey_tiffs(content, expected, tmp_path):
    (tmp_path / "image.tif").write_bytes(content)
    grey = picture(tmp_path / "image.tif", SIZE)[0].numpy()
    assert np.array_equal(grey, np.rint(expected).reshape(SIZE, SIZE))


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (RAMP.astype(np.int32) * 9, "signed or 32-bit integers"),
        (RAMP.astype(np.float32), "floats"),
    ],
)
def test_values_without_a_range_are_refused(pixels, kind, tmp_path):
    with pytest.raises(data.DataMissing, match=rf"image.tif has pixels .* not known, {kind}: conv"):
        read(Image.fromarray(pixels), tmp_path, "image.tif")
    (tmp_path / "image.tif").write_bytes(tiff(16, 1, RAMP.tobytes(), sample=2))
    with pytest.raises(data.DataMissing, match="signed or 32-bit integers"):
        picture(tmp_path / "image.tif", SIZE)


def test_sixteen_bits_of_colour_are_those_of_pillow(tmp_path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in NOISE.astype(np.uint16) * 257)
    (tmp_path / "image.png").write_bytes(png(16, 2, rows))
    assert np.array_equal(picture(tmp_path / "image.png", SIZE).permute(1, 2, 0).numpy(), NOISE)


def oriented(orientation):
    """What a camera stores that is turned so."""
    image = Image.fromarray(NOISE)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # inverses, as numbers of Pillow's transposes
    return image if orientation == 1 else image.transpose(back[orientation])


@pytest.mark.parametrize("kind", ["png", "tif", "webp", "jpg", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, kind, tmp_path):
    if Image.registered_extensions().get(f".{kind}") not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    finest = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"},
              "jpg": {"quality": 100, "subsampling": 0}}.get(kind, {})  # fmt: skip
    pixels = read(oriented(orientation), tmp_path, f"image.{kind}", exif=exif, **finest)
    assert np.abs(pixels.astype(int) - NOISE).max() <= (8 if kind in ("jpg", "avif") else 0)


def test_a_whole_image_with_damaged_exif_is_read(tmp_path):
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        pixels = read(Image.fromarray(NOISE), tmp_path, "image.png", exif=exif)
        assert np.array_equal(pixels, NOISE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_white(mode, tmp_path):
    grey = Image.fromarray(NOISE).convert("L")
    mask = Image.new("L", (SIZE, SIZE), 255)
    mask.paste(0, (0, 0, SIZE, 4))
    mask.paste(51, (0, 4, SIZE, 8))
    image = grey.convert(mode)
    image.putalpha(mask)
    name = "image.tif" if mode == "PA" else "image.png"
    shade, alpha = np.asarray(grey).astype(float), np.asarray(mask) / 255
    pixels = read(image, tmp_path, name)[..., 0]
    assert (pixels[:4] == 255).all() and np.array_equal(pixels[8:], np.asarray(grey)[8:])
    assert np.abs(pixels - (shade * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize(
    ("depth", "kind", "colour", "shade"),
    [(1, 0, (1,), 1), (2, 0, (2,), 2), (4, 0, (9,), 9), (8, 0, (77,), 77), (16, 0, (777,), 777),
     (8, 2, (1, 2, 3), (1, 2, 3)), (16, 2, (257, 514, 771), (257, 514, 771))],
)  # fmt: skip
def test_a_transparent_colour_is_white(depth, kind, colour, shade, tmp_path):
    """Of 1, 2, 4, 8 and 16 bits; the left half of the image has it, the right half is black."""
    if depth < 8:
        row = int(f"{shade:0{depth}b}" * (SIZE // 2) + "0" * depth * (SIZE // 2), 2)
        row = row.to_bytes(SIZE * depth // 8, "big")
    else:
        values = np.zeros((SIZE, len(colour)), ">u2" if depth == 16 else "u1")
        values[: SIZE // 2] = shade
        row = values.tobytes()
    transparent = struct.pack(f">{len(colour)}H", *colour)
    (tmp_path / "image.png").write_bytes(png(depth, kind, (b"\0" + row) * SIZE, tRNS=transparent))
    pixels = picture(tmp_path / "image.png", SIZE)
    assert (pixels[..., : SIZE // 2] == 255).all() and (pixels[..., SIZE // 2 :] == 0).all()


def test_palettes(tmp_path):
    image = Image.fromarray(NOISE).quantize(16)
    assert np.array_equal(read(image, tmp_path), np.asarray(image.convert("RGB")))
    for transparency in (3, bytes([255] * 3 + [0] + [255] * 12)):
        expected = np.asarray(image.convert("RGB")).copy()
        expected[np.asarray(image) == 3] = 255
        assert np.array_equal(read(image, tmp_path, transparency=transparency), expected)


@pytest.mark.parametrize("name", ["image.gif", "image.png", "image.tif", "image.webp", "image.mpo"])
def test_the_first_frame_counts(name, tmp_path):
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")]
    kept = {"save_all": True, "append_images": frames[1:], "lossless": True}
    pixels = read(frames[0], tmp_path, name, **kept)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "1", "L"])
def test_other_modes_as_pillow_converts_them(mode, tmp_path):
    image = Image.fromarray(NOISE).convert("RGB")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        image = image.convert(mode)
    expected = np.asarray(image.convert("RGB"))
    pixels = read(image, tmp_path, "image.tif")
    assert np.array_equal(pixels, expected)


def test_every_extension_is_read(tmp_path):
    written = {**Image.registered_extensions(), ".apng": "PNG", ".mpo": "JPEG"}
    for extension in sorted(EXTENSIONS):
        if written.get(extension) not in Image.SAVE:
            assert extension == ".avif"
            continue
        image = Image.new("1" if extension == ".pbm" else "RGB", (SIZE, SIZE), "white")
        assert (read(image, tmp_path, f"image{extension}") == 255).all()
        assert written[extension] in FORMATS


def test_only_these_formats_are_opened(tmp_path):
    """Pillow hands PostScript to another program."""
    for form in ("EPS", "ICNS", "TGA"):
        with pytest.raises(data.DataMissing, match="no PNG, JPEG.* begins like this"):
            read(Image.new("RGB", (SIZE, SIZE)), tmp_path, format=form)
    image = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(image, "PNG")
    (tmp_path / "image.jpg").write_bytes(image.getvalue())  # ImageNet has such files
    assert picture(tmp_path / "image.jpg", SIZE)[0].min() == 255


@pytest.mark.parametrize(("sides", "kind"), [((20000, 20000), "Error"), ((10000, 9000), "Warning")])
def test_decompression_bombs_are_refused(sides, kind, tmp_path):
    bomb = png(8, 0, b"").replace(struct.pack(">II", SIZE, SIZE), struct.pack(">II", *sides))
    (tmp_path / "image.png").write_bytes(
        bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    )
    with pytest.raises(data.DataMissing, match="image.png is not .* decompression bomb") as caught:
        picture(tmp_path / "image.png", SIZE)
    assert type(caught.value.__cause__).__name__ == f"DecompressionBomb{kind}"


@pytest.mark.parametrize(
    "failure",
    [ValueError("two\nlines"), struct.error("short"), OverflowError(), EOFError(), MemoryError(),
     zlib.error("bad"), IndexError("range"), KeyError(7), RecursionError(), AssertionError()],
    ids=lambda failure: type(failure).__name__,
)  # fmt: skip
@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_a_decoder_raises_names_the_file(failure, workers, tmp_path, monkeypatch):
    from models.data.folders import Folder

    def fail(*arguments, **options):
        raise failure

    (tmp_path / "image.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    seen = data.Preparation(("a",), (0.5,) * 3, (0.5,) * 3, SIZE, SIZE)
    images = Folder([], [(str(tmp_path / "image.png"), 0)], seen, workers)
    with pytest.raises(data.DataMissing) as caught:
        list(images.test_batches([torch.tensor([0])], "cpu"))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'image.png'} is not an image, or not whole: ")
    assert "\n" not in text and len(text) > len(f"{tmp_path}/image.png is not an image, whole: ")


def test_a_file_that_the_system_refuses_is_not_called_damaged(tmp_path):
    path = tmp_path / "gone.png"
    with pytest.raises(data.DataMissing, match=f"^{path} cannot be read: No such file or dir"):
        picture(path, SIZE)


REMARKS = """
import logging, sys
from models.data import DataMissing
from models.data.decoding import picture

for path in sys.argv[1:]:
    try:
        picture(path, 16)
        print("read")
    except DataMissing:
        print("refused")
    logging.getLogger("PIL.TiffImagePlugin").error("more samples than can be decoded")
"""


def test_remarks_on_files_do_not_reach_the_terminal(tmp_path):
    """Those of Pillow's warnings, its logger, and of libtiff, which writes past Python."""
    whole = io.BytesIO()
    Image.fromarray(NOISE).save(whole, "TIFF", compression="tiff_lzw")
    damaged = bytearray(whole.getvalue())
    damaged[40:60] = bytes([255]) * 20
    (tmp_path / "lzw.tif").write_bytes(damaged)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\xff\xff"
    Image.fromarray(NOISE).save(tmp_path / "exif.jpg", exif=exif)
    result = subprocess.run(
        [sys.executable, "-c", REMARKS, tmp_path / "lzw.tif", tmp_path / "exif.jpg"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("refused\nread\n", "")
