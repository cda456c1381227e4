"""What an embedded journal is told: where it lies and how large and old it may grow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError

SEGMENT_BYTES_MIN: Final = 64 * 1024
FRAME_BYTES_MAX: Final = 1 << 30
"""Largest entry. Far above what ingest coalesces (16 MiB); a bound on memory, and below the cipher's own."""
SEGMENTS_PER_AGE: Final = 12
"""A segment takes frames for at most this part of `age_max_s`, so that old frames don't wait for young ones."""


@dataclass(frozen=True, slots=True)
class JournalConfig:
    """Limits of an embedded journal."""

    path: Path
    """Its directory. Made if missing; one process at a time."""
    segment_bytes: int = 256 * 1024 * 1024
    """Size of a segment file. Space comes back by whole segments."""
    bytes_max: int = 16 * 1024 * 1024 * 1024
    """`journal_bytes_max`: beyond it appends are refused until frames may go. One segment is allocated ahead
    and up to `spare_segments` are kept for reuse, on top."""
    retain_bytes: int = 4 * 1024 * 1024 * 1024
    """Of the frames that may go, this many bytes (with those that may not) are kept for rebuilds."""
    age_max_s: float = 72 * 3600.0
    """`journal_age_max`: a frame that may go is gone when it is older."""
    disk_reserve_bytes: int = 2 * 1024 * 1024 * 1024
    """Appends are refused while the disk has less free: inserts and merges need it."""
    disk_check_s: float = 1.0
    """How long a measurement of the free disk is believed."""
    retry_after_s: float = 1.0
    """What a refused caller is told to wait."""
    group_bytes_max: int = 32 * 1024 * 1024
    """About how much is written before one fsync. One larger entry makes a group of its own."""
    cache_bytes: int = 64 * 1024 * 1024
    """Decoded frames at the head that readers get without reading or decrypting; 0: none."""
    read_bytes: int = 8 * 1024 * 1024
    """About how much a reader fetches at a time when it is behind the cache."""
    reader_threads: int = 2
    """Threads that read and decrypt, for all readers together."""
    spare_segments: int = 1
    """Deleted segments that are kept for reuse: writing over written blocks is four times as fast."""

    def __post_init__(self) -> None:
        checks = {
            f"journal.segment_bytes: at least {SEGMENT_BYTES_MIN}": self.segment_bytes >= SEGMENT_BYTES_MIN,
            "journal.bytes_max: at least two segments": self.bytes_max >= 2 * self.segment_bytes,
            "journal.retain_bytes: from 0 to journal.bytes_max": 0 <= self.retain_bytes <= self.bytes_max,
            "journal.age_max_s: more than 0": self.age_max_s > 0,
            "journal.disk_reserve_bytes: 0 or more": self.disk_reserve_bytes >= 0,
            "journal.disk_check_s: 0 or more": self.disk_check_s >= 0,
            "journal.retry_after_s: more than 0": self.retry_after_s > 0,
            "journal.group_bytes_max: more than 0": self.group_bytes_max > 0,
            "journal.cache_bytes: 0 or more": self.cache_bytes >= 0,
            "journal.read_bytes: more than 0": self.read_bytes > 0,
            "journal.reader_threads: at least 1": self.reader_threads >= 1,
            "journal.spare_segments: 0 or more": self.spare_segments >= 0,
        }
        problems = tuple(rule for rule, holds in checks.items() if not holds)
        if problems:
            raise ConfigurationError(problems)
