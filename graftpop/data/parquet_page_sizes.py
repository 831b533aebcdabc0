"""Decompressed sizes of the pages of a Parquet file, read from the page headers.

pyarrow allocates the memory that a page's header claims, up to 2 GiB, even if the footer says less. So the headers are
checked first. The footer is parsed here too: on some damaged footers pyarrow 26 crashes the process. Source:
parquet-format, README.md (layout) and parquet.thrift (field numbers).
"""

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from graftpop.data.thrift_compact import read_struct

__all__ = ["largest_page"]

MAX_FOOTER_BYTES: Final = 2**23  # a row group of an image table takes about 500
MAX_HEADER_VALUES: Final = 1000  # a page header has about 10
TAIL_BYTES: Final = 8  # length of the footer, then PAR1
ROW_GROUPS, COLUMNS, NUM_ROWS = 4, 1, 3  # fields of FileMetaData and RowGroup
METADATA, PATH, CHUNK_BYTES, DATA_PAGE, DICTIONARY_PAGE = 3, 3, 7, 9, 11  # of ColumnChunk and ColumnMetaData
PAGE_BYTES, COMPRESSED_PAGE_BYTES = 2, 3  # of PageHeader


def largest_page(file: Path, columns: Collection[str]) -> int:
    """Return the decompressed size of the largest page of some columns, in bytes; 0 if there are no pages.

    Args:
        file: a Parquet file.
        columns: paths in the schema, joined by dots.

    Raises:
        ValueError: the footer or a page header is damaged.
        OSError: the file cannot be read.
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
    """Yield the range of bytes [start, end) of the pages of each column chunk, as pyarrow computes it."""
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
    """Yield 0, then the decompressed size of each page that begins in [start, end)."""
    yield 0
    place = stream.seek(start)
    while place < end:
        header = read_struct(stream, MAX_HEADER_VALUES)
        if min(header[PAGE_BYTES], header[COMPRESSED_PAGE_BYTES]) < 0:
            raise ValueError(f"no page header at byte {place}")
        yield header[PAGE_BYTES]
        place = stream.seek(header[COMPRESSED_PAGE_BYTES], io.SEEK_CUR)
