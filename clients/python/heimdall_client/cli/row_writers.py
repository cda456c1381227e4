"""Rows of an answer onto standard output, in each form, as they arrive."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from heimdall_client.cli.console import write_line
from heimdall_client.cli.log_view import LogView, is_records
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall_client.sync_streams import Search

TABLE_CHUNK_ROWS: Final = 5000
"""Rows of a table that are laid out together."""


def write_json(rows: Iterable[str]) -> int:
    """One JSON object a line, as the server wrote it."""
    shown = 0
    for shown, row in enumerate(rows, start=1):  # noqa: B007 - the last number is the result
        write_line(row)
    return shown


def write_csv(columns: Sequence[str], rows: Iterable[str]) -> int:
    """CSV with a header (RFC 4180, but newlines of the platform); maps as JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    shown = 0
    for shown, row in enumerate(rows, start=1):  # noqa: B007
        values = json.loads(row)
        writer.writerow([_csv_value(values.get(column)) for column in columns])
    return shown


def write_arrow(search: Search) -> int:
    """An Arrow IPC stream; an answer without rows still has its schema."""
    import pyarrow as pa

    shown = 0
    with pa.ipc.new_stream(pa.PythonFile(sys.stdout.buffer, mode="w"), search.schema) as writer:
        for batch in search.batches():
            writer.write_batch(batch)
            shown += batch.num_rows
    sys.stdout.buffer.flush()
    return shown


def show_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, full: bool) -> int:
    """Records as lines, anything else as a table."""
    if is_records(columns):
        view = LogView(full=full)
        shown = 0
        for shown, row in enumerate(rows, start=1):  # noqa: B007
            write_line(view.line(row))
        return shown
    shown = 0
    for chunk in _chunks(rows, TABLE_CHUNK_ROWS):
        cells = [[row.get(column) for column in columns] for row in chunk]
        show_table(table(columns, cells))
        shown += len(chunk)
    return shown


def _chunks(rows: Iterable[Mapping[str, Any]], length: int) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, length)):
        yield chunk


def _csv_value(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
