"""`heimdall audit`: who did what with personal data, and whether the log was tampered with."""

from __future__ import annotations

from typing import Annotated

import typer

from heimdall_client.cli.console import note, out, plural, span
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

_app = typer.Typer(name="audit", help="The audit log: read it, check it.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(_app)


@_app.command(
    "list",
    epilog=examples("heimdall audit list --action privacy.reveal", "heimdall audit list -n 0 -o json > audit.ndjson"),
)
@connected
def list_(
    link: Link,
    *,
    action: Annotated[str, typer.Option("--action", metavar="PREFIX", help="Only actions that begin so.")] = "",
    actor: Annotated[str, typer.Option("--actor", metavar="URI", help="Only of this caller.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many; 0: all.")] = 100,
    output: Output = TextOutput.TABLE,
) -> None:
    """List acts, the oldest first."""
    from heimdall_client.cli.plain import print_json, to_plain, to_text

    with link.client() as client:
        found = client.audit_entries(action=action, actor=actor, limit=limit)
        if output is TextOutput.JSON:
            for entry in found:
                print_json(to_plain(entry))
            return
        rows = [[e.sequence, to_text(e.time)[:19], e.actor, e.action, e.outcome, e.subject, e.reason] for e in found]
    if rows:
        show_table(table(["number", "time", "who", "action", "outcome", "subject", "reason"], rows, fold="reason"))
    note(plural(len(rows), "entry", "entries"))


@_app.command(
    epilog=examples(
        "heimdall audit verify",
        more="Keep the last digest elsewhere and compare it later: who can write the files can make up a whole log.",
    )
)
@connected
def verify(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """Walk the whole hash chain. Exit code 1 if an entry was changed, removed or put in."""
    with link.client() as client:
        answer = client.verify_audit_log()
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(answer))
        return
    out().print(f"the chain of {plural(answer.entry_count, 'entry', 'entries')} holds")
    out().print(f"last digest {answer.last_digest.hex()}")
    note(f"took {span(answer.took_duration.ToNanoseconds() / 1e9)}")
