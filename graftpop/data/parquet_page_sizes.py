"""How large the pages of a Parquet file are when they are decompressed, from the headers of the pages themselves.

pyarrow takes as much memory for a page as its header says, up to 2 GiB, whatever the file's footer says; so the headers
are read first. The footer is read here too: asked for a column chunk, pyarrow 26 ends the process on some damaged ones.
Source: parquet-format, README.md (the layout) and parquet.thrift (the numbers of the fields).
"""

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from graftpop.data.thrift_compact import read_struct

__all__ = ["largest_page"]

MAX_FOOTER_BYTES: Final = 2**23  # a row group of an image table takes some 500
MAX_HEADER_VALUES: Final = 1000  # a page's header has about 10
TAIL_BYTES: Final = 8  # the footer's length, and PAR1
ROW_GROUPS, COLUMNS, NUM_ROWS = 4, 1, 3  # fields of FileMetaData and RowGroup
METADATA, PATH, CHUNK_BYTES, DATA_PAGE, DICTIONARY_PAGE = 3, 3, 7, 9, 11  # of ColumnChunk and ColumnMetaData
PAGE_BYTES, COMPRESSED_PAGE_BYTES = 2, 3  # of PageHeader


def largest_page(file: Path, columns: Collection[str]) -> int:
    """Return the bytes of the largest page of some columns, decompressed; 0 where there are none.

    Args:
        file: in Parquet.
        columns: their paths in the schema, joined by dots.

    Raises:
        ValueError, OSError: the footer, or what it leads to, is damaged.
    """
    largest = 0
    with open(file, "rb") as stream:
        try:
            for start, end in _chunks(stream, columns):
                largest = max(largest, *_pages(stream, start, end))
        except (LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError("its footer is damaged") from error
    return largest


def _chunks(stream: BinaryIO, columns: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield from which byte to which the pages of each column chunk lie, as pyarrow finds them."""
    size = stream.seek(-TAIL_BYTES, io.SEEK_END)
    length = int.from_bytes(stream.read(4), "little")
    if length > min(size, MAX_FOOTER_BYTES):
        raise ValueError(f"its footer must have at most {MAX_FOOTER_BYTES} bytes, got {length}")
    stream.seek(size - length)
    footer = read_struct(io.BytesIO(stream.read(length)), length)
    for group in footer[ROW_GROUPS]:
        if group[NUM_ROWS] > 0:
            for chunk in (column[METADATA] for column in group[COLUMNS]):
                if b".".join(chunk[PATH]).decode() in columns:
                    start = min(chunk[DATA_PAGE], chunk.get(DICTIONARY_PAGE) or chunk[DATA_PAGE])
                    yield start, start + chunk[CHUNK_BYTES]


def _pages(stream: BinaryIO, start: int, end: int) -> Iterator[int]:
    """Yield first 0, then the decompressed size of each page that begins in [start, end)."""
    yield 0
    place = stream.seek(start)
    while place < end:
        header = read_struct(stream, MAX_HEADER_VALUES)
        if min(header[PAGE_BYTES], header[COMPRESSED_PAGE_BYTES]) < 0:
            raise ValueError(f"no header of a page at byte {place}")
        yield header[PAGE_BYTES]
        place = stream.seek(header[COMPRESSED_PAGE_BYTES], io.SEEK_CUR)
