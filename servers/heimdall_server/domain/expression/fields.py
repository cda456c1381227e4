"""The names that a query may use, and where each stands in a record."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class FieldKind(enum.StrEnum):
    """How a core field's values compare."""

    TIME = "time"
    SEVERITY = "severity"
    KEYWORD = "keyword"
    """Exact, case matters."""
    TEXT = "text"
    """Words, case ignored."""
    NUMBER = "number"
    ID = "id"
    """Raw bytes, written as lower-case hex."""
    ATTRIBUTE = "attribute"
    """Text, number or bool, by record."""


class Scope(enum.StrEnum):
    """Where a field is looked up."""

    CORE = "core"
    """A column of the record schema."""
    ATTRIBUTES = "attributes"
    """The three attribute maps only."""
    RESOURCE = "resource"
    """The three resource maps only."""
    ANY = "any"
    """The attribute maps; where the key is in none of them, the resource maps."""
    COMPUTED = "computed"
    """A column that an earlier stage made (`extract`, `stats`)."""
    GRAPH = "graph"
    """What the graph says of entities that a record holds: no column of it (`GRAPH_FIELDS`)."""


@dataclass(frozen=True, slots=True)
class FieldRef:
    """A field as a tree names it."""

    scope: Scope
    name: str
    """Column name (core, computed) or attribute key."""

    def __str__(self) -> str:
        prefix = f"{self.scope}." if self.scope in (Scope.ATTRIBUTES, Scope.RESOURCE) else ""
        return prefix + self.name


CORE_FIELDS: Final[dict[str, FieldKind]] = {
    "time": FieldKind.TIME,
    "observed_time": FieldKind.TIME,
    "severity": FieldKind.SEVERITY,
    "severity_text": FieldKind.KEYWORD,
    "service": FieldKind.KEYWORD,
    "host": FieldKind.KEYWORD,
    "source": FieldKind.KEYWORD,
    "body": FieldKind.TEXT,
    "trace_id": FieldKind.ID,
    "span_id": FieldKind.ID,
    "flags": FieldKind.NUMBER,
    "event_name": FieldKind.KEYWORD,
    "scope_name": FieldKind.KEYWORD,
    "scope_version": FieldKind.KEYWORD,
    "dataset": FieldKind.KEYWORD,
    "dump": FieldKind.KEYWORD,
    "record_number": FieldKind.NUMBER,
    "policy_version": FieldKind.NUMBER,
    "tlp": FieldKind.KEYWORD,
    "tokens": FieldKind.TEXT,
    "principal": FieldKind.KEYWORD,
    "time_flags": FieldKind.NUMBER,
    "position": FieldKind.NUMBER,
    "row": FieldKind.NUMBER,
    "shard": FieldKind.NUMBER,
}
"""Fields that every record has. An empty string, zero id or zero severity counts as missing; numbers
(`flags`, `position`, …) and times never do."""

ALIASES: Final[dict[str, str]] = {
    "timestamp": "time",
    "@timestamp": "time",
    "ts": "time",
    "level": "severity",
    "lvl": "severity",
    "message": "body",
    "msg": "body",
    "log": "body",
    "app": "service",
    "service.name": "service",
    "hostname": "host",
    "host.name": "host",
    "traceid": "trace_id",
    "trace.id": "trace_id",
    "spanid": "span_id",
    "span.id": "span_id",
}
"""Other names that people type for a core field; the same ones that ingest maps, whatever their case."""

GRAPH_FIELDS: Final = frozenset({"sighted_in", "entity_label", "entity_tlp"})
"""Names that ask for records which hold an entity that the graph says something of: it was sighted in a dump or source, has a label,
is told of under a marking. An attribute of the name is `attributes.sighted_in`."""

_ANY_CASE: Final = frozenset(
    {*ALIASES, "time", "severity", "severity_text", "service", "host", "body", "trace_id", "span_id"}
)


def resolve(name: str) -> FieldRef:
    """Say where a name that a person typed stands.

    Args:
        name: As typed. `attributes.x` and `resource.x` are explicit; otherwise core fields and their
            aliases first, then any attribute.
    """
    core = ALIASES.get(name, name)
    if core not in CORE_FIELDS and name.lower() in _ANY_CASE:
        core = ALIASES.get(name.lower(), name.lower())
    if core in CORE_FIELDS:
        return FieldRef(Scope.CORE, core)
    if name in GRAPH_FIELDS:
        return FieldRef(Scope.GRAPH, name)
    for scope in (Scope.ATTRIBUTES, Scope.RESOURCE):
        key = name.removeprefix(f"{scope}.")
        if key != name and key:
            return FieldRef(scope, key)
    return FieldRef(Scope.ANY, name)
