"""`heimdall context`: the records around one, of the same source, as they came in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from heimdall_client.cli.console import err, note, out, write_line
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.log_view import LogView, record_id
from heimdall_client.cli.options import Link, Output, TextOutput, connected, examples
from heimdall_client.cli.query import Full

if TYPE_CHECKING:
    from heimdall.types.v1 import expression_pb2
    from heimdall_client.encodings import Encoding, Order
    from heimdall_client.sync_client import Client

WINDOW_NS: Final = 24 * 3600 * 1_000_000_000
"""Neighbours are looked for this far around the record's time first: the store prunes by time."""

_RECORD: Final = re.compile(r"(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record stands in the journal."""

    shard: int
    position: int
    row: int


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    more = "The id of a record stands at the end of its line in `heimdall query`."
    lines = ("heimdall context 0-8-5986 -n 20", "heimdall context 0-8-5986 --before 50 --after 5 --full")
    app.command(epilog=examples(*lines, more=more))(context)


@connected
def context(
    link: Link,
    *,
    record: Annotated[str, typer.Argument(metavar="RECORD", help="shard-position-row, as `heimdall query` shows it.")],
    count: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="So many on each side.")] = 10,
    before: Annotated[
        int | None, typer.Option("--before", "-B", min=0, max=100_000, help="So many before.", show_default=False)
    ] = None,
    after: Annotated[
        int | None, typer.Option("--after", "-A", min=0, max=100_000, help="So many after.", show_default=False)
    ] = None,
    full: Full = False,
    output: Output = TextOutput.TABLE,
) -> None:
    """Show the lines around a record.

    Those of the same source, in the order in which they came in.
    """
    place = _parse(record)
    with link.client() as client:
        find = _Finder(client, place, "json" if output is TextOutput.JSON else "arrow")
        hits = find.search(_tree(place), "journal", 1)
        if not hits:
            err().print(f"error: there is no record {record}", style="red")
            err().print("  it may have outlived its dataset's retention, or belong to another server")
            raise typer.Exit(ExitCode.FAILED)
        hit = hits[0]
        earlier = find.around(hit, "journal_reversed", count if before is None else before)
        later = find.around(hit, "journal", count if after is None else after)
    rows = [*reversed(earlier), hit, *later]
    if output is TextOutput.JSON:
        _write_json(rows, record_id(hit))
        return
    view = LogView(full=full, width=max(out().width - 2, 20) if out().is_terminal else 0)
    for row in rows:
        write_line(f"{'>' if row is hit else ' '} {view.line(row)}")
    note(f"source {hit['source']}")


def _parse(text: str) -> _Place:
    match = _RECORD.fullmatch(text.strip())
    if match is None or any(int(part) >= 2**63 for part in match.groups()):
        msg = f"{text!r} isn't a record's id: it is shard-position-row, as 0-8-5986"
        raise typer.BadParameter(msg, param_hint="RECORD")
    return _Place(*map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class _Finder:
    client: Client
    place: _Place
    encoding: Encoding

    def around(self, hit: dict[str, Any], order: Order, count: int) -> list[dict[str, Any]]:
        """Up to so many neighbours on one side, nearest first."""
        from heimdall_client.translate import to_time_ns

        if not count:
            return []
        tree = _tree(self.place, source=hit["source"], dataset=hit["dataset"], later=order == "journal")
        time_ns = to_time_ns(hit["time"])
        near = self.search(tree, order, count, since=max(time_ns - WINDOW_NS, 0), until=time_ns + WINDOW_NS)
        return near if len(near) >= count else self.search(tree, order, count)

    def search(
        self,
        tree: expression_pb2.Query,
        order: Order,
        count: int,
        *,
        since: int | None = None,
        until: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of an answer."""
        return list(
            self.client.search(tree, order=order, limit=count, since=since, until=until, encoding=self.encoding)
        )


def _tree(place: _Place, *, source: str = "", dataset: str = "", later: bool | None = None) -> expression_pb2.Query:
    """As a tree, since a source's id may hold anything: nothing to quote.

    Args:
        place: Of the record.
        source: Of the neighbours.
        dataset: Of the neighbours.
        later: Those after it, those before it; None: the record itself.
    """
    from heimdall.types.v1 import expression_pb2

    compare = expression_pb2.Expression.Compare
    equal = compare.OPERATOR_EQ

    def field(name: str, operator: expression_pb2.Expression.Compare.Operator.ValueType, value: int | str) -> Any:  # noqa: ANN401
        literal = expression_pb2.Literal(text=value) if isinstance(value, str) else expression_pb2.Literal(number=value)
        reference = expression_pb2.FieldRef(scope=expression_pb2.FieldRef.SCOPE_CORE, name=name)
        return expression_pb2.Expression(compare=compare(field=reference, operator=operator, value=literal))

    def both(*parts: Any) -> Any:  # noqa: ANN401
        return expression_pb2.Expression(conjunction=expression_pb2.Expression.Operands(operands=parts))

    same_frame = field("position", equal, place.position)
    if later is None:
        where = both(same_frame, field("row", equal, place.row))
    else:
        beyond = compare.OPERATOR_GT if later else compare.OPERATOR_LT
        other_frame = field("position", beyond, place.position)
        same = both(same_frame, field("row", beyond, place.row))
        either = expression_pb2.Expression.Operands(operands=[other_frame, same])
        where = both(
            field("source", equal, source),
            field("dataset", equal, dataset),
            expression_pb2.Expression(disjunction=either),
        )
    return expression_pb2.Query(filter=both(field("shard", equal, place.shard), where))


def _write_json(rows: list[dict[str, Any]], hit: str) -> None:
    from heimdall_client.cli.plain import print_json

    for row in rows:
        print_json({"record": record_id(row), "hit": record_id(row) == hit, **row})
