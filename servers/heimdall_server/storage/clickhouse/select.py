"""A `StoreQuery` as one statement: what is read, between which times and positions, in which order.

What the query itself says is compiled in `stages`; here is what pins its answer. Paths differ only in the
FROM: the records, the records by whole minutes, or a rollup with the edges of part minutes from records.
"""

# ruff: noqa: S608 - statements are made of names of ours; what a person says travels as parameters

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.datasets import Dataset
from heimdall_server.domain.expression.needs import MINUTE_NS, Needs, covers_whole_minutes, query_needs
from heimdall_server.domain.expression.tree import Expression, TimeRange
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Limits, Order, Path, RowKey, StoreQuery
from heimdall_server.storage.clickhouse.compile import Parameters, compile_filter
from heimdall_server.storage.clickhouse.schema import ROLLUPS, Rollup, Tables, hot_column, identifier
from heimdall_server.storage.clickhouse.stages import Output, compile_query

BLOCK_ROWS: Final = 16_384
"""Rows of a batch at most."""
_BACKGROUND_NICE: Final = 10
"""Threads of scans take what others leave: a panel waits for milliseconds, and a scan for as long as it waits anyway."""
_SECOND_NS: Final = 1_000_000_000
_DATE_TIME_MAX: Final = 2**32 - 1
KEY_COLUMNS: Final = ("time", "shard", "position", "row")
_ORDERS: Final = {
    Order.NEWEST_FIRST: "time DESC, shard DESC, position DESC, row DESC",
    Order.OLDEST_FIRST: "time ASC, shard ASC, position ASC, row ASC",
    Order.JOURNAL: "shard ASC, position ASC, row ASC",
    Order.JOURNAL_REVERSED: "shard DESC, position DESC, row DESC",
}
_BY_POSITION: Final = frozenset({Order.JOURNAL, Order.JOURNAL_REVERSED})


@dataclass(frozen=True, slots=True)
class Statement:
    """What to send, and what it means."""

    sql: str
    """Without settings."""
    parameters: Mapping[str, str | int | float]
    outputs: tuple[Output, ...]
    aggregated: bool
    row_limit: int
    """More rows than this don't come."""
    path: Path
    reason: str
    through: Positions
    unpositioned: bool = False
    """It reads whatever is there: right only while that is what `through` names."""

    @property
    def is_snapshot(self) -> bool:
        """Whether its answer is right whatever changes while it runs."""
        return self.path is not Path.ROLLUP and not self.unpositioned


def settings_clause(limits: Limits, tag: str) -> str:
    """The SETTINGS of a query.

    Args:
        limits: What it may use.
        tag: Names it to whoever wants to stop it; made by us.
    """
    values = {
        "log_comment": f"'{tag}'",
        "max_execution_time": f"{limits.time_s:.3f}",
        "max_memory_usage": limits.memory_bytes,
        "max_rows_to_read": limits.scan_rows,
        "max_threads": limits.threads,
        # Blocks of a stream are what a client waits for and what is in memory of us.
        "max_block_size": BLOCK_ROWS,
        # Only where the process may change it back. The engine's own `priority` lets a scan starve: between its
        # blocks it waits for as long as any other query runs.
        "os_threads_nice_value_query": _BACKGROUND_NICE if limits.background else 0,
    }
    return "SETTINGS " + ", ".join(f"{name} = {value}" for name, value in values.items())


def build(
    query: StoreQuery,
    tables: Tables,
    datasets: Sequence[Dataset],
    *,
    rollup_through: Positions | None,
    whole_through: Positions | None = None,
    to_explain: bool = False,
) -> Statement:
    """Build the statement of a query.

    Args:
        query: What is asked, with the planner's hint.
        tables: Names.
        datasets: What to read, at least one.
        rollup_through: The positions that the rollups hold everything through, and nothing behind; None: they
            can't be used now.
        whole_through: The positions that the records hold everything through, and nothing behind; None: unknown.
        to_explain: Leave out what the engine would have to run first in order to plan the rest.
    """
    needs = query_needs(query.query)
    parameters = Parameters()
    through = query.through
    rollup = _rollup(query, needs, rollup_through)
    where: list[str] = []
    path, reason = _record_path(query, needs, word_index=all(dataset.text_index for dataset in datasets))
    unpositioned = path is Path.TEXT_INDEX and needs.aggregates and _is_everything(query, whole_through)
    names = [dataset.name for dataset in datasets]
    if rollup is not None and rollup_through is not None:
        through = rollup_through
        edges = Bounds.of(query.time_range, parameters)
        pieces = _position_conditions(query, through, parameters)
        source = _rollup_source(tables, names, rollup, edges, pieces)
        path, reason = Path.ROLLUP, f"counts by {', '.join(rollup.dimensions)} for each minute answer it"
    elif path is Path.MINUTE_COLUMN:
        edges = Bounds.of(query.time_range, parameters)
        pieces = _position_conditions(query, through, parameters)
        source = _minute_source(tables.over(names), datasets, edges, pieces)
    else:
        source = tables.over(names)
        where = time_conditions(query.time_range, parameters)
        if not unpositioned:
            where += _position_conditions(query, through, parameters)
        if query.after is not None:
            where += _after_conditions(query.after, query.order, parameters)
    select = compile_query(
        query.query,
        parameters,
        source=source,
        where=where,
        order_by=_order_by(query.order, through),
        keys=KEY_COLUMNS,
        limit=query.limits.result_rows + 1,
        hot=hot_columns(datasets),
        weight="weight" if path is Path.ROLLUP else "",
        times_first=path is Path.NEWEST_FIRST and not to_explain,
    )
    return Statement(
        select.sql,
        parameters.values,
        select.outputs,
        select.aggregated,
        select.row_limit or query.limits.result_rows + 1,
        path,
        reason,
        through,
        unpositioned,
    )


