"""Encoded images to pixels: one image, and a stream of images as blocks of equal size."""

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from graftpop.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Block", "decode_blocks", "decode_image", "image_size"]

Block = tuple[NDArray[np.uint8], NDArray[np.int64]]     # pixels (B, H, W, 3), labels (B,)

MAX_BLOCK_IMAGES: Final = 1024
MAX_BLOCK_BYTES: Final = 2**25
MAX_THREADS: Final = 8


def decode_image(encoded: bytes | str, where: str) -> "Image.Image":
    """Return an image in RGB.

    Args:
        encoded: the content of an image file, or the path of one.
        where: how an error names the image.

    Raises:
        DataError: not an image, damaged, or with more than 8 bits a colour.
    """
    with _opened(encoded, where) as image:
        return image.convert("RGB")


def image_size(encoded: bytes | str, where: str) -> tuple[int, int]:
    """Return (height, width) of an image from its header alone; arguments and errors as `decode_image`."""
    with _opened(encoded, where) as image:
        return image.height, image.width


@contextmanager
def _opened(encoded: bytes | str, where: str) -> Iterator["Image.Image"]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            if image.mode[0] in "IF":       # Pillow would clip these to 255 in silence
                raise DataError(f"{where}: images must have 8 bits a colour, got Pillow mode {image.mode}; convert it")
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: not an image of a known format; replace or remove it") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: cannot be decoded ({error}); replace or remove it") from error


def decode_blocks(images: Iterable[tuple[bytes | str, str, int]], height: int, width: int) -> Iterator[Block]:
    """Yield the pixels and labels of images that all have one size, decoded by a few threads.

    Args:
        images: (content or path, name for errors, label) of each image.
        height: of every image.
        width: of every image.

    Raises:
        DataError: an image is damaged or has another size.
    """
    def pixels(image: tuple[bytes | str, str, int]) -> NDArray[np.uint8]:
        encoded, where, _ = image
        array = np.asarray(decode_image(encoded, where))
        if array.shape != (height, width, 3):
            raise DataError(f"{where}: all images must have the size of the first, {width} x {height}, got "
                            f"{array.shape[1]} x {array.shape[0]}; images of several sizes can only be streamed, from "
                            "class folders of files (data.name: folder)")
        return array

    block_images = max(1, min(MAX_BLOCK_IMAGES, MAX_BLOCK_BYTES // (height * width * 3)))
    stream = iter(images)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        while block := list(islice(stream, block_images)):
            yield np.stack(list(pool.map(pixels, block))), np.array([label for _, _, label in block], np.int64)
