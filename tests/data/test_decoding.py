"""Images that somebody has made to fill the memory, to hang or to be taken for something else."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_makers import png, random_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graftpop.data.decoding import decode_blocks, decode_image, size_of
from graftpop.errors import DataError


def header_alone(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is, and ends."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(content: bytes | str, size: tuple[int, int] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        decode_image(content, "the image", size)
    message = str(caught.value)
    assert message.startswith("the image: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("width", "height"), [(2**13, 2**12 + 1), (2**25 + 1, 1), (9000, 9000)])
def test_an_image_above_the_pixel_limit_is_refused_from_its_header(width: int, height: int) -> None:
    expected = f"the image: images must have at most 33554432 pixels, got {width} x {height}; shrink it"
    assert refusal(header_alone(width, height)) == expected
    with pytest.raises(DataError, match="images must have at most 33554432 pixels"):
        size_of(header_alone(width, height), "the image")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_an_absurd_image_is_refused(width: int, height: int) -> None:
    assert "exceeds limit" in refusal(header_alone(width, height))  # Pillow's own, above ours


def test_an_image_at_the_pixel_limit_is_decoded() -> None:
    white = encoded(Image.new("1", (2**13, 2**12), 1), "PNG")
    assert decode_image(white, "the image").size == (2**13, 2**12)


def test_an_image_of_another_size_than_the_first_is_refused_before_it_is_decoded() -> None:
    images = [(png(random_pixels(1, 8, 8)[0]), "0", 0), (header_alone(4096, 4096), "1", 0)]
    with pytest.raises(DataError, match="1: all images must have the size of the first, 8 x 8, got 4096 x 4096"):
        list(decode_blocks(images, 8, 8))


@given(short=st.integers(1, 20), ends=st.integers(0, 20), is_tall=st.booleans(), side=st.integers(1, 40))
def test_of_an_image_of_any_size_the_middle_becomes_a_square(short: int, ends: int, is_tall: bool, side: int) -> None:
    pixels = np.zeros((short, 3 * short + 2 * ends, 3), np.uint8)
    pixels[:, ends : ends + 3 * short] = (200, 100, 50)  # as far beside the cut as the filter of one pixel can see
    image = png(pixels.swapaxes(0, 1) if is_tall else pixels)
    ((blocks, labels),) = decode_blocks([(image, "0", 3)], side, side, scaled=True)
    assert blocks.shape == (1, side, side, 3)
    assert (blocks == (200, 100, 50)).all()
    assert labels.tolist() == [3]


def test_a_tiff_that_turns_itself_round_has_one_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (8, 4)), "TIFF", exif=exif)
    decoded = decode_image(turned, "the image")
    assert (decoded.height, decoded.width) == size_of(turned, "the image")


def test_a_jpeg_of_very_many_scans_is_refused_and_not_decoded_for_hours() -> None:
    content = encoded(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    start = time.monotonic()
    assert refusal(content[:-2] + last * 5000 + b"\xff\xd9").startswith("the image: a JPEG must have at most 100 scans")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(escaped) (w) file closefile\n",
        encoded(Image.new("RGB", (8, 8)), "TGA"),
        encoded(Image.new("RGB", (16, 16)), "ICO"),
        b"",
        b"<svg/>",
        bytes(1000),
    ],
)
def test_only_formats_of_photographs_are_opened_and_no_program_is_started(content: bytes) -> None:
    assert refusal(content) == "the image: not an image of a known format; replace or remove it"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
def test_an_image_that_was_cut_short_is_refused(kind: str) -> None:
    whole = encoded(Image.fromarray(random_pixels(1, 40, 40)[0]), kind)
    assert decode_image(whole, "the image").size == (40, 40)
    assert refusal(whole[: len(whole) // 2])


def test_texts_that_inflate_are_refused() -> None:
    whole = png(random_pixels(1, 8, 8)[0])
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**25)))
    assert "Decompressed data too large" in refusal(whole[:33] + text + whole[33:])


def test_a_file_larger_than_any_image_is_not_read_whole(tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)
    assert refusal(str(tmp_path / "large.png")) == (
        "the image: images must have at most 134217728 bytes, got more; shrink it"
    )


def test_a_palette_with_transparency_becomes_rgb_without_a_warning() -> None:
    palette = Image.fromarray(random_pixels(1, 8, 8)[0]).convert("P")
    content = encoded(palette, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(decode_image(content, "the image")), np.asarray(palette.convert("RGB")))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(os.fspath(tmp_path / "none.png")).startswith("the image: cannot be decoded ([Errno 2] No such file")
