"""`heimdall graph match`, and the profile that `heimdall graph show` tells of a dump."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from heimdall_client.cli.console import note, out, plural, warn
from heimdall_client.cli.graph import Ceiling, Listed, ListOutput, check_vertex, parse_tlp
from heimdall_client.cli.options import Link, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.graph.v1 import dumps_pb2 as pb

_SAMPLES: Final = 2
"""In a line of a table."""
_COLUMNS: Final = (
    "same",
    "field_a",
    "field_b",
    "shared",
    "distinct_a",
    "distinct_b",
    "containment_a",
    "containment_b",
    "similarity",
    "similarity_error",
)


class Method(StrEnum):
    """How values are compared."""

    BY_SIZE = "by_size"
    EXACT = "exact"
    ESTIMATED = "estimated"


def check_dump(name: str) -> str:
    """A dump by its name alone, too."""
    from heimdall_client.graph_dump_calls import to_dump

    return check_vertex(str(to_dump(name)))


Dump = Annotated[str, typer.Argument(metavar="DUMP", help="Its name.", show_default=False, callback=check_dump)]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    more = (
        "Values are the same if they are the same entity, whatever the fields are called, or else the same text. In A: the share of A's "
        "values that B has, too; fields marked = are most likely the same one. Up to 200,000 values are compared one by one, more by sketches, "
        "which err as is told."
    )
    epilog = examples(
        "heimdall graph match forum-2026-03 shop-2025", "heimdall graph match forum shop --min 0.2 -o csv", more=more
    )
    app.command(name="match", epilog=epilog)(connected(match))


def match(
    link: Link,
    dump_a: Dump,
    dump_b: Dump,
    *,
    minimum: Annotated[
        float,
        typer.Option("--min", min=0, max=1, help="Only fields that have this share of their values in the other."),
    ] = 0.01,
    method: Annotated[Method, typer.Option("--method", help="How values are compared.")] = Method.BY_SIZE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="Pairs of fields at most.")] = 100,
    tlp: Ceiling = "",
    output: Listed = ListOutput.TABLE,
) -> None:
    """Compare two dumps: which values they share, and which field of one is which field of the other."""
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        found = client.match_dumps(
            dump_a, dump_b, minimum=minimum, method=method.value, limit=limit, tlp=parse_tlp(tlp)
        )
    if output is ListOutput.JSON:
        print_json(to_plain(found))
    elif output is ListOutput.CSV:
        graph_rows.write_csv(_COLUMNS, [_row(one) for one in found.matches])
    else:
        _show(found)
    if found.truncated:
        warn("there are more pairs of fields: --min, --limit")


def show_profile(profile: pb.DumpProfile) -> None:
    """What a dump's fields hold, a line each; nothing where there is no profile."""
    if not profile.fields:
        return
    rows = [
        [
            one.name,
            one.type,
            one.value_count,
            one.null_count,
            f"{'' if not one.distinct_error else '~'}{one.distinct_count:,}",
            _range(one),
            ", ".join(one.samples[:_SAMPLES]),
        ]
        for one in profile.fields
    ]
    show_table(
        table(["field", "mostly", "values", "nulls", "distinct", "range", "for example"], rows, fold="for example")
    )
    left = profile.field_count - len(profile.fields)
    note(
        f"{plural(profile.row_count, 'record')}, {plural(profile.field_count, 'field')}"
        + (f", {left:,} of them not shown" if left > 0 else "")
    )
    out().print()


def _show(found: pb.MatchDumpsResponse) -> None:
    from heimdall.graph.v1 import dumps_pb2 as pb

    rows = [
        [
            "=" if one.is_counterpart else "",
            one.field_a,
            one.field_b,
            one.shared_count,
            f"{one.containment_a:.1%}",
            f"{one.containment_b:.1%}",
            f"{one.similarity:.1%}" + (f" ±{one.similarity_error:.1%}" if one.similarity_error else ""),
        ]
        for one in found.matches
    ]
    if rows:
        show_table(table(["", "field of A", "field of B", "shared", "of A", "of B", "similar"], rows))
    exact = found.method == pb.MatchDumpsRequest.METHOD_EXACT
    note(
        f"{plural(len(rows), 'pair')} of fields; A has {plural(found.row_count_a, 'record')}, B {plural(found.row_count_b, 'record')}; "
        + ("compared value by value" if exact else "estimated from sketches: --method exact compares value by value")
    )


def _row(one: pb.MatchDumpsResponse.FieldMatch) -> list[Any]:
    return [
        one.is_counterpart,
        one.field_a,
        one.field_b,
        one.shared_count,
        one.distinct_count_a,
        one.distinct_count_b,
        round(one.containment_a, 6),
        round(one.containment_b, 6),
        round(one.similarity, 6),
        round(one.similarity_error, 6),
    ]


def _range(one: pb.FieldProfile) -> str:
    if one.HasField("number_min"):
        return f"{one.number_min:g} to {one.number_max:g}"
    if one.characters_min == one.characters_max:
        return plural(one.characters_max, "character")
    return f"{one.characters_min:,} to {one.characters_max:,} characters"
