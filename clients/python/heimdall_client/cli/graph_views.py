"""`heimdall graph pivot, list, sightings`: from logs to entities, lists of entities, where and when one was seen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from heimdall_client.cli.console import note, plural, span, warn
from heimdall_client.cli.graph import NAMES, Ceiling, Listed, ListOutput, Vertex, parse_tlp
from heimdall_client.cli.options import Datasets, Link, Since, Until, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.graph.v1 import views_pb2 as pb

_TOLD = 3
"""Names of sources or dumps in a line of a table."""


class By(StrEnum):
    """What sightings are added up by."""

    DAY = "day"
    HOUR = "hour"
    SOURCE = "source"
    DUMP = "dump"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command, epilog in (
        (
            "pivot",
            pivot,
            examples(
                "heimdall graph pivot 'service:auth AND severity:>=ERROR' --to ip --min 3 --since 24h",
                "heimdall graph pivot 'dump:forum-2026-03' --to email --to domain -o csv > forum.csv",
                more="The query is a filter without pipes; -: from standard input. It is run as by `heimdall query`, so it needs the "
                "permission query.search besides graph.read. Addresses of any version: --to ip; digests of any kind: --to hash.",
            ),
        ),
        (
            "list",
            list_entities,
            examples(
                "heimdall graph list --type domain --label c2", "heimdall graph list --since 7d --confidence 80 -o csv"
            ),
        ),
        (
            "sightings",
            sightings,
            examples(
                "heimdall graph sightings ip:203.0.113.7 --since 30d",
                "heimdall graph sightings ip:203.0.113.7 --by source",
                more=NAMES,
            ),
        ),
    ):
        app.command(name=name, epilog=epilog)(connected(command))


Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this type; may be repeated.")]


def pivot(
    link: Link,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Which records; - reads stdin.", show_default=False)],
    *,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="TYPE", help="Only entities of this type; may be repeated.")
    ] = None,
    minimum: Annotated[int, typer.Option("--min", min=1, help="Only entities that so many records name.")] = 1,
    since: Since = None,
    until: Until = None,
    dataset: Datasets = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Entities at most.")] = 100,
    records: Annotated[
        int, typer.Option("--records", min=1, max=1_000_000, help="Records read at most, the newest ones.")
    ] = 100_000,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0.001, help="For reading records.", show_default="20"),
    ] = None,
    tlp: Ceiling = "",
    output: Listed = ListOutput.TABLE,
) -> None:
    """Go from logs to entities: what the records of a query name, by how many name it, and what the graph knows of it."""
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    text = sys.stdin.read().strip() if query == "-" else query
    with link.client() as client:
        found = client.pivot(
            text,
            to=to or (),
            minimum=minimum,
            since=since,
            until=until,
            datasets=dataset or (),
            limit=limit,
            record_limit=records,
            timeout_s=timeout_s,
            tlp=parse_tlp(tlp),
        )
    if output is ListOutput.JSON:
        for one in found.entities:
            print_json(to_plain(one))
    elif output is ListOutput.CSV:
        graph_rows.write_csv(*graph_rows.pivoted(found.entities))
    elif found.entities:
        _show_pivoted(found.entities)
    summary = found.summary
    note(
        f"{plural(summary.entity_count, 'entity', 'entities')} in {plural(summary.record_count, 'record')}, newest first"
    )
    for cut in summary.cuts:
        warn(_cut(cut))
    unknown = sum(not one.is_known for one in found.entities)
    if unknown:
        lag_s = summary.graph_lag_duration.ToNanoseconds() / 1e9
        behind = f"; it is {span(lag_s)} behind" if lag_s else ""
        warn(f"{unknown:,} of them aren't in the graph yet, or not for you{behind}")


def list_entities(
    link: Link,
    *,
    type_: Types = None,
    label: Annotated[str, typer.Option("--label", metavar="LABEL", help="Only those with this label.")] = "",
    confidence: Annotated[int, typer.Option("--confidence", min=0, max=100, help="Only those that are as sure.")] = 0,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many.")] = 100,
    tlp: Ceiling = "",
    output: Listed = ListOutput.TABLE,
) -> None:
    """List entities, the latest that came to the graph first."""
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        found = client.entities(
            types=type_ or (),
            label=label,
            confidence=confidence,
            since=since,
            until=until,
            tlp=parse_tlp(tlp),
            limit=limit + 1,
        )
    told, has_more = found[:limit], len(found) > limit
    if output is ListOutput.JSON:
        for one in told:
            print_json(to_plain(one))
    elif output is ListOutput.CSV:
        graph_rows.write_csv(*graph_rows.entities(told))
    elif told:
        _show_entities(told)
    note(plural(len(told), "entity", "entities") + (", and more: --limit" if has_more else ""))


def sightings(
    link: Link,
    entity: Vertex,
    *,
    by: Annotated[By | None, typer.Option("--by", help="Add them up.", show_default=False)] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 100,
    tlp: Ceiling = "",
    output: Listed = ListOutput.TABLE,
) -> None:
    """List where an entity was seen, day by day, the newest first; or add it up."""
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain, to_text

    if by is not None:
        _sum(link, entity, by, since=since, until=until, limit=limit, tlp=tlp, output=output)
        return
    with link.client() as client:
        found = client.sightings(entity, since=since, until=until, limit=limit, tlp=parse_tlp(tlp))
    if output is ListOutput.JSON:
        for one in found.sightings:
            print_json(to_plain(one))
        return
    if output is ListOutput.CSV:
        graph_rows.write_csv(*graph_rows.sightings(found.sightings))
    elif found.sightings:
        rows = [
            [
                one.day,
                one.value,
                one.seen.count,
                to_text(one.seen.first_time)[11:19],
                to_text(one.seen.last_time)[11:19],
            ]
            for one in found.sightings
        ]
        show_table(table(["day", "seen in", "count", "first", "last"], rows, fold="seen in"))
    note(plural(len(found.sightings), "sighting") + (", and more: --limit" if found.truncated else ""))


def _sum(
    link: Link,
    entity: str,
    by: By,
    *,
    since: str | None,
    until: str | None,
    limit: int,
    tlp: str,
    output: ListOutput,
) -> None:
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        found = client.sum_sightings(entity, by=by.value, since=since, until=until, limit=limit, tlp=parse_tlp(tlp))
    if output is ListOutput.JSON:
        print_json(to_plain(found))
        return
    columns, rows = graph_rows.sums(found, by.value)
    if output is ListOutput.CSV:
        graph_rows.write_csv(columns, rows)
    elif rows:
        is_time = by in (By.DAY, By.HOUR)
        told = [[row[0], row[1], row[2], row[3][:19], row[4][:19]] for row in rows]
        shown = 3 if by is By.HOUR else 5
        names = [by.value, "count", "sightings", "first", "last"]
        show_table(table(names[:shown], [row[:shown] for row in told], fold="" if is_time else by.value))
    total = found.total
    note(
        f"seen {plural(total.count, 'time')} in {plural(total.sighting_count, 'sighting')}"
        + (", more sums than are told: --limit" if found.truncated else "")
    )
    if found.partial:
        warn("there are more sightings than are added up at once; the surest and newest were: narrow it by --since")


def _show_pivoted(found: Sequence[pb.PivotResponse.Entity]) -> None:
    from heimdall_client.cli import graph_export
    from heimdall_client.cli.plain import to_text

    rows = [
        [
            one.record_count,
            graph_export.kind_name(one.vertex),
            one.vertex.value,
            to_text(one.first_time)[:19],
            to_text(one.last_time)[:19],
            _names([source.source for source in one.sources], one.source_count),
            _names(one.dumps, len(one.dumps), more=one.more_dumps),
            ", ".join(one.vertex.labels),
            one.vertex.seen.confidence if one.is_known else "not yet",
        ]
        for one in found
    ]
    columns = ["records", "is", "value", "first", "last", "sources", "dumps", "labels", "sure"]
    show_table(table(columns, rows, fold="value"))


def _show_entities(found: Sequence[pb.ListEntitiesResponse.Entity]) -> None:
    from heimdall_client.cli import graph_export
    from heimdall_client.cli.plain import to_text

    rows = [
        [
            graph_export.kind_name(one.vertex),
            one.vertex.value,
            ", ".join(one.vertex.labels),
            one.vertex.seen.count,
            to_text(one.vertex.seen.first_time)[:19],
            to_text(one.vertex.seen.last_time)[:19],
            one.vertex.seen.confidence,
            one.into_vertex_id,
        ]
        for one in found
    ]
    columns = ["is", "value", "labels", "count", "first", "last", "sure", "part of"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    show_table(table(columns, rows, fold="value"))


def _names(names: Sequence[str], count: int, *, more: bool = False) -> str:
    left = count - len(names[:_TOLD])
    return ", ".join(names[:_TOLD]) + (f" and {left} more" if left > 0 else " …" if more else "")


def _cut(cut: pb.PivotResponse.Cut) -> str:
    from heimdall.graph.v1 import views_pb2 as pb

    kind = pb.PivotResponse.Cut
    return {
        kind.REASON_RECORD_COUNT: f"more records match; the newest {cut.shown_count:,} count: --records, --since",
        kind.REASON_TIME: f"reading took too long; {plural(cut.shown_count, 'record')} count: --timeout, --since",
        kind.REASON_STORE_LIMIT: f"the store stopped at a limit; {plural(cut.shown_count, 'record')} count: --since",
        kind.REASON_DISTINCT_COUNT: f"too many entities; the newest {cut.shown_count:,} records count: --to, --since",
        kind.REASON_ENTITY_COUNT: "there are more entities: --limit, --min",
    }.get(cut.reason, "something was left out")
