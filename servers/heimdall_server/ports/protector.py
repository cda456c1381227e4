"""What stands between decode and journal: personal data in columns is tokenised, masked, kept or dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from heimdall_server.ports.journal import Entry


@dataclass(frozen=True, slots=True)
class Protected:
    """A batch as the journal may see it."""

    batch: pa.RecordBatch
    """`RECORD_SCHEMA`, same rows in the same order, `policy_version` set."""
    hits: dict[str, int] = field(default_factory=dict)
    """Class of personal data to the number of values that were acted on (for metrics)."""
    sidecars: dict[str, bytes] = field(default_factory=dict)
    """What must be durable in the same frame as the records, by kind: `vault`, the values that were sealed for the first
    time of late (`domain.sealed_values`). Empty where nothing is tokenised."""
    settlers: tuple[Callable[[], None], ...] = ()
    """See `on_durable`."""

    def on_durable(self) -> None:
        """Say that the frame that carries the sidecars is durable.

        To be called at most once, and never for a frame that couldn't be written. Where it isn't called nothing breaks, but
        the same values are sealed again. Never raises. Thread-safe.
        """
        for settle in self.settlers:
            settle()


@dataclass(frozen=True, slots=True)
class ProtectedControl:
    """An entry of which all but the records is as the journal may see it."""

    entry: Entry
    """With the sidecars of what was tokenised besides its own."""
    hits: dict[str, int] = field(default_factory=dict)
    """As `Protected.hits`."""
    settlers: tuple[Callable[[], None], ...] = ()
    """To be called once the entry is durable, as those of `Protected`."""


class Protector(Protocol):
    """Applies the privacy policy.

    Guarantees: the same input under the same policy and keys gives the same records (but for `encrypt`); thread-safe;
    releases the GIL for almost all of its work; keeps no value but, where values are tokenised, a bounded number of them
    in memory. Cheap per row only on large batches (16 k rows and more).
    """

    @property
    def policy_version(self) -> int:
        """The version that `protect` stamps."""
        ...

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        """Apply the policy to every text column and string map of a batch.

        Args:
            batch: Decoded records.
            again: They were decoded from bytes that were protected before (`DeadLetter.protected`): what looks like a token in them is one.
        """
        ...

    def protect_control(self, entry: Entry) -> ProtectedControl:
        """Apply the policy to what an entry says beside its records: dead letters first of all.

        Bytes that can't be searched aren't kept, unless the policy keeps everything in dead letters. Reasons, names and messages are masked.
        Cheap where there is nothing to treat.
        """
        ...
