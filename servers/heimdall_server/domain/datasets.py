"""Datasets: how a class of records is partitioned, kept and forgotten.

Each record is in one configured dataset. A store keeps a dataset apart (its own table, rollups and
partitions), so that forgetting is the dropping of whole partitions.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
"""The form of every id; a store may build names from it with characters that it lacks."""


class PartitionUnit(enum.StrEnum):
    """How much time one partition holds: the grain of forgetting."""

    DAY = "day"
    MONTH = "month"


class AgeFrom(enum.StrEnum):
    """The column that a record's age counts from, which is the one that partitions follow."""

    TIME = "time"
    """When it happened."""
    OBSERVED_TIME = "observed_time"
    """When it came in: an old dump is kept as long as a new one."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset's configuration."""

    name: str
    """`[a-z0-9][a-z0-9._-]{0,127}`."""
    partition_unit: PartitionUnit = PartitionUnit.DAY
    """Can't be changed while the dataset holds records."""
    retention_days: int = 0
    """A partition goes when its youngest possible record is older, and came in longer ago; 0: never by age."""
    retention_bytes: int = 0
    """Oldest partitions go while the dataset is larger than this at rest; 0: never by size."""
    age_from: AgeFrom = AgeFrom.TIME
    """Can't be changed while the dataset holds records."""
    hot_keys: tuple[str, ...] = ()
    """Attribute keys that get a column of their own: filters on them read 1/20 of the map."""
    text_index: bool = True
    """Words of the body are indexed: a word is found in milliseconds instead of by reading every body of the time
    range, for two fifths of the time that the store spends on a record and about 16 bytes of it."""

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise InvalidArgumentError("dataset.name", f"must match {NAME_PATTERN.pattern}")
        for name, value in (("retention_days", self.retention_days), ("retention_bytes", self.retention_bytes)):
            if value < 0:
                raise InvalidArgumentError(f"dataset.{name}", "must be 0 or more")


DEFAULT_DATASETS: Final = (
    Dataset("logs", PartitionUnit.DAY, retention_days=30),
    Dataset("dumps", PartitionUnit.MONTH, retention_days=400, age_from=AgeFrom.OBSERVED_TIME),
    Dataset("samples", PartitionUnit.MONTH, age_from=AgeFrom.OBSERVED_TIME),
)
"""What a configuration that names none gets."""