def _is_everything(query: StoreQuery, whole_through: Positions | None) -> bool:
    """True if no record that is there lies outside a query's positions.

    Then their column needn't be read, and the text index alone can count: a twelfth of the cost.
    """
    if whole_through is None or query.after_positions or query.after is not None:
        return False
    return all(query.through.get(shard, 0) >= last for shard, last in whole_through.items())


def hot_columns(datasets: Sequence[Dataset]) -> dict[tuple[str, str], str]:
    """Columns of hot attribute keys that every one of some datasets has."""
    shared = set(datasets[0].hot_keys).intersection(*(dataset.hot_keys for dataset in datasets))
    return {("attributes", key): identifier(hot_column(key)) for key in sorted(shared)}


def _record_path(query: StoreQuery, needs: Needs, *, word_index: bool) -> tuple[Path, str]:
    """The path over records."""
    if needs.trace_id:
        return Path.TRACE_INDEX, "a bloom filter names the granules that may hold the trace"
    if needs.words and word_index:
        return Path.TEXT_INDEX, "the text index names the granules that hold the words"
    path, reason = _scan_path(query, needs)
    return path, f"{reason}; without a text index every body on the way is read" if needs.words else reason


def _scan_path(query: StoreQuery, needs: Needs) -> tuple[Path, str]:
    if not needs.aggregates:
        if query.order in _BY_POSITION:
            return Path.SCAN, "records by position: the parts that hold the positions are read and sorted"
        return Path.NEWEST_FIRST, "records are stored in time order: reading stops when there are enough"
    if query.path is not Path.SCAN and covers_whole_minutes(query.time_range) and query.after is None:
        return Path.MINUTE_COLUMN, "whole minutes are told by the minute column, part minutes by the time"
    return Path.SCAN, "records of the time range are read, up to the row limit"


def _rollup(query: StoreQuery, needs: Needs, rollup_through: Positions | None) -> Rollup | None:
    if rollup_through is None or query.path not in (None, Path.ROLLUP):
        return None
    if needs.dimensions is None or needs.bucket_ns % MINUTE_NS or query.after_positions or query.after is not None:
        return None
    return next((rollup for rollup in ROLLUPS if needs.dimensions <= set(rollup.dimensions)), None)


def deletion(
    dataset: Dataset, filter_: Expression, time_range: TimeRange, through: Positions
) -> tuple[str, dict[str, str | int | float]]:
    """The condition of the records that a deletion means, and its parameters."""
    parameters = Parameters()
    conditions = [
        *time_conditions(time_range, parameters),
        " OR ".join(_up_to(shard, last, parameters) for shard, last in sorted(through.items())),
        compile_filter(filter_, parameters, hot=hot_columns([dataset])),
    ]
    return " AND ".join(f"({each})" for each in conditions), parameters.values


