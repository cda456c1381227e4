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
        "heimdall delete 'service:api AND \"AKIA…\"' --reason 'leaked key' --dry-run",
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
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't follow it until it ends.")] = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Delete the records that a query finds, stored until now. It can't be undone."""
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
        if not yes:
            if not sys.stdin.isatty():
                msg = "nobody is there to ask; give --yes, or --dry-run to see what would happen"
                raise typer.BadParameter(msg)
            typer.confirm(f"delete {plural(found, 'record')} for good?", abort=True, err=True)
        operation_view.follow(client, ask(only_count=False).operation, output, wait=not no_wait)
