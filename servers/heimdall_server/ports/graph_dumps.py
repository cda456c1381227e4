"""Dumps as they are read: their fields with profiles, and which values fields have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_dumps import DescribedDump


@dataclass(frozen=True, slots=True)
class SharedValues:
    """What fields of two dumps have in common, counted."""

    distinct: Mapping[bytes, int]
    """Values by the field's id."""
    shared: Mapping[tuple[bytes, bytes], int]
    """Values that two fields share."""


class GraphDumps(Protocol):
    """Reads dumps. All methods raise StoreError when the engine fails."""

    async def describe(self, id_: bytes, *, tlp_max: Tlp) -> DescribedDump | None:
        """A dump with its fields, or a field alone; None: it is neither, or lies above the ceiling.

        Profiles are of what visible provenances told.
        """
        ...

    async def shared(self, a: Sequence[bytes], b: Sequence[bytes], *, tlp_max: Tlp, time_s: float) -> SharedValues:
        """Compare the values of fields one by one.

        Values are the same if they are the same entity, or else the same text. What only stricter provenances tell isn't there.

        Args:
            a: Fields of one dump.
            b: Of the other.
            tlp_max: The reader's ceiling.
            time_s: For all of it. About 10 µs a value.

        Raises:
            QueryTimeoutError: It took longer.
        """
        ...
