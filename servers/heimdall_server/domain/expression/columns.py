"""Which columns exist at a point of a query, and of what kind: what a parser resolves names against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from heimdall_server.domain.expression.fields import (
    ALIASES,
    CORE_FIELDS,
    GRAPH_FIELDS,
    FieldKind,
    FieldRef,
    Scope,
    resolve,
)
from heimdall_server.domain.expression.tree import (
    Aggregate,
    Bucket,
    Extract,
    Fields,
    Function,
    GroupKey,
    Stage,
    Stats,
)

TEXT_KINDS: Final = frozenset({FieldKind.KEYWORD, FieldKind.TEXT, FieldKind.ID, FieldKind.ATTRIBUTE})
"""Kinds that `Wildcard` and `Regex` may stand on."""
NUMERIC_KINDS: Final = frozenset({FieldKind.NUMBER, FieldKind.SEVERITY, FieldKind.ATTRIBUTE, FieldKind.KEYWORD})
"""Kinds that `sum`, `avg` and `quantile` read; KEYWORD only if computed (the number that a text spells)."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a stage may name."""

    computed: Mapping[str, FieldKind] = field(default_factory=dict)
    """In the order of the result."""
    aggregated: bool = False
    """Behind `stats`: only computed columns exist."""
    kept: tuple[FieldRef, ...] | None = None
    """Behind `fields`: only these are left."""

    def kind(self, ref: FieldRef) -> FieldKind:
        """How a field's values compare.

        Raises:
            KeyError: No such core or computed column.
        """
        if ref.scope is Scope.CORE:
            return CORE_FIELDS[ref.name]
        if ref.scope is Scope.COMPUTED:
            return self.computed[ref.name]
        return FieldKind.KEYWORD if ref.scope is Scope.GRAPH else FieldKind.ATTRIBUTE

    def holds(self, ref: FieldRef) -> bool:
        """The column exists here."""
        if self.kept is not None and ref not in self.kept:
            return False
        if ref.scope is Scope.COMPUTED:
            return ref.name in self.computed
        if ref.scope is Scope.GRAPH:
            # It is asked of whole records.
            return not self.aggregated and ref.name in GRAPH_FIELDS
        return not self.aggregated and (ref.scope is not Scope.CORE or ref.name in CORE_FIELDS)

    def resolve(self, name: str) -> FieldRef | None:
        """Say what a name means here; None if there is no such column."""
        candidates = [FieldRef(Scope.COMPUTED, name), resolve(name)]
        if self.aggregated:
            candidates[1:] = [FieldRef(Scope.COMPUTED, str(resolve(name)))]
        return next((ref for ref in candidates if self.holds(ref)), None)

    def names(self) -> list[str]:
        """Names to suggest from."""
        if self.kept is not None:
            return [str(ref) for ref in self.kept]
        return list(self.computed) if self.aggregated else [*self.computed, *CORE_FIELDS, *ALIASES]

    def after(self, stage: Stage) -> Columns:
        """The columns behind a stage."""
        if isinstance(stage, Extract):
            return replace(self, computed={**self.computed, **dict.fromkeys(stage.names, FieldKind.KEYWORD)})
        if isinstance(stage, Stats):
            computed = {key_name(key): self._key_kind(key) for key in stage.by}
            computed.update((each.name, self._value_kind(each)) for each in stage.aggregates)
            return Columns(computed, aggregated=True)
        if isinstance(stage, Fields):
            return replace(self, kept=stage.fields)
        return self

    def _key_kind(self, key: GroupKey) -> FieldKind:
        if isinstance(key, Bucket):
            return FieldKind.TIME
        kind = self.kind(key)
        return FieldKind.KEYWORD if kind in TEXT_KINDS else kind

    def _value_kind(self, aggregate: Aggregate) -> FieldKind:
        ordered = aggregate.function in (Function.MIN, Function.MAX) and aggregate.field is not None
        if ordered and aggregate.field is not None and self.kind(aggregate.field) is FieldKind.TIME:
            return FieldKind.TIME
        return FieldKind.NUMBER


def key_name(key: GroupKey) -> str:
    """The column that a group key becomes."""
    return key.name if isinstance(key, Bucket) else str(key)
