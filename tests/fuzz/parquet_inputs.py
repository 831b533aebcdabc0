"""Tables of images in Parquet: valid, of odd schemas, and damaged."""

import io
import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import pyarrow
from image_inputs import image_input, whole_images
from mutations import INTERESTING, mutated, random_bytes
from pyarrow import parquet

__all__ = ["odd_table", "parquet_input", "whole_table"]

NUM_ROWS: Final = 6
IMAGE: Final = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
CODECS: Final = ("none", "snappy", "gzip", "zstd", "lz4", "brotli")


@cache
def whole_table(codec: str = "snappy", page_version: str = "1.0", use_dictionary: bool = True) -> bytes:
    return _written(
        pyarrow.table({"image": _images(whole_images()[:1] * NUM_ROWS), "label": [0, 1, 2, 0, 1, 2]}),
        codec,
        data_page_version=page_version,
        use_dictionary=use_dictionary,
    )


def parquet_input(rng: random.Random) -> bytes:
    kind = rng.randrange(12)
    if kind == 0:
        return b"PAR1" + random_bytes(rng) + b"PAR1"
    if kind <= 3:
        return odd_table(rng)
    whole = (
        whole_table(rng.choice(CODECS), rng.choice(("1.0", "2.0")), rng.random() < 0.5) if kind < 10 else odd_table(rng)
    )
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    if kind <= 5:
        return mutated(whole, rng)
    if kind <= 8:  # the footer alone, with its length corrected
        changed = mutated(whole[footer:-8], rng)
        return whole[:footer] + changed + len(changed).to_bytes(4, "little") + b"PAR1"
    return mutated(whole[:footer], rng)[:footer].ljust(footer, b"\0") + whole[footer:]  # the pages alone


def _written(table: pyarrow.Table, codec: str, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, compression=codec, row_group_size=4, **options)
    return file.getvalue()


def _images(encoded: Sequence[bytes | None]) -> pyarrow.Array:
    return pyarrow.array([None if one is None else {"bytes": one, "path": "../../../etc/x"} for one in encoded], IMAGE)


def odd_table(rng: random.Random) -> bytes:
    size = rng.choice((NUM_ROWS, NUM_ROWS, NUM_ROWS, 1, 0, 300))
    images = [image_input(rng) if rng.random() < 0.1 else whole_images()[0] for _ in range(size)]
    labels = [
        rng.choice((0, 1, 2, rng.choice(INTERESTING), None)) if rng.random() < 0.05 else index % 3
        for index in range(size)
    ]
    columns = [(_name("image", rng), _image_column(rng, images)), (_name("label", rng), _label_column(rng, labels))]
    if rng.random() < 0.1:
        columns.append((rng.choice(("label", "other", "image")), _label_column(rng, labels)))
    rng.shuffle(columns)
    table = pyarrow.Table.from_arrays([column for _, column in columns], [name for name, _ in columns])
    if rng.random() < 0.5:
        table = table.replace_schema_metadata({"huggingface": _metadata(rng)})
    try:
        return _written(table, rng.choice(CODECS), use_dictionary=rng.random() < 0.5)
    except pyarrow.ArrowException:  # a time outside Parquet's range
        return whole_table()


def _name(usual: str, rng: random.Random) -> str:
    odd = ("img", "IMAGE", "image.bytes", "a\nb", "label.x", "l\u2028", "")
    return usual if rng.random() < 0.9 else rng.choice(odd)


def _image_column(rng: random.Random, images: list[bytes]) -> pyarrow.Array:
    kind = rng.randrange(16)
    if kind == 0:
        return pyarrow.array(images, pyarrow.binary())
    if kind == 1:
        return pyarrow.array([{"bytes": "/etc/passwd"}] * len(images), pyarrow.struct([("bytes", pyarrow.string())]))
    if kind == 2:
        return pyarrow.array(
            [{"bytes": [one]} for one in images], pyarrow.struct([("bytes", pyarrow.list_(pyarrow.binary()))])
        )
    if kind == 3:
        return pyarrow.array(
            [[{"bytes": one}] for one in images], pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary())]))
        )
    if kind == 4:
        return pyarrow.array(
            [{"bytes": {"bytes": one}} for one in images],
            pyarrow.struct([("bytes", pyarrow.struct([("bytes", pyarrow.binary())]))]),
        )
    if kind == 5:
        return pyarrow.array([{"bytes": one} for one in images], pyarrow.struct([("bytes", pyarrow.large_binary())]))
    if kind == 6:
        return _images([one if rng.random() < 0.9 else None for one in images])
    if kind == 7:
        return pyarrow.array([{"bytes": one if rng.random() < 0.9 else None, "path": None} for one in images], IMAGE)
    if kind == 8:
        return pyarrow.array([{"bytes": 1}] * len(images), pyarrow.struct([("bytes", pyarrow.int64())]))
    return _images(list(images))


def _label_column(rng: random.Random, labels: list[int | None]) -> pyarrow.Array:
    kind = rng.randrange(14)
    try:
        if kind == 0:
            return pyarrow.array([None if one is None else str(one) for one in labels], pyarrow.string())
        if kind == 1:
            return pyarrow.array([None if one is None else [one] for one in labels], pyarrow.list_(pyarrow.int64()))
        if kind == 2:
            return pyarrow.array(labels, pyarrow.int64()).dictionary_encode()
        if kind == 3:
            return pyarrow.array([None] * len(labels), pyarrow.int64())
        return pyarrow.array(
            labels,
            rng.choice(
                (
                    pyarrow.int64(),
                    pyarrow.int8(),
                    pyarrow.uint64(),
                    pyarrow.uint8(),
                    pyarrow.float64(),
                    pyarrow.bool_(),
                    pyarrow.timestamp("s"),
                )
            ),
        )
    except (pyarrow.ArrowException, OverflowError, TypeError):
        return pyarrow.array(labels, pyarrow.int64())


def _metadata(rng: random.Random) -> bytes:
    names: Any = rng.choice(
        (["a", "b", "c"], [], ["a"], "abc", None, 7, [["a"], {}, None], [str(n) for n in range(70_000)])
    )
    feature: Any = rng.choice(({"_type": "ClassLabel", "names": names}, {"names": names}, [], "x"))
    features: Any = rng.choice(({"label": feature, "image": {"_type": "Image"}}, [feature], "x"))
    text = json.dumps({"info": {"features": features}})
    return rng.choice((text.encode(), text.encode(), b"[" * 5000, b"\xff", mutated(text.encode(), rng)))
