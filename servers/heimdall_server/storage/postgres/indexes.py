"""Looks at the indexes of the schemas that are ours: which nobody reads, which are missing, twice there, broken, or much larger than they need be.

It tells the statement that would mend each, and runs none. All of them are of the kind that leaves a table readable and writable (`CONCURRENTLY`). What
keeps a constraint is never proposed to be dropped.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from heimdall_server.domain.database_health import IndexFinding, IndexProblem, IndexReport, SlowStatement
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.storage.postgres.extensions import GRAPH
from heimdall_server.storage.postgres.migrate import packaged
from heimdall_server.storage.postgres.pool import SCHEMA, PostgresPool

SCHEMAS: Final = (SCHEMA, GRAPH)
_TIME_S: Final = 20.0
_LARGE_ROWS: Final = 10_000
"""Reading a smaller table as a whole costs no more than an index."""
_MANY_SCANS: Final = 20
_TINY_BYTES: Final = 64 * 1024
"""What a smaller index costs isn't worth a word."""
_BLOAT_BYTES_MIN: Final = 8 * 1024 * 1024
_BLOAT_RATIO: Final = 2.0
_SETTLED_S: Final = 86_400.0
"""What nobody has read for less than this isn't called useless: the statement that would drop it is left out."""
# Nobody ever reset them: then since our schema is there.
_SINCE: Final = """
SELECT extract(epoch FROM coalesce((SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()), min(applied_time))),
    extract(epoch FROM now()) FROM schema_migration
"""
# What an index is to others: its columns with their operator classes, collations and order, and what it leaves out.
_INDEXES: Final = """
SELECT n.nspname, t.relname, i.relname, am.amname, x.indisunique, x.indisvalid AND x.indisready,
    EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = x.indexrelid) OR x.indisreplident,
    ARRAY(SELECT concat_ws('/', pg_get_indexdef(x.indexrelid, k + 1, false), x.indclass[k], x.indcollation[k], x.indoption[k])
          FROM generate_series(0, x.indnkeyatts - 1) AS k),
    ARRAY(SELECT pg_get_indexdef(x.indexrelid, k + 1, false) FROM generate_series(x.indnkeyatts, x.indnatts - 1) AS k),
    coalesce(pg_get_expr(x.indpred, x.indrelid), ''),
    coalesce(s.idx_scan, 0), pg_relation_size(x.indexrelid), greatest(i.reltuples, 0)::bigint,
    coalesce((SELECT sum(p.avg_width)::bigint FROM unnest(x.indkey) AS a (number) JOIN pg_attribute b ON b.attrelid = x.indrelid AND b.attnum = a.number
        JOIN pg_stats p ON p.schemaname = n.nspname AND p.tablename = t.relname AND p.attname = b.attname), 0),
    x.indexprs IS NOT NULL
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_am am ON am.oid = i.relam LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = x.indexrelid
WHERE n.nspname = ANY(%s) AND t.relname NOT LIKE '\\_ag\\_label%%' ORDER BY 1, 2, 3
"""
_TABLES: Final = """
SELECT s.schemaname, s.relname, s.seq_scan, s.seq_tup_read, s.n_live_tup, pg_relation_size(s.relid),
    ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = s.relid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_stat_user_tables s WHERE s.schemaname = ANY(%s)
"""
_ORDER: Final = (
    IndexProblem.INVALID,
    IndexProblem.MISSING,
    IndexProblem.DUPLICATE,
    IndexProblem.REDUNDANT,
    IndexProblem.UNUSED,
    IndexProblem.BLOATED,
)
_MADE: Final = re.compile(r'CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?"?(\w+)"?')
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_COMPARED: Final = re.compile(
    r"\((?:\w+\.)?\"?(?P<column>[a-z_][a-z0-9_]*)\"?(?:\)?::[\w. ]+)? (?P<operator>=|<=|>=|<|>)"
)


