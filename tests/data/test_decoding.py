"""Decoding of hostile images: too large, too slow, damaged, or of another format."""

import io
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_makers import png, random_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from graftpop.data import decoding
from graftpop.data.decoding import ImageSize, decode_blocks, decode_image, find_damage, size_of
from graftpop.errors import DataError


def header_alone(width: int, height: int) -> bytes:
    """Return a PNG with a header of this size and no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(content: bytes | str, size: tuple[int, int] | None = None) -> str:
    """Return the message that refuses an image, less its name."""
    with pytest.raises(DataError) as caught:
        decode_image(content, "the image", size)
    message = str(caught.value)
    assert message.startswith("the image: ")
    assert "\n" not in message
    return message.removeprefix("the image: ")


@pytest.mark.parametrize(("width", "height"), [(2**13, 2**12 + 1), (2**25 + 1, 1), (9000, 9000)])
def test_image_above_the_pixel_limit_is_refused_by_header(width: int, height: int) -> None:
    message = refusal(header_alone(width, height))
    assert "33554432" in message
    assert f"got {width} x {height}" in message
    with pytest.raises(DataError, match=f"^the image: .*33554432.*got {width} x {height}"):
        size_of(header_alone(width, height), "the image")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_image_above_the_limit_of_pillow_is_refused(width: int, height: int) -> None:
    assert "exceeds limit" in refusal(header_alone(width, height))  # Pillow's message


def test_image_at_the_pixel_limit_is_decoded() -> None:
    white = encoded(Image.new("1", (2**13, 2**12), 1), "PNG")
    assert decode_image(white, "the image").size == (2**13, 2**12)


@pytest.mark.parametrize("is_file", [False, True])
def test_image_at_the_byte_limit_is_decoded(is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(random_pixels(1, 8, 8)[0])
    (tmp_path / "image.png").write_bytes(content)
    image = str(tmp_path / "image.png") if is_file else content
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", len(content))
    assert decode_image(image, "the image").size == (8, 8)
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", len(content) - 1)
    assert f"{len(content) - 1} bytes" in refusal(image)


def test_image_of_another_size_is_refused_before_decoding() -> None:
    images = [(png(random_pixels(1, 8, 8)[0]), "0", 0), (header_alone(4096, 4096), "1", 0)]
    with pytest.raises(DataError, match=r"^1: .* 8 x 8, got 4096 x 4096"):
        list(decode_blocks(images, 8, 8))


def test_image_of_another_size_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> None:
        raise AssertionError("decoded")

    image = png(random_pixels(1, 8, 6)[0])
    monkeypatch.setattr(Image.Image, "convert", convert)
    message = refusal(image, (8, 8))
    assert "8 x 8" in message
    assert "got 6 x 8" in message


@pytest.mark.parametrize(
    ("max_images", "max_bytes", "sizes"),
    [
        (4, 10**6, [4, 4, 2]),
        (1024, 3 * 2 * 5 * 3, [3, 3, 3, 1]),  # three images of 2 x 5 pixels
        (1024, 3 * 2 * 5 * 3 - 1, [2, 2, 2, 2, 2]),
        (1024, 1, [1] * 10),
    ],
)
def test_blocks_are_limited_in_images_and_bytes(
    max_images: int, max_bytes: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_BLOCK_IMAGES", max_images)
    monkeypatch.setattr(decoding, "MAX_BLOCK_BYTES", max_bytes)
    pixels = random_pixels(10, 2, 5)
    blocks = list(decode_blocks(((png(image), "", label) for label, image in enumerate(pixels)), 2, 5))
    assert [len(labels) for _, labels in blocks] == sizes
    assert np.array_equal(np.concatenate([block for block, _ in blocks]), pixels)
    assert np.concatenate([labels for _, labels in blocks]).tolist() == list(range(10))


def test_encoded_bytes_in_memory_are_limited() -> None:
    content = png(random_pixels(1, 2, 5)[0]) + bytes(2**25)  # decoders ignore the rest of the file
    read = []

    def images() -> Iterator[tuple[bytes, str, int]]:
        for label in range(100):
            read.append(label)
            yield content, "", label

    blocks = decode_blocks(images(), 2, 5)
    _, labels = next(blocks)
    assert labels.tolist() == read == [0, 1]
    assert sum(len(labels) for _, labels in blocks) == 98


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_image_above_8_bits_per_color_is_refused(mode: str) -> None:
    kind = np.float32 if mode == "F" else np.uint16 if mode == "I;16" else np.int32
    image = Image.fromarray(np.full((4, 4), 300, kind))
    assert image.mode == mode
    assert f"mode {mode};" in refusal(encoded(image, "TIFF"))


@given(short=st.integers(1, 20), ends=st.integers(0, 20), is_tall=st.booleans(), side=st.integers(1, 40))
def test_scaled_image_is_its_central_square(short: int, ends: int, is_tall: bool, side: int) -> None:
    pixels = np.zeros((short, 3 * short + 2 * ends, 3), np.uint8)
    pixels[:, ends : ends + 3 * short] = (200, 100, 50)  # wide enough for the filter of the outer pixels
    image = png(pixels.swapaxes(0, 1) if is_tall else pixels)
    ((blocks, labels),) = decode_blocks([(image, "0", 3)], side, side, size=side)
    assert blocks.shape == (1, side, side, 3)
    assert (blocks == (200, 100, 50)).all()
    assert labels.tolist() == [3]


@pytest.mark.parametrize("size", [16, (16, 16)])
def test_scaling_by_half_keeps_a_gradient(size: ImageSize) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None], (32, 32, 3))  # 8 per column
    ((blocks, _),) = decode_blocks([(png(ramp), "0", 0)], 16, 16, size=size)
    inside = slice(1, 15)  # the filter of the outer pixels has no symmetric neighbors
    assert (blocks[0, :, inside] == (np.arange(16) * 16 + 4)[inside, None]).all()  # 8 * (2 * column + 0.5)


def test_size_of_two_sides_stretches_the_image() -> None:
    halves = np.zeros((8, 4, 3), np.uint8)
    halves[:, 2:] = 255
    ((blocks, _),) = decode_blocks([(png(halves), "0", 0)], 4, 8, size=(4, 8))
    assert blocks.shape == (1, 4, 8, 3)
    assert (blocks[0, :, :3] < 64).all()
    assert (blocks[0, :, 5:] > 192).all()


def rotated_tiff() -> bytes:
    """Return a TIFF of 8 x 4 pixels whose orientation tag rotates it by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (8, 4)), "TIFF", exif=exif)


