"""`heimdall graph warninglists`: the lists of what nearly everybody meets."""

from __future__ import annotations

import typer

from heimdall_client.cli.console import note, plural, warn
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "warninglists",
        epilog=examples(
            "heimdall graph warninglists",
            more="Newer versions: `heimdall warninglists refresh SOURCE`, where the server's data is.",
        ),
    )(connected(warninglists))


def warninglists(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """List the warninglists in force: what is on one is believed less, and below 20 walks end there."""
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        found = client.warninglists()
    if output is TextOutput.JSON:
        for one in found.warninglists:
            print_json(to_plain(one))
    else:
        rows = [
            [
                one.name,
                ", ".join(one.types),
                one.entry_count or "by rule",
                one.confidence,
                "no" if one.stops_walks else "yes",
                one.version,
                one.description or one.title,
                f"{one.source} ({one.licence})",
            ]
            for one in found.warninglists
        ]
        headings = ["list", "of", "entries", "sure", "walked through", "version", "means", "source"]
        if rows:
            show_table(table(headings, rows, fold="means"))
        note(plural(len(rows), "warninglist"))
    for problem in found.problems:
        warn(problem)
