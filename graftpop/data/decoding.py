"""Decoding of image files: one image, or a stream of images as blocks of pixels."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.errors import DataError, one_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Block",
    "DamagedImage",
    "ImageSize",
    "decode_blocks",
    "decode_image",
    "find_damage",
    "scaled",
    "scaled_pixels",
    "size_of",
]

Label = int | list[int]  # a class, or identity, camera and role
EncodedImage = tuple[bytes | str, str, Label]  # content or path, name for messages, label
Block = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (B, H, W, 3), labels (B,) or (B, 3)
ImageSize = int | tuple[int, int]  # side of a square, or (height, width), in pixels

FORMATS: Final = (
    "AVIF",
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # no others: Pillow runs Ghostscript on EPS
MAX_PIXELS: Final = 2**25  # decoding WebP takes up to 22 bytes per pixel: 0.7 GiB
MAX_FILE_BYTES: Final = 4 * MAX_PIXELS  # enough for any image of 8 bits per color
MAX_SCANS: Final = 100  # progressive JPEG has about 10; each scan costs a whole pass
MAX_BLOCK_IMAGES: Final = 1024
MAX_BLOCK_BYTES: Final = 2**25
MAX_ENCODED_BYTES: Final = 2**26  # per block, and one image more: a table can repeat a large image in a few bytes
MAX_THREADS: Final = 8
TURNED_ORIENTATIONS: Final = range(5, 9)  # of EXIF: width and height change places


class DamagedImage(DataError):
    """A file cannot be decoded, in contrast to an image that is whole and cannot be used."""


def decode_image(encoded: bytes | str, where: str, size: tuple[int, int] | None = None) -> "Image.Image":
    """Return an image in RGB, upright by its EXIF orientation, on white where it is transparent.

    Args:
        encoded: content of an image file, or its path.
        where: name of the image, for messages.
        size: required (height, width) in pixels; None: any.

    Raises:
        DataError: not an image, damaged, too large, of another size, or with more than 8 bits per color.
    """
    encoded = encoded if isinstance(encoded, bytes) else _content(encoded, where)
    if len(encoded) > MAX_FILE_BYTES:
        raise DataError(f"{where}: images must have at most {MAX_FILE_BYTES} bytes, got more; shrink it")
    if encoded.startswith(b"\xff\xd8") and encoded.count(b"\xff\xda") > MAX_SCANS:
        raise DataError(f"{where}: a JPEG must have at most {MAX_SCANS} scans, got more; save it again")
    with _opened(encoded, where) as image:
        if size != (image.width, image.height):  # its EXIF orientation may exchange both, see below
            _check_size(image, size, where)
        orientation = _orientation(image)
        converted = _opaque(image)
        # A PNG may hold EXIF data after its pixels.
        converted = _upright(converted, orientation or _orientation(image))
    _check_size(converted, size, where)
    return converted


def _opaque(image: "Image.Image") -> "Image.Image":
    """Return an image in RGB, on white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    color = image.convert("RGBA")
    white.paste(color, mask=color)
    return white


def _orientation(image: "Image.Image") -> int | None:
    """Return the orientation in the EXIF data that were read so far, 1 to 8; None if there is none."""
    from PIL import ExifTags, Image

    if image.format == "TIFF":
        return None  # Pillow rotates a TIFF while decoding it, and reports the rotated size before
    known = Image.new("1", (1, 1))  # `getexif` of a PNG itself would decode it
    known.info = image.info
    try:
        orientation = known.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data can raise nearly anything, and the pixels do not depend on it
        return None
    return int(orientation) if orientation is not None and orientation in range(1, 9) else None


def _upright(image: "Image.Image", orientation: int | None) -> "Image.Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def size_of(encoded: bytes | str, where: str) -> tuple[int, int]:
    """Return (height, width) of an upright image in pixels, from its header alone; see `decode_image`."""
    with _opened(encoded, where) as image:
        if _orientation(image) in TURNED_ORIENTATIONS:
            return image.width, image.height
        return image.height, image.width


