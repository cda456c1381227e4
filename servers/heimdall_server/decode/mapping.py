"""The names under which people's records carry the core fields, and who gets the column when several do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays

FIELD_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "time": ("time", "timestamp", "@timestamp", "ts"),
    "severity": ("level", "severity", "lvl", "severity_number", "log.level"),
    "severity_text": ("severity_text",),
    "body": ("msg", "message", "body", "log"),
    "service": ("service", "service.name", "app"),
    "host": ("host", "hostname", "host.name"),
    "trace_id": ("trace_id", "traceid", "trace.id"),
    "span_id": ("span_id", "spanid", "span.id"),
    "flags": ("flags", "trace_flags"),
    "event_name": ("event_name",),
    "scope_name": ("scope_name",),
    "scope_version": ("scope_version",),
}
"""A core column (as `columns.assemble` names it) → names of fields, in order of precedence, lower case."""

_LADDER_NAMES: Final = ("level", "lvl")
"""Where loggers put numbers of their own scale (pino, bunyan): `assemble` takes them as `level`."""

_TARGETS: Final = {name: target for target, names in FIELD_NAMES.items() for name in names}

Columns = Mapping[str, Sequence[pa.Array]]
"""Field name → its values, one column for each type that they have."""


def target_of(name: str) -> str | None:
    """The core column that a field of this name goes to, or None. Case is ignored."""
    return _TARGETS.get(name.lower())


def split(columns: Columns, *, keep: bool = False) -> tuple[dict[str, list[pa.Array]], list[tuple[str, pa.Array]]]:
    """Divide a record's fields into core columns and attributes.

    Row by row the first name of `FIELD_NAMES` that the record carries gets the core column; what the other names
    carry in that row stays an attribute.

    Args:
        columns: All fields of a chunk.
        keep: What gets a core column stays an attribute, too. For dumps: whoever compares, protects or joins the columns of
            one finds all of them by the names that they have there, and none that a default made. `assemble` must be told.

    Returns:
        `core` and `attributes` for `columns.assemble`.
    """
    claims: dict[str, list[str]] = {}
    attributes: list[tuple[str, pa.Array]] = []
    for name, parts in columns.items():
        target = target_of(name)
        if target is None:
            attributes += [(name, part) for part in parts]
        else:
            claims.setdefault(target, []).append(name)
    if keep:
        # In an order of their own: a record is the same however its source is cut.
        kept = sorted(name for names in claims.values() for name in names)
        attributes += [(name, part) for name in kept for part in columns[name]]
    core: dict[str, list[pa.Array]] = {}
    for target, names in claims.items():
        order = FIELD_NAMES[target]
        taken: pa.Array | None = None
        for name in sorted(names, key=lambda name: (order.index(name.lower()), name != name.lower())):
            for part in columns[name]:
                won, lost = _contest(part, taken)
                core.setdefault("level" if name.lower() in _LADDER_NAMES else target, []).append(won)
                if lost is not None and not keep:
                    attributes.append((name, lost))
            for part in columns[name]:
                taken = part.is_valid() if taken is None else pc.or_(taken, part.is_valid())
    return core, attributes


def _contest(part: pa.Array, taken: pa.Array | None) -> tuple[pa.Array, pa.Array | None]:
    """Part a column by whether an earlier name holds the row: (for the core column, for the attributes)."""
    part = arrays.plain(part)
    if taken is None or not pc.any(pc.and_(taken, part.is_valid())).as_py():
        return part, None
    none = pa.scalar(None, part.type)
    return pc.if_else(taken, none, part), pc.if_else(taken, part, none)