@dataclass(frozen=True, slots=True)
class Bounds:
    """A time range as SQL conditions: its whole minutes, and what is left at its edges."""

    whole: str
    """On `minute`; empty: every minute."""
    hint: str
    """On `time`, of the whole minutes, for the index only; empty: none."""
    edges: str
    """On `time`; empty: there are none."""

    @classmethod
    def of(cls, time_range: TimeRange, parameters: Parameters) -> Bounds:
        """Take a range apart."""
        start, end = time_range.start_ns_inclusive, time_range.end_ns_exclusive
        first = None if start is None else -(-start // MINUTE_NS) * MINUTE_NS
        last = None if end is None else end // MINUTE_NS * MINUTE_NS
        if first is not None and last is not None and first >= last:
            # No whole minute: everything is an edge.
            return cls("false", "", " AND ".join(time_conditions(time_range, parameters)))
        whole = []
        if first is not None:
            whole.append(f"minute >= {_minute(first, parameters)}")
        if last is not None:
            whole.append(f"minute < {_minute(last, parameters)}")
        edges = [TimeRange(low, high) for low, high in ((start, first), (last, end)) if low is not None and low != high]
        return cls(
            " AND ".join(whole),
            " AND ".join(time_conditions(TimeRange(first, last), parameters)),
            " OR ".join(
                f"({' AND '.join(time_conditions(edge, parameters))})" for edge in edges if edge.end_ns_exclusive
            ),
        )


def time_conditions(time_range: TimeRange, parameters: Parameters) -> list[str]:
    """A time range as conditions on `time`."""
    conditions = []
    for bound, sign in ((time_range.start_ns_inclusive, ">="), (time_range.end_ns_exclusive, "<")):
        if bound is not None:
            conditions.append(f"time {sign} {_instant(bound, parameters)}")
    return conditions


def _instant(time_ns: int, parameters: Parameters) -> str:
    return f"fromUnixTimestamp64Nano({parameters.add(time_ns, 'Int64')}, 'UTC')"


def _order_by(order: Order, through: Positions) -> str:
    if order in _BY_POSITION and len(through) == 1:
        # Where there is one shard, the index of positions finds the first rows of the order.
        return _ORDERS[order].split(", ", 1)[1]
    return _ORDERS[order]


def _minute(time_ns: int, parameters: Parameters) -> str:
    return f"toDateTime({parameters.add(min(max(time_ns // _SECOND_NS, 0), _DATE_TIME_MAX), 'UInt32')}, 'UTC')"


def _position_conditions(query: StoreQuery, through: Positions, parameters: Parameters) -> list[str]:
    conditions = []
    if through:
        conditions.append(" OR ".join(_up_to(shard, last, parameters) for shard, last in sorted(through.items())))
    for shard, last in sorted(query.after_positions.items()):
        # The bare bound on `position` is what its index reads, where there is one shard.
        bound = f"position > {parameters.add(last, 'UInt64')}"
        conditions.append(bound if len(query.after_positions) == 1 == len(through) else f"shard != {shard} OR {bound}")
    return conditions


def _up_to(shard: int, last: int, parameters: Parameters) -> str:
    return f"shard = {parameters.add(shard, 'UInt16')} AND position <= {parameters.add(last, 'UInt64')}"


def _after_conditions(after: RowKey, order: Order, parameters: Parameters) -> list[str]:
    time = _instant(after.time_ns, parameters)
    shard = parameters.add(after.shard, "UInt16")
    position = parameters.add(after.position, "UInt64")
    row = parameters.add(after.row, "UInt32")
    if order in _BY_POSITION:
        sign = ">" if order is Order.JOURNAL else "<"
        return [f"(shard, position, row) {sign} ({shard}, {position}, {row})"]
    sign = "<" if order is Order.NEWEST_FIRST else ">"
    # The bare bound on `time` is what the primary key reads.
    return [f"time {sign}= {time}", f"(time, shard, position, row) {sign} ({time}, {shard}, {position}, {row})"]


def _where(conditions: Sequence[str]) -> str:
    wanted = [f"({condition})" for condition in conditions if condition]
    return f" WHERE {' AND '.join(wanted)}" if wanted else ""


def _hint(condition: str) -> str:
    return f"indexHint({condition})" if condition else ""


def _rollup_source(
    tables: Tables, names: Sequence[str], rollup: Rollup, bounds: Bounds, positions: Sequence[str]
) -> str:
    columns = ", ".join(("minute", *rollup.dimensions))
    counts = f"SELECT {columns}, count AS weight FROM {tables.over(names, rollup)}{_where([bounds.whole])}"
    if not bounds.edges:
        return f"({counts})"
    edges = _where([bounds.edges, *positions])
    return f"({counts} UNION ALL SELECT {columns}, toUInt64(1) AS weight FROM {tables.over(names)}{edges})"


def _minute_source(table: str, datasets: Sequence[Dataset], bounds: Bounds, positions: Sequence[str]) -> str:
    columns = ", ".join([*POSITIONED_SCHEMA.names, "minute", *hot_columns(datasets).values()])
    whole = f"SELECT {columns} FROM {table}{_where([bounds.whole, _hint(bounds.hint), *positions])}"
    if not bounds.edges:
        return f"({whole})"
    return f"({whole} UNION ALL SELECT {columns} FROM {table}{_where([bounds.edges, *positions])})"
