"""Reader of structs in Thrift's compact protocol, the encoding of Parquet's footer and page headers.

Source: thrift-compact-protocol.md of Apache Thrift.
"""

from typing import Any, BinaryIO, Final

__all__ = ["read_struct"]

MAX_DEPTH: Final = 16
MAX_BYTES: Final = 2**24  # per binary value; pyarrow accepts no longer page header
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS: Final = (4, 5, 6)


def read_struct(stream: BinaryIO, max_values: int) -> dict[int, Any]:
    """Return a struct as a dict of values by field number: int, bytes, list, bool, or dict; None for a map.

    Args:
        stream: positioned at the start of the struct; left after its end.
        max_values: maximal number of values, nested ones included.

    Raises:
        ValueError: truncated, nested deeper than MAX_DEPTH, too many values, or a value of unknown kind.
    """
    return _Reader(stream, max_values).struct(1)


class _Reader:
    def __init__(self, stream: BinaryIO, max_values: int) -> None:
        self._stream = stream
        self._num_left = max_values

    def struct(self, depth: int) -> dict[int, Any]:
        values: dict[int, Any] = {}
        field = 0
        while (head := self._bytes(1)[0]) != STOP:
            field = field + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            values[field] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth + 1)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        self._num_left -= 1
        if self._num_left < 0 or depth > MAX_DEPTH:
            raise ValueError("struct has too many values, or is nested too deep")
        if kind in INTEGERS:
            return self._integer()
        if kind in (TRUE, FALSE, BYTE):  # in a list each boolean takes a byte
            return self._bytes(1)[0]
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, SET):
            head = self._bytes(1)[0]
            size = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == MAP:
            size = self._varint()
            kinds = self._bytes(1)[0] if size else 0
            for _ in range(size):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
            return None
        if kind == STRUCT:
            return self.struct(depth)
        raise ValueError(f"value of unknown kind {kind}")

    def _bytes(self, size: int) -> bytes:
        content = self._stream.read(min(size, MAX_BYTES + 1))
        if len(content) != size or size > MAX_BYTES:
            raise ValueError("struct is cut short")
        return content

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("integer has more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
