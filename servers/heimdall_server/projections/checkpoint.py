"""How far a projection has come, in a small file: durable, checked, bound to one journal.

A projection writes the range of frames that it is about to insert as an *intent*, inserts, then stores the new
position without the intent. After a crash an intent says which range may be there wholly, partly or not at all;
the engine's rows decide (`LogStore.recover`), never the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import google_crc32c

from heimdall_server.domain.errors import ConfigurationError, CorruptionError, StoreError
from heimdall_server.storage.journal.files import make_directory, write_durably

_FORMAT_VERSION: Final = 1
_STORE: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class Intent:
    """A range of frames that is being inserted."""

    shard: int
    first: int
    last: int
    """Inclusive."""
    rows: int
    """Records of the range, as the journal counts them."""
    token: str
    """Of this attempt."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a projection stands."""

    journal_id: str
    positions: Mapping[int, int] = field(default_factory=dict)
    """Shard → last position that is wholly in the projection; absent: nothing yet."""
    intent: Intent | None = None
    generation: int = 1
    """Goes up when the projection is rebuilt."""
    store_id: str = ""
    """The store that all this is about; empty: an older version wrote it."""

    def position(self, shard: int) -> int:
        """Last position that is in the projection; 0: nothing yet."""
        return self.positions.get(shard, 0)

    def intending(self, intent: Intent) -> Checkpoint:
        """The same place, about to insert a range."""
        return replace(self, intent=intent)

    def advanced(self, shard: int, position: int) -> Checkpoint:
        """Everything up to a position is in; no intent is left."""
        return replace(self, positions={**self.positions, shard: position}, intent=None)

    def rebuilt(self) -> Checkpoint:
        """Nothing is in, of a new generation."""
        return Checkpoint(self.journal_id, generation=self.generation + 1)


class CheckpointFile:
    """A `Checkpoint` in a file. One owner at a time.

    `load` and `store` block, for two fsyncs: call them in a thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, journal_id: str) -> Checkpoint:
        """Read the checkpoint.

        Args:
            journal_id: The journal that the projection reads.

        Returns:
            What was stored last; a fresh one if there is no file.

        Raises:
            ConfigurationError: The file belongs to another journal, or a newer version wrote it.
            CorruptionError: It is damaged.
            StoreError: It can't be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Checkpoint(journal_id)
        except OSError as error:
            raise StoreError(_STORE, f"read {self._path.name}: {error.strerror}") from error
        checkpoint = self._parse(data)
        if checkpoint.journal_id != journal_id:
            problem = (
                f"checkpoint {self._path} belongs to journal {checkpoint.journal_id}, this one is {journal_id}; "
                "restore its journal, or remove the projection with its checkpoint to rebuild it"
            )
            raise ConfigurationError((problem,))
        return checkpoint

    def store(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; it is durable when this returns.

        Raises:
            StoreError: The disk failed; the old one may be there still.
        """
        body = asdict(checkpoint)
        body["positions"] = {str(shard): position for shard, position in checkpoint.positions.items()}
        value = {"format_version": _FORMAT_VERSION, "crc32c": _crc(body), "checkpoint": body}
        try:
            make_directory(self._path.parent)
            write_durably(self._path, json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise StoreError(_STORE, f"write {self._path.name}: {error.strerror}") from error

    def remove(self) -> None:
        """Forget it, for a rebuild."""
        self._path.unlink(missing_ok=True)

    def _parse(self, data: bytes) -> Checkpoint:
        place = f"checkpoint {self._path}"
        try:
            value = json.loads(data)
            version = int(value["format_version"])
            if version > _FORMAT_VERSION:
                problem = f"{place} has format {version}, this server reads up to {_FORMAT_VERSION}; upgrade the server"
                raise ConfigurationError((problem,))
            body = value["checkpoint"]
            if value["crc32c"] != _crc(body):
                raise CorruptionError(place, "it fails its checksum; remove it to rebuild the projection")
            return Checkpoint(
                journal_id=body["journal_id"],
                positions={int(shard): int(position) for shard, position in body["positions"].items()},
                intent=None if body["intent"] is None else Intent(**body["intent"]),
                generation=int(body["generation"]),
                store_id=str(body.get("store_id", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = "it isn't what this program writes; remove it to rebuild the projection"
            raise CorruptionError(place, problem) from error


def _crc(body: object) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return f"{int(google_crc32c.value(canonical)):08x}"
