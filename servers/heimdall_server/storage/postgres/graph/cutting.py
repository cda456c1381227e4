"""Takes what a provenance says out of facts, within a transaction: rows, their other provenances, and what nobody tells any more.

Whoever cuts fills two temporary tables: `graph_cut` with the pairs of fact and provenance that go, and `graph_left` with the sums that take their place
where something of them stays. The rest follows: a fact with other provenances keeps these, one without is deleted.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from heimdall_server.domain.graph import EdgeKind, VertexKind
from heimdall_server.storage.postgres.graph.facts import NS_PER_DAY
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import SUM_COLUMNS, Connection

_SUMS: Final = "first_ns bigint, last_ns bigint, count bigint, first_place bigint, last_place bigint"
_TABLES: Final = (
    "graph_cut (fact ag_catalog.graphid, provenance integer)",
    f"graph_left (fact ag_catalog.graphid, provenance integer, {_SUMS}, hours integer[])",
    "graph_several (fact ag_catalog.graphid)",
    f"graph_summed (fact ag_catalog.graphid, provenance integer, {_SUMS}, confidence smallint, tlp_min smallint, tlp_max smallint, hours integer[])",
    "graph_gone (uid uuid)",
)
_FIND_SEVERAL: Final = (
    "INSERT INTO graph_several SELECT DISTINCT c.fact FROM graph_cut c "
    "JOIN graph_fact_provenance p ON p.fact = c.fact AND p.provenance = c.provenance"
)
_CUT_PAIRS: Final = (
    "DELETE FROM graph_fact_provenance p USING graph_cut c WHERE p.fact = c.fact AND p.provenance = c.provenance"
)
_PUT_PAIRS: Final = (
    f"INSERT INTO graph_fact_provenance (fact, provenance, {SUM_COLUMNS}, hours) "
    f"SELECT fact, provenance, {SUM_COLUMNS}, hours FROM graph_left WHERE fact IN (SELECT fact FROM graph_several)"
)
_HOURS: Final = (
    "(SELECT array_agg(x.hour ORDER BY x.n) FROM (SELECT u.n, sum(u.hour)::integer AS hour FROM graph_fact_provenance q "
    "CROSS JOIN LATERAL unnest(q.hours) WITH ORDINALITY AS u (hour, n) WHERE q.fact = p.fact GROUP BY u.n) x)"
)
_SUM: Final = f"""
INSERT INTO graph_summed SELECT p.fact, CASE WHEN count(*) = 1 THEN min(p.provenance) ELSE 0 END, min(p.first_ns), max(p.last_ns),
    sum(p.count), coalesce(min(nullif(p.first_place, 0)), 0), max(p.last_place), max(v.confidence), min(v.tlp), max(v.tlp), {_HOURS}
FROM graph_several s JOIN graph_fact_provenance p ON p.fact = s.fact JOIN graph_provenance v ON v.provenance_id = p.provenance
GROUP BY p.fact
"""
_CLEAR_ONE: Final = (
    "DELETE FROM graph_fact_provenance p USING graph_summed s WHERE s.provenance <> 0 AND p.fact = s.fact"
)
_ONLY_ONE_CUT: Final = (
    "USING graph_cut c WHERE t.id = c.fact AND t.provenance = c.provenance "
    "AND NOT EXISTS (SELECT FROM graph_left l WHERE l.fact = c.fact AND l.provenance = c.provenance)"
)
_ALL_CUT: Final = (
    "USING graph_several c WHERE t.id = c.fact AND NOT EXISTS (SELECT FROM graph_summed s WHERE s.fact = c.fact)"
)
_ANALYZED: Final = ("graph_cut", "graph_left", "graph_several", "graph_summed")
_COLUMNS: Final = SUM_COLUMNS.split(", ")


async def prepare_cut(connection: Connection) -> None:
    """Make the tables, empty ones, until the transaction ends; and let graph ids be compared by AGE's operators."""
    await connection.execute("SET LOCAL search_path = heimdall, ag_catalog")
    for definition in _TABLES:
        await connection.execute(f"CREATE TEMPORARY TABLE {definition} ON COMMIT DROP".encode())


async def settle_cut(connection: Connection, kinds: Iterable[VertexKind | EdgeKind]) -> int:
    """Do it, and empty the tables, but for `graph_gone`, which has the ids of vertices that were deleted.

    Args:
        connection: In a transaction of the graph's writers, with the tables filled.
        kinds: Of the facts.

    Returns:
        Facts that were deleted.
    """
    await connection.execute("ANALYZE graph_cut, graph_left")
    await connection.execute(_FIND_SEVERAL.encode())
    await connection.execute("ANALYZE graph_several")
    await connection.execute(_CUT_PAIRS.encode())
    await connection.execute(_PUT_PAIRS.encode())
    await connection.execute(_SUM.encode())
    await connection.execute("ANALYZE graph_summed")
    deleted = 0
    for kind in kinds:
        deleted += await _settle_label(connection, kind)
    await connection.execute(_CLEAR_ONE.encode())
    await connection.execute(f"TRUNCATE {', '.join(_ANALYZED)}".encode())
    return deleted


async def _settle_label(connection: Connection, kind: VertexKind | EdgeKind) -> int:
    """The rows of one label: those with one provenance first, then those that had several."""
    name = table(kind)
    further, ranked = _further(kind)
    shared = [*_COLUMNS, *further]
    left = ", ".join(f"{column} = l.{column}" for column in shared)
    if ranked:
        left += f", {_rank('t.confidence', 'l')}"
    await connection.execute(
        f"UPDATE {name} t SET {left} FROM graph_left l WHERE t.id = l.fact AND t.provenance = l.provenance".encode()
    )
    summed = ", ".join(
        f"{column} = s.{column}" for column in (*shared, "provenance", "confidence", "tlp_min", "tlp_max")
    )
    if ranked:
        summed += f", {_rank('s.confidence', 's')}"
    await connection.execute(f"UPDATE {name} t SET {summed} FROM graph_summed s WHERE t.id = s.fact".encode())
    deleted = 0
    for condition in (_ONLY_ONE_CUT, _ALL_CUT):
        gone = f"DELETE FROM {name} t {condition}"
        if isinstance(kind, VertexKind):
            gone = f"WITH gone AS ({gone} RETURNING t.uid) INSERT INTO graph_gone SELECT DISTINCT uid FROM gone"
        deleted += (await connection.execute(gone.encode())).rowcount
    return deleted


def _further(kind: VertexKind | EdgeKind) -> tuple[list[str], bool]:
    """Columns besides the sums that a label has of its own; whether its rows have a rank."""
    if isinstance(kind, VertexKind):
        return (["hours"] if kind is VertexKind.SIGHTING else []), False
    return [], True


def _rank(confidence: str, sums: str) -> str:
    """See `Facts.rank`."""
    return f"rank = (({confidence})::integer << 20) | least(greatest({sums}.last_ns / {NS_PER_DAY}, 0), {2**20 - 1})::integer"
