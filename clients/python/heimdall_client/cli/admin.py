"""`heimdall admin`: what the server's PostgreSQL needs: indexes, slow statements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from heimdall_client.cli.console import clean, note, plural, size, span, warn, write_line
from heimdall_client.cli.options import Link, Output, Since, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.admin.v1 import database_pb2

_app = typer.Typer(name="admin", help="PostgreSQL: its indexes, its slow statements.", no_args_is_help=True)
_WEEK_S: Final = 7 * 86_400


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_app)


@_app.command(
    epilog=examples(
        "heimdall admin indexes",
        "heimdall admin indexes -o json | jq -r '.findings[].statement'",
        more="Nothing is changed. Read what a statement does before you give it to psql; an index that nobody read for an hour may be read once a week.",
    )
)
@connected
def indexes(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """Report indexes that are unused, missing, twice there, broken or bloated, and the SQL that mends each."""
    from heimdall_client.cli.plain import enum_name, print_json, to_plain, to_text

    with link.client() as client:
        answer = client.indexes()
    if output is TextOutput.JSON:
        print_json(to_plain(answer))
        return
    rows = [
        [
            enum_name(one.DESCRIPTOR.fields_by_name["problem"].enum_type, one.problem),
            one.index or one.table,
            size(one.size_bytes),
            one.scan_count,
            one.detail,
        ]
        for one in answer.findings
    ]
    if rows:
        show_table(table(["problem", "index", "bytes", "scans", "detail"], rows, fold="detail"))
        write_line("")
    for statement in filter(None, (one.statement for one in answer.findings)):
        write_line(clean(statement))
    looked = f"{plural(answer.index_count, 'index', 'indexes')} looked at, {plural(len(answer.findings), 'finding')}"
    if not answer.HasField("since_time"):
        note(looked)
        return
    counted_s = time.time() - answer.since_time.ToNanoseconds() / 1e9
    note(f"{looked}; counted since {to_text(answer.since_time)[:19]}, {span(counted_s)}")
    if counted_s < _WEEK_S and rows:
        warn("that is less than a week: what seems unused may not be")


@_app.command(
    epilog=examples(
        "heimdall admin slow --since 1h",
        "heimdall admin slow -o json | jq -r 'select(.user==\"graph_reader\") | .plan'",
        more="Kept in memory since the server's start; the server's log has them as well. Values are left out, of plans too.",
    )
)
@connected
def slow(
    link: Link,
    *,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="At most so many.")] = 50,
    output: Output = TextOutput.TABLE,
) -> None:
    """Show the last statements to PostgreSQL that took too long, the newest first."""
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        answer = client.slow_statements(since=since, limit=limit)
    if output is TextOutput.JSON:
        for one in answer.statements:
            print_json(to_plain(one))
        return
    _show(answer)


def _show(answer: database_pb2.ListSlowStatementsResponse) -> None:
    from heimdall_client.cli.plain import to_text

    rows = [
        [
            to_text(one.time)[:19],
            one.user,
            f"{one.duration.ToNanoseconds() / 1e6:,.0f} ms",
            one.row_count if one.row_count >= 0 else None,
            one.outcome,
            one.fingerprint,
            one.statement,
        ]
        for one in answer.statements
    ]
    if rows:
        heads = ["time", "user", "took", "rows", "outcome", "fingerprint", "statement"]
        show_table(table(heads, rows, fold="statement"))
    if not answer.HasField("threshold_duration"):
        note("nothing counts as slow here: postgres.slow_statement_s is 0")
    elif not rows:
        note(f"no statement took longer than {answer.threshold_duration.ToNanoseconds() / 1e6:,.0f} ms")