def find_damage(files: Sequence[str]) -> dict[int, str]:
    """Return the error message of each damaged image file, by its position in `files`; decodes every file.

    Args:
        files: paths of the image files.

    Raises:
        DataError: an image is whole, but cannot be used.
    """

    def message(file: str) -> str | None:
        try:
            decode_image(file, file)
        except DamagedImage as error:
            return str(error)
        return None

    damaged: dict[int, str] = {}
    with _decoding_threads() as pool:
        for start in range(0, len(files), MAX_BLOCK_IMAGES):
            group = files[start : start + MAX_BLOCK_IMAGES]
            damaged |= {row: text for row, text in enumerate(pool.map(message, group), start) if text}
    return damaged


def _decoding_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))


def _content(file: str, where: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{where}: must be readable, got {one_line(error)}; check the file and its disk") from error


@contextmanager
def _opened(encoded: bytes | str, where: str) -> Iterator["Image.Image"]:
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(encoded, str) and os.stat(encoded).st_size > MAX_FILE_BYTES:  # WebP and AVIF are read whole
            raise DataError(f"{where}: images must have at most {MAX_FILE_BYTES} bytes, got more; shrink it")
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS) as image:
            if image.mode[0] in "IF":  # Pillow would silently clip these to 255
                raise DataError(f"{where}: images must have 8 bits per color, got Pillow mode {image.mode}; convert it")
            if not 0 < image.width * image.height <= MAX_PIXELS:
                raise DataError(
                    f"{where}: images must have at most {MAX_PIXELS} pixels, got {image.width} x "
                    f"{image.height}; shrink it"
                )
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage(f"{where}: not an image of a known format; replace or remove it") from error
    except MemoryError as error:
        raise DataError(f"{where}: needs more memory to be decoded than there is; shrink it, or free memory") from error
    except Exception as error:  # a damaged image can raise nearly anything, e.g. struct.error and IndexError
        raise _damaged(error, where) from error


def _damaged(error: Exception, where: str) -> DamagedImage:
    return DamagedImage(f"{where}: cannot be decoded ({one_line(error) or type(error).__name__}); replace or remove it")


def _check_size(image: "Image.Image", size: tuple[int, int] | None, where: str) -> None:
    if size not in (None, (image.height, image.width)):
        height, width = size
        raise DataError(
            f"{where}: all images must have the size of the first, {width} x {height}, got {image.width} x "
            f"{image.height}; set data.image_size to scale them to one"
        )


def scaled(image: "Image.Image", size: ImageSize) -> "Image.Image":
    """Return an image scaled to a size, bilinear and antialiased: for a side its central square, else without a cut."""
    from PIL import Image, ImageOps

    if isinstance(size, int):
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR)


def scaled_pixels(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return pixels, (N, H, W, 3), scaled to a side as `scaled` scales an image."""
    from PIL import Image

    return np.stack([np.asarray(scaled(Image.fromarray(image), side)) for image in pixels])


def decode_blocks(
    images: Iterable[EncodedImage], height: int, width: int, *, size: ImageSize | None = None
) -> Iterator[Block]:
    """Yield the pixels and labels of images in blocks, decoded by a few threads.

    Args:
        images: (content or path, name for messages, label) of each image.
        height: height of every image, in pixels.
        width: width of every image, in pixels.
        size: size that images of any size are scaled to, see `scaled`; None: all have the same size.

    Raises:
        DataError: an image cannot be decoded or has another size.
    """

    def pixels(image: EncodedImage) -> NDArray[np.uint8]:
        encoded, where, _ = image
        if size is not None:
            return np.asarray(scaled(decode_image(encoded, where), size))
        return np.asarray(decode_image(encoded, where, (height, width)))

    block_images = max(1, min(MAX_BLOCK_IMAGES, MAX_BLOCK_BYTES // (height * width * 3)))
    with _decoding_threads() as pool:
        for block in _grouped(images, block_images):
            yield np.stack(list(pool.map(pixels, block))), np.array([label for _, _, label in block], np.int64)


def _grouped(images: Iterable[EncodedImage], max_images: int) -> Iterator[list[EncodedImage]]:
    """Yield the images in groups of at most `max_images`; a group ends when it holds MAX_ENCODED_BYTES."""
    group: list[EncodedImage] = []
    num_bytes = 0
    for image in images:
        group.append(image)
        num_bytes += len(image[0])  # a path counts as its few characters: the file is read when it is decoded
        if len(group) == max_images or num_bytes >= MAX_ENCODED_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group
