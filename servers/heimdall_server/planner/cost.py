"""What a query will cost, in seconds of one core: enough to tell a panel from a scan, before anything runs.

The weights are measured (`adr/0007`), and coarse: a tenfold difference matters, a twofold one doesn't. What a query did
cost is known afterwards, and whoever asks again is judged by that.
"""

from __future__ import annotations

from typing import Final

from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.needs import expression_fields, query_needs
from heimdall_server.domain.expression.tree import Expression, Extract, Limit, Sort, Stats, Where
from heimdall_server.ports.log_store import Path, StoreQuery

FIXED_S: Final = 0.01
"""Of any query: a statement, its plan, its answer."""
_NS: Final = 1e-9
_ROW_NS: Final = 4.0
_CORE_NS: Final = 6.0
"""A column of the record's own, packed and of few values."""
_BODY_NS: Final = 80.0
_TEXT_NS: Final = {"body": _BODY_NS, "tokens": 10.0}
"""Few records have tokens outside their body, and those few words."""
_ATTRIBUTE_NS: Final = 140.0
"""A key of unknown type: up to six maps are read."""
_HOLDS_NS: Final = 1_000.0
"""Whether a record holds an entity of a set: all of its texts are gone through."""
_DOUBT: Final = 2.0
_OVERHEAD_S: Final = 0.05
_WORD_SHARE: Final = 0.05
"""Records that a word leaves: what is common enough to be asked about is rarer than this."""
_FIRST_ROWS_MAX: Final = 10_000
"""A query for at most so many rows is thought to find them soon."""


def estimate_cost_s(query: StoreQuery, path: Path, rows: int) -> float:
    """Estimate what a query costs.

    Args:
        query: What is asked.
        path: The way it goes.
        rows: Records that the store holds in the query's time range.

    Returns:
        Seconds of one core; at least `FIXED_S`.
    """
    if path in (Path.ROLLUP, Path.TRACE_INDEX):
        return FIXED_S
    needs = query_needs(query.query)
    limit = min((stage.count for stage in query.query.stages if isinstance(stage, Limit)), default=None)
    is_sorted = any(isinstance(stage, Sort) for stage in query.query.stages)
    if not needs.aggregates and not is_sorted and limit is not None and limit <= _FIRST_ROWS_MAX:
        return FIXED_S
    if not needs.aggregates and not is_sorted:
        # As many rows as there are, sent as they are read.
        rows = min(rows, query.limits.result_rows)
    indexed = path is Path.TEXT_INDEX
    return FIXED_S + rows * (_WORD_SHARE if indexed else 1.0) * _row_ns(query, words_indexed=indexed) * _NS


def real_cost_s(query: StoreQuery, path: Path, *, elapsed_s: float, rows_read: int) -> float:
    """What a query cost: no more than the time it took, nor than what it read is worth.

    Time alone would make a scan of whatever a loaded machine keeps waiting.

    Args:
        query: What was asked.
        path: The way it went.
        elapsed_s: From its turn to its end.
        rows_read: Until then.
    """
    row_ns = _row_ns(query, words_indexed=path is Path.TEXT_INDEX)
    return min(elapsed_s, _OVERHEAD_S + rows_read * row_ns * _DOUBT * _NS)


def _row_ns(query: StoreQuery, *, words_indexed: bool) -> float:
    """What a row that is read costs."""
    expressions: list[Expression] = [query.query.filter]
    fields: list[FieldRef] = []
    for stage in query.query.stages:
        if isinstance(stage, Where):
            expressions.append(stage.expression)
        elif isinstance(stage, Extract):
            fields.append(stage.field)
        elif isinstance(stage, Stats):
            fields += [key for key in stage.by if isinstance(key, FieldRef)]
            fields += [each.field for each in stage.aggregates if each.field is not None]
            break
        elif isinstance(stage, Sort):
            fields += [key.field for key in stage.keys]
    named = [field for expression in expressions for field in expression_fields(expression)]
    total = sum((_field_ns(field) for field in (*named, *fields)), _ROW_NS)
    if words_indexed:
        texts = {field for field in named if field.scope is Scope.CORE and CORE_FIELDS[field.name] is FieldKind.TEXT}
        total -= sum(_field_ns(field) for field in texts)
    return total


def _field_ns(field: FieldRef) -> float:
    if field.scope is Scope.GRAPH:
        return _HOLDS_NS
    if field.scope is Scope.COMPUTED:
        return 0.0
    if field.scope is not Scope.CORE:
        return _ATTRIBUTE_NS
    return _TEXT_NS.get(field.name, _CORE_NS)