def test_rotated_tiff_has_the_size_that_its_header_states() -> None:
    decoded = decode_image(rotated_tiff(), "the image")
    assert (decoded.height, decoded.width) == size_of(rotated_tiff(), "the image")


def test_size_is_checked_again_after_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in versions of Pillow that rotate while they decode.
    monkeypatch.setattr(Image.Image, "convert", lambda *_: Image.new("RGB", (4, 8)))
    message = refusal(encoded(Image.new("RGB", (8, 4)), "PNG"), (4, 8))
    assert "8 x 4" in message
    assert "got 4 x 8" in message


def test_jpeg_of_many_scans_is_refused_within_a_second() -> None:
    content = encoded(Image.new("RGB", (4096, 4096)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    start = time.monotonic()
    assert "100 scans" in refusal(content[:-2] + last * 5000 + b"\xff\xd9")
    assert time.monotonic() - start < 1


def test_scans_are_limited_in_jpeg_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_pixels(1, 16, 16)[0]
    jpeg = encoded(Image.fromarray(pixels), "JPEG", progressive=True)
    num_scans = jpeg.count(b"\xff\xda")
    assert num_scans > 1
    monkeypatch.setattr(decoding, "MAX_SCANS", num_scans)
    assert decode_image(jpeg, "the image").size == (16, 16)
    monkeypatch.setattr(decoding, "MAX_SCANS", num_scans - 1)
    assert f"{num_scans - 1} scans" in refusal(jpeg)
    pixels[:] = (0xFF, 0xDA, 0xFF)  # the marker of a scan, in the raw pixels of a BMP
    assert np.array_equal(np.asarray(decode_image(encoded(Image.fromarray(pixels), "BMP"), "the image")), pixels)


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
def test_other_formats_than_those_of_photographs_are_refused(content: bytes) -> None:
    assert "known format" in refusal(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF"])
def test_truncated_image_is_refused(kind: str) -> None:
    whole = encoded(Image.fromarray(random_pixels(1, 40, 40)[0]), kind)
    assert decode_image(whole, "the image").size == (40, 40)
    assert refusal(whole[: len(whole) // 2])


def test_image_with_a_compressed_text_that_inflates_is_refused() -> None:
    whole = png(random_pixels(1, 8, 8)[0])
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**25)))
    assert "Decompressed data too large" in refusal(whole[:33] + text + whole[33:])


def test_file_larger_than_any_image_is_not_read_completely(tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**40)
    assert "134217728 bytes" in refusal(str(tmp_path / "large.png"))


@pytest.mark.parametrize("mode", ["P", "P with one index", "RGBA", "LA", "L"])
def test_transparent_pixels_become_white(mode: str) -> None:
    pixels = random_pixels(1, 8, 8)[0]
    alpha = np.tile(np.array([0, 51, 128, 255], np.uint8), (8, 2))
    image = Image.fromarray(pixels).convert(mode[0] if mode[0] in "PL" else "RGB")
    if mode == "P":
        content = encoded(image, "PNG", transparency=bytes(range(256)))
        alpha = np.asarray(image)
    elif mode in ("P with one index", "L"):
        first = np.asarray(image)[0, 0]
        content = encoded(image, "PNG", transparency=int(first))
        alpha = np.where(np.asarray(image) == first, 0, 255).astype(np.uint8)
    else:
        image.putalpha(Image.fromarray(alpha))
        content = encoded(image, "PNG")
        assert Image.open(io.BytesIO(content)).mode == mode
    share = alpha[..., None] / 255
    expected = share * np.asarray(image.convert("RGB")) + (1 - share) * 255
    assert np.abs(np.asarray(decode_image(content, "the image")) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opaque_alpha_changes_no_bit(kind: str) -> None:
    pixels = random_pixels(1, 16, 16)[0]
    image = Image.fromarray(pixels)
    image.putalpha(255)
    content = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(decode_image(content, "the image")), pixels)


def turned(orientation: int, kind: str, **options: object) -> tuple[bytes, Image.Image]:
    """Return an image of 8 x 4 pixels with this orientation in its EXIF data, and how it looks upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.kron(random_pixels(1, 2, 2)[0], np.ones((2, 4, 1), np.uint8)))
    content = encoded(image, kind, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as opened:
        return content, ImageOps.exif_transpose(opened).convert("RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_image_is_upright(orientation: int, kind: str) -> None:
    content, upright = turned(orientation, kind)
    decoded = decode_image(content, "the image", size_of(content, "the image"))
    assert decoded.size == ((4, 8) if orientation > 4 else (8, 4))
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_orientation_behind_the_pixels_of_a_png_counts() -> None:
    content, upright = turned(3, "PNG")
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert np.array_equal(np.asarray(decode_image(content, "the image")), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0"])
def test_damaged_exif_data_is_ignored(exif: bytes) -> None:
    image = Image.fromarray(random_pixels(1, 8, 8)[0])
    content = encoded(image, "JPEG", exif=exif)
    assert np.array_equal(
        np.asarray(decode_image(content, "the image")),
        np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG"))).convert("RGB")),
    )


def test_file_that_cannot_be_read_counts_as_no_damage(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_text("not an image")
    (tmp_path / "folder").mkdir()
    assert list(find_damage([str(tmp_path / "damaged.png")])) == [0]
    with pytest.raises(DataError, match=r"folder: .*directory"):
        find_damage([str(tmp_path / "damaged.png"), str(tmp_path / "folder")])


def test_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object) -> None:
        raise MemoryError

    (tmp_path / "x.png").write_bytes(png(random_pixels(1, 8, 8)[0]))
    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(DataError, match=r"x\.png: .*memory"):
        find_damage([str(tmp_path / "x.png")])


def test_size_of_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "huge.webp", "wb") as file:
        file.write(b"RIFF\0\0\0\0WEBPVP8 ")
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"huge\.webp: .*134217728 bytes"):
        size_of(str(tmp_path / "huge.webp"), str(tmp_path / "huge.webp"))


def test_absent_file_is_named(tmp_path: Path) -> None:
    message = refusal(os.fspath(tmp_path / "none.png"))
    assert "No such file" in message
    assert "none.png" in message