class PostgresIndexes:
    """See the module. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def report(self, slow: Sequence[SlowStatement]) -> IndexReport:
        """Look at all of them.

        Args:
            slow: Slow statements: their plans tell by which columns tables are read as a whole.

        Raises:
            StoreError: PostgreSQL can't be reached, or is too slow.
        """
        schemas = list(SCHEMAS)
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            since_s, now_s = await (await connection.execute(_SINCE)).fetchone() or (0, 0)
            indexes = [_Index(*row) for row in await (await connection.execute(_INDEXES, (schemas,))).fetchall()]
            tables = await (await connection.execute(_TABLES, (schemas,))).fetchall()
        twice = list(_beside_one_another(indexes))
        dropped = {one.index for one in twice}
        findings = [
            *(
                found
                for one in indexes
                for found in _alone(one, is_told=one.name in dropped, is_settled=now_s - since_s >= _SETTLED_S)
            ),
            *twice,
            *_missing(tables, indexes, columns_read(slow)),
        ]
        findings.sort(key=lambda one: (_ORDER.index(one.problem), -one.size_bytes, one.table, one.index))
        return IndexReport(int(since_s * 10**9), len(indexes), findings)


class _Index:
    """A row of `_INDEXES`."""

    def __init__(
        self,
        schema: str,
        table: str,
        name: str,
        method: str,
        is_unique: bool,  # noqa: FBT001 - a row's columns
        is_valid: bool,  # noqa: FBT001
        is_constraint: bool,  # noqa: FBT001
        columns: Sequence[str],
        included: Sequence[str],
        predicate: str,
        scan_count: int,
        size_bytes: int,
        row_count: int,
        width: int,
        has_expressions: bool,  # noqa: FBT001
    ) -> None:
        self.table, self.name = f"{schema}.{_quoted(table)}", f"{schema}.{_quoted(name)}"
        self.plain_name = name
        self.method, self.is_unique, self.is_valid, self.is_constraint = method, is_unique, is_valid, is_constraint
        self.columns, self.included, self.predicate = tuple(columns), tuple(included), predicate
        self.scan_count, self.size_bytes, self.row_count = scan_count, size_bytes, row_count
        self.width, self.has_expressions = width, has_expressions

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns, without the rest of what tells them apart."""
        return tuple(column.split("/")[0].strip('"') for column in self.columns)

    @property
    def is_bound(self) -> bool:
        """Whether it keeps a rule, so that it must stay."""
        return self.is_unique or self.is_constraint

    def found(self, problem: IndexProblem, detail: str, statement: str) -> IndexFinding:
        return IndexFinding(problem, self.table, self.name, detail, statement, self.size_bytes, self.scan_count)

    @property
    def drop(self) -> str:
        return f"DROP INDEX CONCURRENTLY {self.name};"

    @property
    def rebuild(self) -> str:
        return f"REINDEX INDEX CONCURRENTLY {self.name};"


def columns_read(slow: Sequence[SlowStatement]) -> Mapping[str, Mapping[str, int]]:
    """By which columns slow statements read tables as a whole.

    Returns:
        For each table, by its name alone: columns and how often, those that are compared by equality first.
    """
    found: dict[str, dict[str, int]] = {}
    for one in slow:
        for node in _nodes(json.loads(one.plan) if one.plan else []):
            if "Seq Scan" not in str(node.get("Node Type", "")):
                continue
            columns = found.setdefault(str(node.get("Relation Name", "")), {})
            for compared in _COMPARED.finditer(str(node.get("Filter", ""))):
                weight = 1_000 if compared["operator"] == "=" else 1
                columns[compared["column"]] = columns.get(compared["column"], 0) + weight
    return found


@functools.cache
def _made() -> frozenset[str]:
    """Names of indexes that migrations make."""
    labels = [*VERTEX_KINDS, *EDGE_KINDS]
    return frozenset(
        {name for one in packaged() for name in _MADE.findall(one.sql)}
        | {f"{label}_{end}" for label in labels for end in ("pkey", "uid", "ends", "start", "end")}
    )


