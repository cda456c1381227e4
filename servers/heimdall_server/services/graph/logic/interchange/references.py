"""References of an object to others, by the sender's ids of them: properties that end with `_ref` and `_refs`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

_REF_CHARACTERS_MAX = 200


def is_ref(value: Any) -> bool:  # noqa: ANN401 - any JSON
    """Whether a value names an object."""
    return isinstance(value, str) and "--" in value and len(value) < _REF_CHARACTERS_MAX


def refs_within(value: Any, but: Collection[str] = ()) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """References anywhere in an object: property and id.

    Args:
        value: The object.
        but: Properties that don't count.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in but:
                continue
            if key.endswith("_ref") and is_ref(inner):
                yield key, inner
            elif key.endswith("_refs") and isinstance(inner, list):
                yield from ((key, one) for one in inner if is_ref(one))
            elif isinstance(inner, Mapping | list):
                yield from refs_within(inner, but)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, Mapping | list):
                yield from refs_within(inner, but)


def without_refs(value: Any, is_dropped: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - any JSON
    """Without some references, and without lists that nothing is left of: STIX has no empty ones.

    Args:
        value: An object.
        is_dropped: Whether a value is a reference to leave out.
    """
    if isinstance(value, Mapping):
        kept = {
            key: without_refs(inner, is_dropped)
            for key, inner in value.items()
            if not (key.endswith("_ref") and is_dropped(inner))
        }
        return {key: inner for key, inner in kept.items() if inner != []}
    if isinstance(value, list):
        return [without_refs(inner, is_dropped) for inner in value if not is_dropped(inner)]
    return value
