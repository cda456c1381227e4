"""The one narrow seam between the store and an engine, in process or over HTTP.

Above it there is one SQL and one store; below it two small adapters (`embedded`, `remote`). Every call
blocks, so the store makes it in a thread, and a connection serves one call at a time.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.domain.errors import (
    HeimdallError,
    InvalidArgumentError,
    QueryCostError,
    QueryTimeoutError,
    StoreError,
)

STORE_NAME: Final = "warm store"
Parameters = Mapping[str, object]
"""Values of the `{name:Type}` placeholders of a statement: str, int, float, bool or a list of them."""
Settings = Mapping[str, str | int]

_PIECE_BYTES: Final = 4 << 20
_CODE: Final = re.compile(r"Code: (\d+)\.")
_NAME: Final = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'")
_TIMEOUT_CODES: Final = frozenset({159, 160})
_COST_CODES: Final = frozenset({158, 241, 307, 396})
_CANCELLED_CODES: Final = frozenset({394})
_PATTERN_CODES: Final = frozenset({36, 427})
# What says that a block's content is at fault, not the engine, the disk or the network.
_CONTENT_CODES: Final = frozenset({6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 407, 469, 561, 636})


class EngineError(Exception):
    """What an engine answered instead of doing the work. Never leaves this package."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        code = _CODE.search(message)
        names = _NAME.findall(message)
        self.code = int(code.group(1)) if code else 0
        self.name: str = names[-1] if names else "UNKNOWN"
        # Messages quote values of records and queries: nothing in quotes and no statement goes to a log.
        self.detail = _QUOTED.sub("'…'", message.split(" In scope ", 1)[0])[:300]

    @property
    def refuses_content(self) -> bool:
        """True if the records themselves are at fault."""
        return self.code in _CONTENT_CODES

    @property
    def is_limit(self) -> bool:
        """True if a limit of the query was reached."""
        return self.code in _TIMEOUT_CODES | _COST_CODES

    @property
    def is_cancelled(self) -> bool:
        """True if somebody stopped the query."""
        return self.code in _CANCELLED_CODES

    @property
    def limit_name(self) -> str:
        """The field of `Limits` that was reached; empty: none."""
        if self.code in _TIMEOUT_CODES:
            return "time_s"
        if self.code == 241:
            return "memory_bytes"
        return "scan_rows" if self.code in _COST_CODES else ""

    def translated(self, *, time_s: float = 0.0) -> HeimdallError:
        """The error of `domain.errors` that a caller of the port gets.

        Args:
            time_s: The query's time limit, for the sentence.
        """
        if self.code in _TIMEOUT_CODES:
            return QueryTimeoutError(time_s)
        if self.limit_name == "memory_bytes":
            return QueryCostError("the query needs more memory than it may use; group by fewer values")
        if self.limit_name == "scan_rows":
            return QueryCostError("the query would read more rows than it may; narrow its time range or add words")
        if self.code in _PATTERN_CODES:
            return InvalidArgumentError("query", "the store can't evaluate a pattern or argument of it")
        return StoreError(STORE_NAME, f"{self.name}: {self.detail}")


@dataclass(slots=True)
class Progress:
    """What a running statement has read so far."""

    rows_read: int = 0
    bytes_read: int = 0


class Stream(Protocol):
    """A running SELECT."""

    progress: Progress

    def next(self) -> pa.RecordBatch | None:
        """Wait for the next rows; None at the end, after which there is nothing to close.

        Raises:
            EngineError: The engine failed, a limit was reached, or the statement was stopped.
        """
        ...

    def close(self) -> None:
        """Forget the rest. Only when no `next` is running. Idempotent."""
        ...


class Connection(Protocol):
    """One conversation with the engine. Not thread-safe; every method raises `EngineError`."""

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run a statement that has no result."""
        ...

    def table(self, sql: str, parameters: Parameters | None = None) -> pa.Table:
        """Run a SELECT whose small result is wanted whole, with its schema even where it has no rows."""
        ...

    def stream(self, sql: str, parameters: Parameters | None = None) -> Stream:
        """Start a SELECT."""
        ...

    def insert(self, table: str, batches: Sequence[pa.RecordBatch], settings: Settings) -> None:
        """Insert batches of one schema into a table's columns of the same names.

        Args:
            table: Quoted and qualified.
            batches: At least one.
            settings: At least one setting of the engine.
        """
        ...

    def close(self) -> None:
        """End the conversation. Idempotent."""
        ...


class Engine(Protocol):
    """Where connections come from."""

    def connect(self) -> Connection:
        """Open a connection.

        Raises:
            StoreError: The engine can't be reached or its folder is in use.
        """
        ...


def arrow_pieces(batches: Sequence[pa.RecordBatch]) -> Generator[bytes, None, None]:
    """Batches as one Arrow stream, in pieces of some MiB, so that a large insert is never copied whole."""
    sink = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            if sink.size_bytes >= _PIECE_BYTES:
                yield sink.take()
    yield sink.take()


class _Pieces:
    """Gathers what Arrow writes in small pieces."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self.size_bytes += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing waits here but what `take` hands out."""

    def take(self) -> bytes:
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self.size_bytes = 0
        return piece
