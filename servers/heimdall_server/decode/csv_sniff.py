"""How delimited text is written, from its first rows: delimiter, quote, header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.decode import csv_rows
from heimdall_server.decode.csv import BOM, COLUMN_COUNT_MAX
from heimdall_server.domain.errors import FormatError
from heimdall_server.domain.records import RECORD_BYTES_MAX

DELIMITERS: Final = (",", "\t", ";", "|")
_ROWS_LOOKED_AT: Final = 50
_SAME_WIDTH_SHARE: Final = 0.9
_NAME_MAX: Final = 128
_NAME: Final = re.compile(r"[^\W\d][\w .@#%()/\[\]:*+$?!'&-]*$")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The first rows under one delimiter."""

    delimiter: str
    rows: Sequence[Sequence[str]]

    @property
    def width(self) -> int:
        return len(self.rows[0])

    @property
    def same_share(self) -> float:
        """Share of the rows behind the first that are as wide as it."""
        others = self.rows[1:]
        return sum(len(row) == self.width for row in others) / len(others) if others else 1.0


def resolve_options(options: Mapping[str, str], first_bytes: bytes, *, final: bool) -> dict[str, str] | None:
    """Complete the options of a source that is said to be delimited text.

    Args:
        options: `delimiter`, `quote`, `header` (JSON list) and `header_row` as far as they are given. Without a
            `header`, the first row is it, unless `header_row` is `false`: then the columns are numbered.
        first_bytes: The source's beginning.
        final: There is no more.

    Returns:
        All four; None: the first row isn't whole yet.

    Raises:
        FormatError: There is no header, or one that can't be used.
    """
    quote = options.get("quote", '"')
    given = [options["delimiter"]] if options.get("delimiter") else DELIMITERS
    readings = [_read(first_bytes, delimiter, quote, final=final) for delimiter in given]
    if options.get("header") and options.get("header_row") and options.get("delimiter"):
        return {**options, "quote": quote}
    found = [reading for reading in readings if reading.rows]
    if not found:
        return _without_rows(options, quote, first_bytes, final=final)
    best = _best(found)
    first = [name.strip() for name in best.rows[0]]
    if options.get("header"):
        header = options["header"]
        header_row = options.get("header_row") or ("true" if json.dumps(first) == _normal(header) else "false")
    elif options.get("header_row") == "false":
        header, header_row = json.dumps([f"column_{index}" for index in range(1, best.width + 1)]), "false"
    else:
        header, header_row = json.dumps(_distinct(first), ensure_ascii=False), "true"
    if best.width > COLUMN_COUNT_MAX:
        raise FormatError("csv", f"the header has {best.width} columns, over the limit of {COLUMN_COUNT_MAX}")
    return {"delimiter": best.delimiter, "quote": quote, "header": header, "header_row": header_row}


def looks_delimited(first_bytes: bytes, *, final: bool) -> bool:
    """Whether text that nobody said anything about is a header with rows: names first, then rows of the same width."""
    readings = [_read(first_bytes, delimiter, '"', final=final) for delimiter in DELIMITERS]
    wide = [reading for reading in readings if len(reading.rows) > 1 and reading.width > 1]
    if not wide:
        return False
    best = _best(wide)
    names = [name.strip() for name in best.rows[0]]
    named = all(len(name) <= _NAME_MAX and _NAME.match(name) for name in names) and len(set(names)) == len(names)
    return named and best.same_share >= _SAME_WIDTH_SHARE


def _best(readings: Sequence[_Reading]) -> _Reading:
    return max(
        readings, key=lambda reading: (reading.width > 1, reading.same_share >= _SAME_WIDTH_SHARE, reading.width)
    )


def _read(first_bytes: bytes, delimiter: str, quote: str, *, final: bool) -> _Reading:
    data = first_bytes.removeprefix(BOM)
    found = csv_rows.find_rows(data, delimiter, quote, final=final)
    rows: list[list[str]] = []
    for index in range(len(found.bounds) - 1):
        text = data[int(found.bounds[index]) : int(found.bounds[index + 1])].decode(errors="replace").rstrip("\r\n")
        if text and index not in found.problems:
            rows.append(csv_rows.split_row(text, delimiter, quote))
        if len(rows) >= _ROWS_LOOKED_AT:
            break
    return _Reading(delimiter, rows)


def _without_rows(options: Mapping[str, str], quote: str, first_bytes: bytes, *, final: bool) -> dict[str, str] | None:
    if not final and len(first_bytes) <= RECORD_BYTES_MAX:
        return None
    if options.get("header"):
        delimiter = options.get("delimiter") or ","
        return {"delimiter": delimiter, "quote": quote, "header": options["header"], "header_row": "false"}
    raise FormatError("csv", "there is no header row; give the option header")


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names without blanks and repeats."""
    taken: set[str] = set()
    out = []
    for index, name in enumerate(names, 1):
        base = name or f"column_{index}"
        unique, step = base, 2
        while unique in taken:
            unique, step = f"{base}_{step}", step + 1
        taken.add(unique)
        out.append(unique)
    return out


def _normal(header: str) -> str:
    try:
        return json.dumps(json.loads(header))
    except ValueError as error:
        raise FormatError("csv", "the option header must be a JSON list of names") from error
