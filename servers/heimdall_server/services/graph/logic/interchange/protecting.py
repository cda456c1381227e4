"""The privacy policy over what is imported: values and texts go through the same protector as records, before anything of them is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.records import MAP_STRING, RECORD_SCHEMA, default_column, repeat
from heimdall_server.ports.protector import Protected, Protector

TEXT: Final = "text"
"""Name of a field that says nothing of its value."""
_UNTOUCHED: Final = frozenset(
    {"type", "id", "spec_version", "created", "modified", "pattern_type", "pattern_version", "relationship_type"}
)
"""Keys of objects whose values have a form of their own, which can't be a person's."""
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z", re.ASCII)


def protect_all(
    protector: Protector, source: str, entries: Sequence[tuple[str, str]], now_ns: int
) -> tuple[list[str | None], Protected | None]:
    """Treat values as fields of records are treated.

    Args:
        protector: By the policy in force.
        source: Of the import; the policy may speak of it.
        entries: Name of a field that would hold the value (`TEXT`: any text), and the value.
        now_ns: The time.

    Returns:
        Each value as it may be kept, null where it must not be; and what must become durable with them.
    """
    if not entries:
        return [], None
    protected = protector.protect(_records(source, entries, now_ns))
    column = protected.batch.column("attributes")
    kept: list[str | None] = []
    for (name, _), items in zip(entries, column.to_pylist(), strict=True):
        kept.append(next((value for key, value in items if key == name), None))
    return kept, protected


def texts_of(value: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Texts of an object that may hold personal data, keys among them."""
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield inner_key
            yield from texts_of(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner, key)
    elif _is_text(value, key):
        yield value


def with_texts(value: Any, protected: Mapping[str, str | None], key: str = "") -> Any:  # noqa: ANN401 - any JSON
    """The object with its texts as they may be kept; what must not be is left out of lists and objects."""
    if isinstance(value, Mapping):
        return {
            new_key: with_texts(inner, protected, inner_key)
            for inner_key, inner in value.items()
            if (new_key := protected.get(inner_key, inner_key)) is not None
            and not _is_dropped(inner, protected, inner_key)
        }
    if isinstance(value, list):
        return [with_texts(inner, protected, key) for inner in value if not _is_dropped(inner, protected, key)]
    return protected.get(value, value) if _is_text(value, key) else value


def distinct(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Texts as entries for `protect_all`, each once."""
    return [(TEXT, text) for text in dict.fromkeys(texts)]


def _is_dropped(value: Any, protected: Mapping[str, str | None], key: str) -> bool:  # noqa: ANN401 - any JSON
    return _is_text(value, key) and value in protected and protected[value] is None


def _is_text(value: Any, key: str) -> bool:  # noqa: ANN401 - any JSON
    if not isinstance(value, str) or not value or key in _UNTOUCHED or key.endswith(("_ref", "_refs")):
        return False
    return _TIME.fullmatch(value) is None


def _records(source: str, entries: Sequence[tuple[str, str]], now_ns: int) -> pa.RecordBatch:
    count = len(entries)
    time = repeat(pa.scalar(now_ns, pa.timestamp("ns", tz="UTC")), count, pa.timestamp("ns", tz="UTC"))
    attributes = pa.MapArray.from_arrays(
        pa.array(np.arange(count + 1, dtype=np.int32)),
        pa.array([name for name, _ in entries], pa.string()),
        pa.array([value for _, value in entries], pa.string()),
        type=MAP_STRING,
    )
    told = {"time": time, "observed_time": time, "source": repeat(source, count, pa.string()), "attributes": attributes}
    columns = [told[name] if name in told else default_column(name, count) for name in RECORD_SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
