"""`heimdall delete`: what a query finds goes from every store, index and rollup."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from heimdall_client.cli import operation_view
from heimdall_client.cli.console import note, out, plural
from heimdall_client.cli.options import Datasets, Link, Output, Since, TextOutput, Until, connected, examples

if TYPE_CHECKING:
    from heimdall.privacy.v1 import privacy_service_pb2


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    lines = (
        "heimdall delete 'service:api AND \"hunter2\"' --reason 'leaked password' --dry-run",
        "heimdall delete 'source:old' --until 2024-05-01 --reason 'sent by mistake' --yes",
    )
    more = "Give - as QUERY to read it from stdin: arguments are visible to other users of the machine."
    app.command(epilog=examples(*lines, more=more))(delete)


@connected
def delete(
    link: Link,
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A filter, without pipes; - reads stdin.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; stays in the audit log.", show_default=False)],
    since: Since = None,
    until: Until = None,
    datasets: Datasets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't wait until the stores are without them.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Delete the records that a query finds, stored until now. It can't be undone.

    Returns when no store has them any more; the operation ends when the journal has let go of its last copy.
    """
    text = sys.stdin.read().strip() if query == "-" else query
    with link.client() as client:

        def ask(*, only_count: bool) -> privacy_service_pb2.DeleteRecordsResponse:
            return client.delete_records(
                text, reason=reason, since=since, until=until, datasets=datasets or (), dry_run=only_count
            )

        found = ask(only_count=True).record_count
        if dry_run:
            if output is TextOutput.JSON:
                from heimdall_client.cli.plain import print_json

                print_json({"record_count": found})
            else:
                out().print(f"{plural(found, 'record')} would be deleted")
            return
        note(f"{plural(found, 'record')} found")
        operation_view.confirm(f"delete {plural(found, 'record')} for good?", yes=yes)
        operation = ask(only_count=False).operation
        operation_view.follow(client, operation, output, wait=not no_wait, until_inaccessible=True)