def _nodes(plan: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - JSON
    if isinstance(plan, list):
        for one in plan:
            yield from _nodes(one)
    elif isinstance(plan, Mapping):
        if "Node Type" in plan:
            yield plan
        for key in ("Plan", "Plans"):
            yield from _nodes(plan.get(key))


def _alone(index: _Index, *, is_told: bool, is_settled: bool) -> Iterator[IndexFinding]:
    if not index.is_valid:
        is_leftover = re.search(r"_cc(?:new|old)\d*\"?$", index.name) is not None and not index.is_constraint
        yield index.found(
            IndexProblem.INVALID,
            "making it failed: it is kept up to date and never read"
            + ("; it was left by a REINDEX CONCURRENTLY" if is_leftover else ""),
            index.drop if is_leftover else index.rebuild,
        )
        return
    if is_told:
        return
    if not index.scan_count and not index.is_bound and index.size_bytes > _TINY_BYTES:
        ours = "; the program made it, and what it is for gets slow without it" if index.plain_name in _made() else ""
        early = "" if is_settled else "; it is too early to tell"
        detail = f"nobody has read it since statistics run{early}{ours}"
        yield index.found(IndexProblem.UNUSED, detail, index.drop if is_settled else "")
    needed = _needed_bytes(index)
    if needed and index.size_bytes > _BLOAT_BYTES_MIN and index.size_bytes > _BLOAT_RATIO * needed:
        share = 100 - round(100 * needed / index.size_bytes)
        yield index.found(
            IndexProblem.BLOATED,
            f"about {share} % of it isn't needed for its {index.row_count:,} entries",
            index.rebuild,
        )


def _needed_bytes(index: _Index) -> int:
    """What a B-tree would take if it were made anew, about; 0: not known.

    8 octets head, 4 of the line pointer, entries in multiples of 8, pages of 8,152 octets that are filled to nine tenths. Equal entries share room since
    PostgreSQL 13, so one of few values needs less than this, and its bloat goes unseen.
    """
    if index.method != "btree" or index.has_expressions or not index.row_count or not index.width:
        return 0
    entry = 8 + 4 + -(-index.width // 8) * 8
    return int(index.row_count * entry / 0.9 / 8152 * 8192)


def _beside_one_another(indexes: Sequence[_Index]) -> Iterator[IndexFinding]:
    by_table: dict[tuple[str, str, str], list[_Index]] = {}
    for one in indexes:
        if one.is_valid:
            by_table.setdefault((one.table, one.method, one.predicate), []).append(one)
    for group in by_table.values():
        dropped: set[str] = set()
        for one in sorted(group, key=lambda index: (len(index.columns), index.name)):
            others = [
                other
                for other in group
                if other is not one
                and other.name not in dropped
                and set(one.included) <= {*other.included, *other.names}
                and other.columns[: len(one.columns)] == one.columns
            ]
            same = next((other for other in others if other.columns == one.columns), None)
            if one.is_bound or not others or (same is None and one.method != "btree"):
                continue
            dropped.add(one.name)
            if same is not None:
                yield one.found(IndexProblem.DUPLICATE, f"{same.name} is the same", one.drop)
            else:
                yield one.found(IndexProblem.REDUNDANT, f"{others[0].name} begins with its columns", one.drop)


def _missing(
    tables: Sequence[Sequence[Any]], indexes: Sequence[_Index], read: Mapping[str, Mapping[str, int]]
) -> Iterator[IndexFinding]:
    first = {(one.table, one.names[0]) for one in indexes if one.is_valid and one.names}
    for schema, name, scan_count, rows_read, row_count, size_bytes, columns in tables:
        a_scan = int(rows_read or 0) // max(1, int(scan_count or 0))
        if row_count < _LARGE_ROWS or (scan_count or 0) < _MANY_SCANS or a_scan < _LARGE_ROWS:
            continue
        table = f"{schema}.{_quoted(name)}"
        wanted = _fitting(read.get(name, {}), columns)
        if wanted and (table, wanted[0]) in first:
            continue
        detail = f"read as a whole {scan_count:,} times, {a_scan:,} rows each"
        if not wanted:
            detail += "; no slow statement tells by which columns"
        statement = f"CREATE INDEX CONCURRENTLY ON {table} ({', '.join(map(_quoted, wanted))});" if wanted else ""
        yield IndexFinding(IndexProblem.MISSING, table, "", detail, statement, size_bytes, scan_count)


def _fitting(read: Mapping[str, int], columns: Collection[str]) -> list[str]:
    """Columns for an index: those that are compared by equality, at most two, and one that is compared otherwise behind them."""
    known = sorted((column for column in read if column in columns), key=lambda column: -read[column])
    equal = [column for column in known if read[column] >= 1_000][:2]
    return equal + [column for column in known if read[column] < 1_000][:1]


def _quoted(name: str) -> str:
    return name if _NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'
