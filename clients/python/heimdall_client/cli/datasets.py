"""`heimdall datasets`: what there is, how long it is kept, how much it holds."""

from __future__ import annotations

import typer

from heimdall_client.cli.console import size, span
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=examples("heimdall datasets", "heimdall datasets -o json | jq .dataset_id"))(datasets)


@connected
def datasets(link: Link, *, output: Output = TextOutput.TABLE) -> None:
    """List the datasets: how long each is kept, what it holds."""
    with link.client() as client:
        found = client.datasets()
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        for one in found:
            print_json(to_plain(one))
        return
    from heimdall_client.cli.plain import to_text

    rows = [
        [
            one.dataset_id,
            one.record_count,
            size(one.size_bytes),
            to_text(one.oldest_time)[:19] if one.HasField("oldest_time") else "",
            to_text(one.newest_time)[:19] if one.HasField("newest_time") else "",
            span(one.retention_duration.seconds) if one.HasField("retention_duration") else "for ever",
            size(one.retention_bytes) if one.retention_bytes else "any size",
            one.partition_unit,
        ]
        for one in found
    ]
    heads = ["dataset", "records", "bytes", "oldest", "newest", "kept", "up to", "partition"]
    show_table(table(heads, rows))
