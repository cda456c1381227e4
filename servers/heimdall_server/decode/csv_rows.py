"""Where the rows of delimited text begin and end, decided without splitting them into cells.

The grammar is RFC 4180's, read as leniently as Arrow's reader does:

1. A field that begins with the quote goes to the closing quote, newlines and delimiters included; a doubled
   quote is one. What stands behind the closing quote, up to the delimiter, belongs to the field.
2. In any other field quotes are ordinary characters.
3. A row that doesn't end within `RECORD_BYTES_MAX` (a stray quote swallows what follows) is an error, and only
   its first line is: the next row begins on the next line.

Each rule looks at bytes after the row's start only, so any cut of a stream gives the same rows. Rows whose
quotes all stand at the edges of fields are found by counting quotes; only a chunk that has others is scanned row by row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from heimdall_server.domain.errors import RecordTooLargeError
from heimdall_server.domain.records import RECORD_BYTES_MAX

UNCLOSED_REASON: Final = "a quoted field isn't closed"
OVERSIZE_REASON: Final = f"the row is longer than {RECORD_BYTES_MAX} bytes"
_NEWLINE: Final = 10
_RETURN: Final = 13

_Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a buffer."""

    bounds: _Offsets
    """Shape (row + 1,). Row i is [bounds[i], bounds[i + 1]), its line end included. Blank lines are rows here."""
    problems: dict[int, str] = field(default_factory=dict)
    """Rows that can't be read → reason."""

    @property
    def length(self) -> int:
        """Bytes of all whole rows."""
        return int(self.bounds[-1])


def complete_length(buffer: bytes, delimiter: str, quote: str, *, final: bool) -> int:
    """How many leading bytes are whole rows.

    Args:
        buffer: From the start of a row.
        delimiter: One ASCII character.
        quote: One ASCII character; "" if the format has no quoting.
        final: Nothing comes after the buffer.

    Raises:
        RecordTooLargeError: The buffer begins with an unfinished line over `RECORD_BYTES_MAX`:
            `lines.oversize_prefix` tells how much to pass over.
    """
    if final or not buffer:
        return len(buffer)
    length = find_rows(buffer, delimiter, quote, final=False).length
    if length == 0 and len(buffer) > RECORD_BYTES_MAX:
        raise RecordTooLargeError(len(buffer), RECORD_BYTES_MAX)
    return length


def find_rows(data: bytes, delimiter: str, quote: str, *, final: bool) -> Rows:
    """Find the whole rows from the start of a buffer.

    Args:
        data: From the start of a row.
        delimiter: One ASCII character.
        quote: One ASCII character, or "".
        final: What follows the last line end is a row, too.
    """
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == _NEWLINE)
    if quote and quote.encode() in data:
        quotes = np.flatnonzero(array == ord(quote))
        if not _is_regular(array, quotes, ord(delimiter), ord(quote)) or (final and len(quotes) % 2):
            return _scan(data, delimiter, quote, final=final)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    bounds = np.zeros(len(newlines) + 1, np.int64)
    bounds[1:] = newlines + 1
    if final and bounds[-1] < len(data):
        bounds = np.append(bounds, len(data))
    long = np.flatnonzero(np.diff(bounds) > RECORD_BYTES_MAX)
    if long.size or len(data) - bounds[-1] > RECORD_BYTES_MAX:
        if quote:
            return _scan(data, delimiter, quote, final=final)
        return Rows(bounds, dict.fromkeys(long.tolist(), OVERSIZE_REASON))
    return Rows(bounds)


def split_row(row: str, delimiter: str, quote: str) -> list[str]:
    """The cells of one row, without its line end."""
    cells = []
    position = 0
    pattern = _field_regex(delimiter, quote)
    while True:
        match = pattern.match(row, position)
        if match is None:
            cells.append(row[position:])
            return cells
        quoted, behind, bare = match.groups()
        cells.append(bare if quoted is None else quoted.replace(quote * 2, quote) + behind)
        position = match.end() + 1
        if position > len(row):
            return cells


def _is_regular(array: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp], delimiter: int, quote: int) -> bool:
    """Whether every quote opens a field, closes one or is doubled, so that counting them tells what is inside."""
    openers, closers = quotes[0::2], quotes[1::2]
    before = array[openers - 1]
    opens = (openers == 0) | (before == delimiter) | (before == _NEWLINE)
    opens[1:] |= openers[1:] == closers[: len(openers) - 1] + 1
    if not opens.all():
        return False
    inner = closers[closers + 1 < len(array)]
    after = array[inner + 1]
    return bool(((after == delimiter) | (after == _NEWLINE) | (after == _RETURN) | (after == quote)).all())


def _scan(data: bytes, delimiter: str, quote: str, *, final: bool) -> Rows:
    """Row by row, for a chunk with stray quotes or very long rows."""
    pattern = _row_regex(delimiter, quote)
    bounds, problems = [0], {}
    start, size = 0, len(data)
    while start < size:
        window = min(size, start + RECORD_BYTES_MAX + 1)
        match = pattern.match(data, start, window)
        end = match.end() if match is not None else start
        if end < window and data[end] == _NEWLINE and end - start < RECORD_BYTES_MAX:
            start = end + 1
        elif window - start <= RECORD_BYTES_MAX and not final:
            break
        elif end == size and window - start <= RECORD_BYTES_MAX:
            start = size
        else:
            line = data.find(b"\n", start)
            if line < 0 and not final:
                break
            unclosed = end < window and data[end] == ord(quote)
            problems[len(bounds) - 1] = UNCLOSED_REASON if unclosed else OVERSIZE_REASON
            start = line + 1 if line >= 0 else size
        bounds.append(start)
    return Rows(np.array(bounds, np.int64), problems)


@lru_cache(64)
def _row_regex(delimiter: str, quote: str) -> re.Pattern[bytes]:
    d, q = re.escape(delimiter), re.escape(quote)
    # Possessive: a row that doesn't match is given up at once, not tried in every other way.
    cell = rf"(?:{q}(?:[^{q}]++|{q}{q})*+{q}[^{d}\n]*+|[^{d}{q}\n][^{d}\n]*+|)"
    return re.compile(rf"{cell}(?:{d}{cell})*+".encode(), re.DOTALL)


@lru_cache(64)
def _field_regex(delimiter: str, quote: str) -> re.Pattern[str]:
    d = re.escape(delimiter)
    if not quote:
        return re.compile(rf"(?!)()()|([^{d}]*+)", re.DOTALL)
    q = re.escape(quote)
    return re.compile(rf"{q}((?:[^{q}]++|{q}{q})*+){q}([^{d}]*+)|((?!{q})[^{d}]*+)", re.DOTALL)
