"""Ids written in hexadecimal → their bytes, where a whole column has one width: two digits at a time, by a table."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_DIGITS: Final = {ord(digit): int(digit, 16) for digit in "0123456789abcdefABCDEF"}
_NO_PAIR: Final = 256


def _table() -> npt.NDArray[np.uint16]:
    table = np.full(1 << 16, _NO_PAIR, np.uint16)
    for high, high_value in _DIGITS.items():
        for low, low_value in _DIGITS.items():
            # As the two bytes stand in memory, read as one little-endian number.
            table[low << 8 | high] = high_value << 4 | low_value
    return table


_PAIRS: Final = _table()


def read(texts: pa.StringArray, width: int) -> npt.NDArray[np.uint8] | None:
    """Read a column of ids.

    Args:
        texts: Any.
        width: Bytes of an id.

    Returns:
        Shape (row, width); None unless each text is `2 * width` digits.
    """
    count = len(texts)
    _, offsets, content = texts.buffers()
    if texts.null_count or not count or content is None:
        return None
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + count + 1]
    if (np.diff(ends) != 2 * width).any():
        return None
    pairs = np.frombuffer(content, "<u2", count * width, int(ends[0]))
    values = _PAIRS.take(pairs)
    if (values == _NO_PAIR).any():
        return None
    return values.astype(np.uint8).reshape(count, width)
