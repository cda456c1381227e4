"""What stands between decode and journal: personal data in columns is masked, kept or dropped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Protected:
    """A batch as the journal may see it."""

    batch: pa.RecordBatch
    """`RECORD_SCHEMA`, same rows in the same order, `policy_version` set."""
    hits: dict[str, int] = field(default_factory=dict)
    """Class of personal data to the number of values that were acted on (for metrics)."""
    sidecars: dict[str, bytes] = field(default_factory=dict)
    """What a policy's action must make durable in the same frame as the records (for example values that
    were sealed), by kind; empty for `keep`, `mask` and `drop`."""


class Protector(Protocol):
    """Applies the privacy policy.

    Guarantees: pure (same input, same policy version, same output); thread-safe; releases the GIL for
    almost all of its work; never keeps a value. Cheap per row only on large batches (16 k rows and more).
    """

    @property
    def policy_version(self) -> int:
        """The version that `protect` stamps."""
        ...

    def protect(self, batch: pa.RecordBatch) -> Protected:
        """Apply the policy to every text column and string map of a batch."""
        ...
