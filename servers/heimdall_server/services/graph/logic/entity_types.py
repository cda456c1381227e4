"""Types of entities as people name them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from heimdall_server.canonical.catalogue import TYPES
from heimdall_server.canonical.hashes import HASH_TYPES
from heimdall_server.canonical.named_things import is_named_type
from heimdall_server.domain.errors import InvalidArgumentError

_SEVERAL: Final[Mapping[str, frozenset[str]]] = {"ip": frozenset({"ip", "ipv4", "ipv6"}), "hash": frozenset(HASH_TYPES)}
"""What one name means several types by."""


def wanted_types(asked: Collection[str], classes: Collection[str], *, imported: bool = True) -> frozenset[str]:
    """The types that entities may be of.

    Args:
        asked: Types, or classes of personal data.
        classes: All of these.
        imported: Whether they may be types that only imports tell of: `malware`, `misp-event`, `x-…`.

    Raises:
        InvalidArgumentError: There is none of that name.
    """
    for name in asked:
        if name not in TYPES and name not in classes and not (imported and is_named_type(name)):
            raise InvalidArgumentError("types", f"there is no type {name!r} of entities")
    return frozenset().union(*(_SEVERAL.get(name, {name}) for name in asked))
