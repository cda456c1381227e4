"""Aggregates that are kept up to date: newest interval first, the groups of one below one another."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from heimdall_client.cli.console import clean, plural
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Group

ROWS_MAX: Final = 10_000
"""Groups that are remembered; the oldest interval is forgotten first."""
_FRAME_LINES: Final = 6
"""Title, head, rule, caption, and room for the prompt."""


class LiveTable:
    """The newest values of each group.

    Args:
        title: The query.
        columns: Of the rows.
        group_names: Those that name the group; a time among them is the interval.
    """

    def __init__(self, title: str, columns: Sequence[str], group_names: Sequence[str]) -> None:
        self._title = title
        self._columns = list(columns)
        self._groups = [name for name in columns if name in group_names]
        self._rows: dict[tuple[Any, ...], tuple[int, Mapping[str, Any]]] = {}
        self._updated = ""

    def put(self, row: Mapping[str, Any], *, revision: int) -> None:
        """Take the new values of a group; an older revision than the one that is there changes nothing."""
        key = tuple(row.get(name) for name in self._groups)
        known = self._rows.get(key)
        if known is None or revision >= known[0]:
            self._rows[key] = (revision, row)
            self._updated = f"{dt.datetime.now().astimezone():%H:%M:%S}"
        if len(self._rows) > ROWS_MAX:
            del self._rows[min(self._rows, key=lambda one: (_interval(one), one is not key))]

    def rows(self) -> list[Mapping[str, Any]]:
        """Newest interval first; within one, the largest first value first."""
        values = [name for name in self._columns if name not in self._groups]
        ordered = sorted(
            self._rows.items(),
            key=lambda item: (_interval(item[0]), _weight(item[1][1], values)),
            reverse=True,
        )
        return [row for _, (_, row) in ordered]

    def render(self, *, height: int) -> Group:
        """What fits on so many lines."""
        room = max(1, height - _FRAME_LINES)
        rows = self.rows()
        caption = f"updated {self._updated}" if self._updated else "nothing yet"
        if len(rows) > room:
            caption += f" · {plural(len(rows) - room, 'more row')} below"
        from rich.console import Group
        from rich.text import Text

        return Group(
            Text(clean(self._title), "bold", no_wrap=True, overflow="ellipsis"),
            table(self._columns, [[row.get(name) for name in self._columns] for row in rows[:room]]),
            Text(caption, "dim"),
        )


def _interval(key: tuple[Any, ...]) -> float:
    return next((part.timestamp() for part in key if isinstance(part, dt.datetime)), 0.0)


def _weight(row: Mapping[str, Any], values: Sequence[str]) -> float:
    first = row.get(values[0]) if values else None
    return float(first) if isinstance(first, int | float) else 0.0
