"""`heimdall query`: rows of an answer as log lines, table, JSON, CSV or Arrow."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli.console import count, note, out, plural, span, warn
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.options import (
    Datasets,
    Link,
    OrderOption,
    RowOutput,
    Rows,
    Since,
    Until,
    connected,
    examples,
)

if TYPE_CHECKING:
    from heimdall_client.sync_streams import Search
    from heimdall_client.translate import Question

TABLE_LIMIT: Final = 100
"""Rows of a table, where the user doesn't say how many."""

QueryText = Annotated[str, typer.Argument(metavar="QUERY", help="Query language, or SQL with --sql; - reads stdin.")]
Sql = Annotated[bool, typer.Option("--sql", help="QUERY is a SELECT over `logs`.")]
Full = Annotated[bool, typer.Option("--full", help="Whole bodies with all their lines, and attributes.")]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "heimdall query 'service:api AND timeout' --since 1h",
        "heimdall query 'severity:>=ERROR | stats count() by service | sort -count'",
        "heimdall query 'status:>=500 | timechart 5m count() by host' --since 1d -o csv > errors.csv",
        "heimdall query --sql 'SELECT host, count(*) FROM logs GROUP BY host'",
        "heimdall query 'sighted_in:forum-2026-03 AND service:auth'",
    )
    more = (
        "Where the graph runs, sighted_in:NAME, entity_label:LABEL and entity_tlp:LEVEL find records that hold an entity which a dump or source "
        "tells of, which has a label, or which somebody tells of under a marking."
    )
    app.command(epilog=examples(*lines, more=more))(query)


@connected
def query(
    link: Link,
    *,
    text: QueryText,
    since: Since = None,
    until: Until = None,
    dataset: Datasets = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=0,
            max=10_000_000,
            help="At most so many rows; 0: as many as the server allows.  \\[default: 100 for table, else 0]",
            show_default=False,
        ),
    ] = None,
    order: Annotated[OrderOption, typer.Option("--order", help="Of plain rows.")] = OrderOption.NEWEST,
    consistent: Annotated[
        bool, typer.Option("--consistent", help="Wait until all that is acknowledged now is visible.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0.001, help="For the query.", show_default=False),
    ] = None,
    sql: Sql = False,
    full: Full = False,
    output: Rows = RowOutput.TABLE,
) -> None:
    """Search records, or compute over them."""
    if output is RowOutput.ARROW and sys.stdout.isatty():
        msg = "arrow is binary: send it to a file or a program, as in: -o arrow > rows.arrows"
        raise typer.BadParameter(msg, param_hint="--output")
    if limit is None:
        limit = TABLE_LIMIT if output is RowOutput.TABLE else 0
    with link.client() as client:
        search = client.search(
            question(text, sql=sql),
            since=since,
            until=until,
            datasets=dataset or [],
            order=order.value,
            limit=limit,
            consistent=consistent,
            timeout_s=timeout_s,
            encoding="json" if output in (RowOutput.JSON, RowOutput.CSV) else "arrow",
        )
        with search:
            shown = show(search, output, full=full)
        finish(search, shown, output, limit=limit, verbose=link.verbose)


def question(text: str, *, sql: bool) -> Question:
    """What the user asks: as an argument, or, since arguments of a process are visible to others, on standard input."""
    if text == "-":
        text = sys.stdin.read().strip()
    if not sql:
        return text
    from heimdall_client import translate

    return translate.sql(text)


def show(search: Search, output: RowOutput, *, full: bool) -> int:
    """Print an answer; returns how many rows it had."""
    from heimdall_client.cli import row_writers

    if output is RowOutput.JSON:
        return row_writers.write_json(search.json_rows())
    if output is RowOutput.CSV:
        return row_writers.write_csv(search.columns, search.json_rows())
    if output is RowOutput.ARROW:
        return row_writers.write_arrow(search)
    return row_writers.show_rows(search.columns, search, full=full)


def finish(search: Search, shown: int, output: RowOutput, *, limit: int, verbose: bool) -> None:
    """Say what the answer lacks and, to a person, what it took.

    Raises:
        Exit: A part is missing.
    """
    for one in search.missing:
        warn(f"incomplete ({one.what}): {one.reason}")
    if output is RowOutput.TABLE and out().is_terminal:
        used = search.statistics
        facts = [plural(shown, "row") if shown else "no rows", span(used.elapsed_duration.ToNanoseconds() / 1e9)]
        if used.read_row_count:
            facts.append(f"{count(used.read_row_count)} read")
        if verbose and search.plan is not None:
            facts.append(search.plan.reason)
        note(" · ".join(facts))
    if search.plan is not None and search.plan.notice:
        note(search.plan.notice)
    if output is RowOutput.TABLE and 0 < limit <= shown:
        note(f"{plural(shown, 'row')}, as --limit says; there may be more")
    if search.missing:
        raise typer.Exit(ExitCode.INCOMPLETE)
