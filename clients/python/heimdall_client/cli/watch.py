"""`heimdall watch`: records as they come in, or live aggregates."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heimdall_client.cli.console import clean, note, out, span, write_line
from heimdall_client.cli.log_view import LogView, is_records
from heimdall_client.cli.options import Datasets, Link, Output, Since, TextOutput, connected, examples
from heimdall_client.cli.query import Full, QueryText, Sql, question
from heimdall_client.cli.tables import cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_client.errors import HeimdallError
    from heimdall_client.sync_client import Client
    from heimdall_client.translate import Question
    from heimdall_client.watch_state import AggregateRow, Created, Rows, WatchEvent


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "heimdall watch 'severity:>=WARN' --last 20",
        "heimdall watch 'severity:>=WARN | stats count() by service' --every 5s",
        "heimdall watch 'service:api | timechart 1m count() by host' --since 15m",
        "heimdall watch 'entity_label:c2'",
    )
    more = "It goes on by itself after a break; Ctrl-C ends it."
    app.command(epilog=examples(*lines, more=more))(watch)


def _every(value: str | None) -> str | None:
    from heimdall_client.translate import parse_span_s

    if value is not None:
        try:
            seconds = parse_span_s(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        if seconds < 0.1:
            msg = "at least 100ms"
            raise typer.BadParameter(msg)
    return value


@connected
def watch(
    link: Link,
    *,
    text: QueryText,
    every: Annotated[
        str | None,
        typer.Option(
            "--every", metavar="SPAN", callback=_every, help="How often aggregates are sent.  \\[default: 5s]"
        ),
    ] = None,
    since: Since = None,
    last: Annotated[
        int | None,
        typer.Option("--last", "-l", min=0, max=100_000, help="The last so many records first.", show_default=False),
    ] = None,
    dataset: Datasets = None,
    sql: Sql = False,
    full: Full = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Follow a query live.

    Records as they come in, or aggregates that are kept up to date.
    """
    if since is not None and last is not None:
        msg = "--since and --last exclude one another"
        raise typer.BadParameter(msg)
    from heimdall_client.translate import parse_span_s

    asked = question(text, sql=sql)
    with link.client() as client:
        groups = _group_names(client, asked)
        events = client.watch(
            asked,
            since=since,
            last=last,
            every_s=None if every is None else parse_span_s(every),
            datasets=dataset or [],
            encoding="json" if output is TextOutput.JSON else "arrow",
            on_retry=_tell_break,
        )
        if output is TextOutput.JSON:
            _write_json(events)
        else:
            _show(events, groups, full=full)


def _tell_break(error: HeimdallError, delay_s: float) -> None:
    note(f"interrupted: {str(error).splitlines()[0]}; trying again in {span(delay_s)}")


def _group_names(client: Client, asked: Question) -> list[str]:
    """Columns that name an aggregate's group: rows with the same values there replace one another.

    Asked before the watch begins: a server that isn't there, or a wrong query, is told at once that way, while a watch
    would wait for a server.
    """
    from heimdall_client.errors import PermissionDeniedError

    try:
        answer = client.explain(asked)
    except PermissionDeniedError:
        return []  # whoever may watch need not be allowed to search
    for stage in answer.tree.stages:
        if stage.WhichOneof("kind") == "stats":
            return [key.bucket.name if key.HasField("bucket") else key.field.name for key in stage.stats.by]
    return []


def _write_json(events: Iterator[WatchEvent]) -> None:
    from heimdall_client.cli.plain import print_json
    from heimdall_client.watch_state import AggregateRow, Rows

    for event in events:
        if isinstance(event, Rows):
            for row in event.json_rows:
                write_line(row)
        elif isinstance(event, AggregateRow):
            bucket = event.bucket_time.isoformat().replace("+00:00", "Z") if event.bucket_time else None
            for row in event.message.json_rows:
                print_json({"bucket_time": bucket, "revision": event.revision, "values": json.loads(row)})
        else:
            continue
        sys.stdout.flush()


def _show(events: Iterator[WatchEvent], groups: list[str], *, full: bool) -> None:
    from heimdall_client.watch_state import AggregateRow, Created, Rows

    columns: list[str] = []
    view = LogView(full=full)
    for event in events:
        if isinstance(event, Created):
            columns = event.columns
            if event.aggregates and out().is_terminal:
                _show_live(event, events, groups)
                return
        elif isinstance(event, Rows):
            _print_rows(event, columns, view)
            sys.stdout.flush()
        elif isinstance(event, AggregateRow):
            _print_aggregate(event, columns)
            sys.stdout.flush()


def _print_rows(event: Rows, columns: list[str], view: LogView) -> None:
    records = is_records(columns)
    for row in event.rows:
        write_line(view.line(row) if records else _pairs(row, columns))


def _print_aggregate(event: AggregateRow, columns: list[str]) -> None:
    for row in event.rows:
        write_line(_pairs(row, columns))


def _pairs(row: dict[str, Any], columns: list[str]) -> str:
    return "  ".join(f"{clean(column)}={cell(row.get(column))}" for column in columns)


def _show_live(created: Created, events: Iterator[WatchEvent], group_names: list[str]) -> None:
    """A table that is kept up to date."""
    from rich.live import Live

    from heimdall_client.cli.live_table import LiveTable
    from heimdall_client.watch_state import AggregateRow

    state = LiveTable(created.canonical_text, created.columns, group_names)
    with Live(console=out(), auto_refresh=False, transient=False, vertical_overflow="crop") as live:
        live.update(state.render(height=out().height), refresh=True)
        for event in events:
            if isinstance(event, AggregateRow):
                for row in event.rows:
                    state.put(row, revision=event.revision)
            live.update(state.render(height=out().height), refresh=True)
