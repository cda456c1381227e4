"""`heimdall fields`: which fields records carry, and a field's most frequent values."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from heimdall_client.cli.console import note, plural
from heimdall_client.cli.options import Datasets, Link, Output, Since, TextOutput, Until, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

BAR_WIDTH: Final = 20
VALUES_DEFAULT: Final = 20


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    more = "heimdall fields severity --where 'service:api' --since 1h"
    app.command(epilog=examples("heimdall fields", "heimdall fields service -n 50", more))(fields)


@connected
def fields(
    link: Link,
    *,
    field: Annotated[str | None, typer.Argument(help="A field: show its most frequent values.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", "-w", metavar="QUERY", help="Values among the records that match.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, max=2000, help="At most so many.", show_default=False)
    ] = None,
    since: Since = None,
    until: Until = None,
    dataset: Datasets = None,
    output: Output = TextOutput.TABLE,
) -> None:
    """List the fields that records carry, or a field's most frequent values."""
    if field is None and where is not None:
        msg = "--where goes with a FIELD"
        raise typer.BadParameter(msg)
    if field is None:
        _list(link, since, until, dataset or [], limit or 2000, output)
    else:
        _values(link, field, where, since, until, dataset or [], min(limit or VALUES_DEFAULT, 1000), output)


def _list(
    link: Link, since: str | None, until: str | None, datasets: list[str], limit: int, output: TextOutput
) -> None:
    with link.client() as client:
        answer = client.list_fields(since=since, until=until, datasets=datasets, limit=limit)
    found = answer.fields
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        for one in found:
            print_json(to_plain(one))
        return
    rows = [
        [one.name, one.type, f"{one.coverage:>4.0%} {_bar(one.coverage)}".rstrip(), one.record_count] for one in found
    ]
    show_table(table(["field", "type", "coverage", "records"], rows))
    if not found:
        note("no records in this time: try --since")
    elif answer.sampled_count:
        note(f"of the newest {plural(answer.sampled_count, 'record')}")


def _values(
    link: Link,
    field: str,
    where: str | None,
    since: str | None,
    until: str | None,
    datasets: list[str],
    limit: int,
    output: TextOutput,
) -> None:
    with link.client() as client:
        answer = client.field_values(field, question=where, since=since, until=until, datasets=datasets, limit=limit)
    if output is TextOutput.JSON:
        from heimdall_client.cli.plain import print_json, to_plain

        print_json(to_plain(answer))
        return
    total = max(1, answer.record_count)
    rows = [
        [one.value, one.record_count, f"{one.record_count / total:>4.0%} {_bar(one.record_count / total)}".rstrip()]
        for one in answer.values
    ]
    show_table(table([field, "records", "share"], rows))
    note(f"{plural(answer.distinct_count, 'value')} in {plural(answer.record_count, 'record')}")


def _bar(share: float) -> str:
    return "█" * round(share * BAR_WIDTH)
