"""Records as lines: time, severity, service, body and the record's id, fitted into the terminal.

Escape sequences are written by hand: Rich's own rendering takes a hundred times as long, and a search may give
a million lines.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import Any, Final

from heimdall_client.cli.console import clean, has_colour, instant, out
from heimdall_client.cli.tables import cell

RECORD_COLUMNS: Final = frozenset({"time", "severity", "body", "shard", "position", "row"})
"""An answer with all of them is one of whole records."""

_NAME_WIDTH_MAX: Final = 20
_BODY_WIDTH_MIN: Final = 16
_LEVELS: Final = (
    (21, "FATAL", "1;37;41"),
    (17, "ERROR", "1;31"),
    (13, "WARN", "33"),
    (9, "INFO", "32"),
    (5, "DEBUG", "2"),
    (1, "TRACE", "2"),
)
_MAPS: Final = ("attributes", "attributes_number", "attributes_bool", "resource", "resource_number", "resource_bool")


def is_records(columns: Sequence[str]) -> bool:
    """Whether an answer's rows are whole records."""
    return set(columns) >= RECORD_COLUMNS


def record_id(row: Mapping[str, Any]) -> str:
    """What `heimdall context` takes."""
    return f"{row['shard']}-{row['position']}-{row['row']}"


class LogView:
    """Makes lines of records. The name column grows with the names that it has seen.

    Args:
        full: Whole bodies with all their lines, and attributes.
        width: Columns of the terminal; None: as it is; 0: nothing is cut.
        colour: None: as the terminal can.
    """

    def __init__(self, *, full: bool = False, width: int | None = None, colour: bool | None = None) -> None:
        terminal = out().is_terminal
        self._width = (out().width if terminal else 0) if width is None else width
        self._colour = has_colour(out()) if colour is None else colour
        self._full = full
        self._name_width = 8

    def line(self, row: Mapping[str, Any]) -> str:
        """One record, with the columns of `RECORD_COLUMNS`; several lines if `full`."""
        name = _name(row)
        self._name_width = min(_NAME_WIDTH_MAX, max(self._name_width, len(name)))
        name = name[: self._name_width - 1] + "…" if len(name) > self._name_width else name
        level, code = _level(int(row["severity"] or 0), str(row.get("severity_text") or ""))
        key = record_id(row)
        head = f"{instant(row['time'])} {level:<5} {name:<{self._name_width}} "
        if self._full:
            body = self._whole(row)
        else:
            body = _flat(str(row["body"] or ""))
            room = self._width - len(head) - len(key) - 1
            if self._width and room >= _BODY_WIDTH_MIN:
                body = _fit(body, room)
        if not self._colour:
            return f"{head}{body} {key}"
        time, rest = head[:24], head[30:]
        return f"\x1b[2m{time}\x1b[0m \x1b[{code}m{level:<5}\x1b[0m{rest}{body} \x1b[2m{key}\x1b[0m"

    def _whole(self, row: Mapping[str, Any]) -> str:
        lines = str(row["body"] or "").splitlines() or [""]
        body = "\n    ".join(clean(line) for line in lines)
        pairs = [f"{clean(k)}={cell(v)}" for name in _MAPS for k, v in (row.get(name) or {}).items()]
        if row.get("overflow"):
            pairs.append(f"overflow={clean(str(row['overflow']))}")
        if not pairs:
            return body
        attributes = " ".join(pairs)
        return f"{body} \x1b[36m{attributes}\x1b[0m" if self._colour else f"{body} {attributes}"


def _name(row: Mapping[str, Any]) -> str:
    """Service, else host, else the end of the source."""
    name = row.get("service") or row.get("host")
    if not name:
        source = str(row.get("source") or "").partition("#")[0]
        name = os.path.basename(source.rpartition(":")[2]) or source or "-"  # noqa: PTH119 - not a path of this machine
    return clean(str(name))


def _level(severity: int, text: str) -> tuple[str, str]:
    for lowest, name, code in _LEVELS:
        if severity >= lowest:
            return name, code
    return clean(text)[:5] or "-", "2"


def _flat(body: str) -> str:
    """The first line, and how many follow."""
    first, _, rest = body.strip("\r\n").partition("\n")
    more = rest.count("\n") + 1 if rest else 0
    return clean(first.rstrip("\r")) + (f" ⏎ +{more}" if more else "")


def _fit(text: str, width: int) -> str:
    """Exactly so many columns; wide characters count two."""
    if text.isascii():
        return text[: width - 1] + "…" if len(text) > width else text.ljust(width)
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(text, width - 1) + "…" if cell_len(text) > width else set_cell_size(text, width)
