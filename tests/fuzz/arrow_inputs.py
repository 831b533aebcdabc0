"""Tables of images in Arrow files: valid, of odd schemas, compressed, and damaged."""

import io
import random
from typing import Final

import pyarrow
from mutations import mutated, random_bytes
from parquet_inputs import odd_table, whole_table
from pyarrow import parquet

__all__ = ["arrow_input", "whole_arrow"]

CODECS: Final = (None, None, None, None, "zstd", "lz4")


def whole_arrow(content: bytes | None = None, codec: str | None = None) -> bytes:
    """Return a table in Parquet, by default `whole_table`, as an Arrow stream."""
    table = parquet.ParquetFile(io.BytesIO(whole_table() if content is None else content)).read()
    file = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression=codec)
    with pyarrow.ipc.new_stream(file, table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=4)
    return file.getvalue()


def arrow_input(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return random_bytes(rng)
    if kind <= 3:
        return whole_arrow(odd_table(rng), rng.choice(CODECS))
    return mutated(whole_arrow(odd_table(rng) if kind == 4 else None, rng.choice(CODECS)), rng)
