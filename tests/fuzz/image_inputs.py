"""Images, most of them damaged, in supported and unsupported formats."""

import io
import random
import struct
import zlib
from functools import cache
from typing import Any, Final

import numpy as np
from mutations import INTERESTING, mutated, random_bytes
from PIL import Image

__all__ = ["image_input", "whole_images"]

OTHERS: Final = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
    b"P1 9 9 0 1",
    b"Pf 2 2 -1.0\n",
    b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n",
    b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12",
    b"P6 99999999 99999999 255\n",
    b"",
    b"BM",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"RIFF",
)


@cache
def whole_images() -> list[bytes]:
    """Return small valid images of every format and of many modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    color = Image.fromarray(pixels)
    palette = color.convert("P")
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (color, "PNG", {}),
        (palette, "PNG", {"transparency": bytes(range(256))}),
        (palette, "PNG", {"transparency": 3}),
        (color.convert("1"), "PNG", {}),
        (color.convert("L"), "PNG", {"bits": 2}),
        (color.convert("RGBA"), "PNG", {}),
        (color, "PNG", {"exif": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\1\0\6" + bytes(6)}),
        (Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10)), "PNG", {}),
        (color, "JPEG", {}),
        (color, "JPEG", {"progressive": True}),
        (color.convert("CMYK"), "JPEG", {}),
        (color.convert("L"), "JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        (palette, "GIF", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(9)]}),
        (color, "BMP", {}),
        (palette, "BMP", {}),
        (color.convert("1"), "BMP", {}),
        (color, "PPM", {}),
        (color.convert("L"), "PPM", {}),
        (color, "WEBP", {}),
        (color.convert("RGBA"), "WEBP", {"lossless": True}),
        *(
            (color, "TIFF", {"compression": compression})
            for compression in ("raw", "tiff_deflate", "tiff_lzw", "jpeg", "packbits")
        ),
        (color.convert("1"), "TIFF", {"compression": "group4"}),
        (color, "AVIF", {}),
        (
            color.convert("RGBA"),
            "AVIF",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\1\0\6" + bytes(6)},
        ),
        (color.convert("L"), "ICO", {}),
        (color, "TGA", {}),
        (color.convert("L").convert("F"), "TIFF", {}),
    ]
    images = []
    for image, name, options in kinds:
        file = io.BytesIO()
        image.save(file, name, **options)
        images.append(file.getvalue())
    return images


def image_input(rng: random.Random) -> bytes:
    kind = rng.randrange(20)
    if kind == 0:
        return random_bytes(rng)
    if kind == 1:
        return mutated(rng.choice(OTHERS), rng) + random_bytes(rng)
    image = rng.choice(whole_images())
    if kind == 2:
        return image
    if image.startswith(b"\x89PNG") and kind < 14:
        return _png_with_a_changed_chunk(image, rng)
    return mutated(image, rng) if kind < 14 else mutated(image[:60], rng) + image[60:]  # the header alone


def _png_with_a_changed_chunk(image: bytes, rng: random.Random) -> bytes:
    """Change the content of a chunk and correct its check sum, so that readers see the change."""
    chunks = []
    place = 8
    while place < len(image):
        (size,) = struct.unpack(">I", image[place : place + 4])
        chunks.append((image[place + 4 : place + 8], image[place + 8 : place + 8 + size]))
        place += size + 12
    number = rng.randrange(len(chunks))
    name, body = chunks[number]
    if name == b"IHDR" and rng.random() < 0.5:
        body = struct.pack(">II", *(rng.choice(INTERESTING) & 2**32 - 1 for _ in range(2))) + body[8:]
    elif name == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(mutated(zlib.decompress(body), rng))
    else:
        body = mutated(body, rng)
    chunks[number] = name, body
    if rng.random() < 0.2:
        bomb = zlib.compress(bytes(rng.choice((10, 2**21))))
        chunks.insert(
            rng.randrange(len(chunks)),
            rng.choice(
                (
                    (b"zTXt", b"key\0\0" + bomb),
                    (b"iCCP", b"key\0\0" + bomb),
                    (b"tEXt", b"key\0x"),
                    (b"acTL", bytes(8)),
                    (b"iTXt", b"key\0\1\0\0\0" + bomb),
                    (b"eXIf", random_bytes(rng)),
                    (b"gAMA", bytes(4)),
                    (b"tRNS", b"\0"),
                )
            ),
        )
    return image[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
