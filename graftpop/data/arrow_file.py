"""One Arrow file of images: a stream of record batches, mapped into memory.

The buffers of a batch are parts of the file, so a damaged file takes no more memory than a whole one. Compressed
buffers are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from
from typing import TYPE_CHECKING

from graftpop.data.parquet_table import BATCH_ROWS
from graftpop.errors import DataError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ArrowFile"]


@dataclass(frozen=True)
class ArrowFile:
    """A table in an Arrow file, see `Table`."""

    path: Path
    format = "Arrow"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def most_rows(self) -> int:
        """The number of bytes: an image takes several, so the file has fewer rows."""
        return self.path.stat().st_size

    def schema(self) -> "pyarrow.Schema":
        """Return its schema."""
        import pyarrow

        with pyarrow.memory_map(str(self.path)) as file, pyarrow.ipc.open_stream(file) as stream:
            return stream.schema

    def num_rows(self) -> int:
        """Return the number of rows that its batches claim."""
        return sum(map(len, self._batches()))

    def batches(self, column: str) -> "Iterator[pyarrow.RecordBatch]":
        """Yield a column in batches of at most BATCH_ROWS rows."""
        for batch in self._batches():
            values = batch.select([column])
            values.validate(full=True)  # offsets may lead anywhere
            for start in range(0, len(values), BATCH_ROWS):
                yield values.slice(start, BATCH_ROWS)

    def _batches(self) -> "Iterator[pyarrow.RecordBatch]":
        import pyarrow

        with pyarrow.memory_map(str(self.path)) as file:
            for message in pyarrow.ipc.MessageReader.open_stream(file):
                if _is_compressed(message):
                    raise DataError(f"{self}: must be uncompressed, got compressed values; write it by save_to_disk")
            file.seek(0)
            with pyarrow.ipc.open_stream(file) as stream:
                yield from stream


def _is_compressed(message: "pyarrow.ipc.Message") -> bool:
    """Return whether a message is a batch with compressed buffers; pyarrow has checked that its offsets are inside."""
    metadata = message.metadata.to_pybytes()  # a flatbuffer, see Message.fbs in Apache Arrow's format

    def field(table: int, number: int) -> int:
        """Return the position of a table's field; 0: it is absent."""
        vtable = table - unpack_from("<i", metadata, table)[0]
        entry = 4 + 2 * number
        has_entry = entry < unpack_from("<H", metadata, vtable)[0]
        offset = unpack_from("<H", metadata, vtable + entry)[0] if has_entry else 0
        return table + offset if offset else 0

    def target(position: int) -> int:
        return position + int(unpack_from("<I", metadata, position)[0])

    if message.type not in ("record batch", "dictionary"):
        return False
    batch = target(field(target(0), 2))
    if message.type == "dictionary":
        batch = target(field(batch, 1))
    return field(batch, 3) != 0
