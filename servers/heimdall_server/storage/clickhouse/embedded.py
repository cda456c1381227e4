"""The engine inside this process: chDB on a folder that no other process may have open.

chDB's own calls are used, not a client on top of them: they stream (`send_query`), read Arrow tables in
place, report progress and take parameters, which is all that the seam needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlencode
from xml.sax.saxutils import escape

import chdb
import pyarrow as pa
from clickhouse_connect.driver.binding import format_bind_value

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.clickhouse.connection import (
    STORE_NAME,
    EngineError,
    Parameters,
    Progress,
    Settings,
)

# By default each cache may take some gigabytes, and what looks after memory wakes 20 times a second.
_OPTIONS: Final = {
    "memory_worker_period_ms": 500,
    "mark_cache_size": 256 << 20,
    "index_mark_cache_size": 128 << 20,
    "primary_index_cache_size": 128 << 20,
    "text_index_tokens_cache_size": 128 << 20,
    "text_index_header_cache_size": 128 << 20,
}

DISKS_FILE: Final = "disks.xml"
"""In a folder whose parts are encrypted: tells the engine where, and that they are."""
_KEY_VARIABLE: Final = "HEIMDALL_WARM_PART_KEY"
_SEALED: Final = "SELECT name FROM system.disks WHERE is_encrypted"
_DISKS: Final = f"""<clickhouse>
  <storage_configuration>
    <disks>
      <plain><type>local</type><path>{{path}}</path></plain>
      <sealed><type>encrypted</type><disk>plain</disk><algorithm>AES_256_CTR</algorithm><key_hex from_env="{_KEY_VARIABLE}"/></sealed>
    </disks>
    <policies><sealed><volumes><main><disk>sealed</disk></main></volumes></sealed></policies>
  </storage_configuration>
  <merge_tree><storage_policy>sealed</storage_policy></merge_tree>
</clickhouse>
"""


class ChdbEngine:
    """chDB on a folder."""

    def __init__(self, path: Path, *, memory_bytes_max: int = 4 << 30, key: bytes | None = None) -> None:
        """Name the folder; nothing is opened yet.

        Args:
            path: Made if it doesn't exist. One folder a process.
            memory_bytes_max: All that the engine may use, caches and merges included.
            key: 32 bytes by which the engine encrypts what it writes (AES-256-CTR), if the folder is new or was made with one; one
                that is older stays as it is. None: nothing is encrypted.
        """
        self.path = path
        self._key = key
        self._options: dict[str, str | int] = {"max_server_memory_usage": memory_bytes_max, **_OPTIONS}

    @property
    def encrypted(self) -> bool:
        """Whether the folder's parts are encrypted, or will be once it is made."""
        return (self.path / DISKS_FILE).exists() or (self._key is not None and self._is_new())

    @property
    def target(self) -> str:
        """As chDB names a folder and its options."""
        options = self._options
        if self.encrypted:
            options = {"config-file": str(self.path.resolve() / DISKS_FILE), **options}
        return f"{self.path.resolve()}?{urlencode(options)}"

    def connect(self) -> ChdbConnection:
        """Open a connection to the one engine of this process."""
        encrypted = self.encrypted
        self.path.mkdir(parents=True, exist_ok=True)
        if encrypted:
            if self._key is None:
                raise StoreError(STORE_NAME, f"{self.path} is encrypted, and there is no key for it")
            self._tell_disks()
            # The engine reads the key from here when it starts; no file and no argument has it.
            os.environ[_KEY_VARIABLE] = self._key.hex()
        try:
            connection = ChdbConnection(self.target)
        except RuntimeError as error:
            raise StoreError(STORE_NAME, f"the folder can't be opened: {EngineError(str(error)).detail}") from error
        finally:
            os.environ.pop(_KEY_VARIABLE, None)
        if encrypted and not len(connection.table(_SEALED)):
            # The engine passes over a configuration whose name it can't read, and would write in plain.
            connection.close()
            raise StoreError(
                STORE_NAME,
                f"{self.path} can't be encrypted: its name must hold no & and no %; or set warm.encrypted = false",
            )
        return connection

    def _tell_disks(self) -> None:
        """Say where the encrypted parts are; anew only if the folder has been moved."""
        file, text = self.path / DISKS_FILE, _DISKS.format(path=escape(f"{self.path.resolve()}/encrypted/"))
        if not file.exists() or file.read_text() != text:
            file.write_text(text)

    def _is_new(self) -> bool:
        return not self.path.exists() or not any(self.path.iterdir())


class ChdbConnection:
    """A handle of the process's engine.

    A handle whose SELECT failed or was killed is replaced at once: chDB 4.4 keeps what the failed
    statement had already written and puts it before the answer of the handle's next one.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._handle = chdb.connect(target)
        self._closed = False

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run a statement that has no result."""
        self._query(sql, "Null", parameters)

    def table(self, sql: str, parameters: Parameters | None = None) -> pa.Table:
        """Run a SELECT whose small result is wanted whole."""
        return pa.ipc.open_file(self._query(sql, "Arrow", parameters)).read_all()

    def stream(self, sql: str, parameters: Parameters | None = None) -> ChdbStream:
        """Start a SELECT."""
        progress = Progress()

        def watch(report: dict[str, int]) -> None:
            progress.rows_read = report["read_rows"]
            progress.bytes_read = report["read_bytes"]

        self.watch(watch)
        try:
            return ChdbStream(self, self._handle.send_query(sql, "Arrow", params=_bound(parameters)), progress)
        except RuntimeError as error:
            self.renew()
            raise EngineError(str(error)) from error

    def insert(self, table: str, batches: Sequence[pa.RecordBatch], settings: Settings) -> None:
        """Insert batches, read by the engine where they lie; committed when this returns.

        Not by `send_insert`: chDB 4.4 reports success, and the number of rows, even where the table
        refused the block (a constraint, too many partitions) and nothing was written.
        """
        records = pa.Table.from_batches(batches)  # noqa: F841 - the engine finds it by its name, in this frame
        columns = ", ".join(f"`{name}`" for name in batches[0].schema.names)
        clause = ", ".join(f"{name} = {format_bind_value(value, top_level=False)}" for name, value in settings.items())
        source = f"SELECT {columns} FROM Python(records) SETTINGS max_threads = 1, {clause}"  # noqa: S608 - our names
        sql = f"INSERT INTO {table} ({columns}) {source}"
        try:
            self._handle.query(sql, "Null")
        except RuntimeError as error:
            self.renew()
            raise EngineError(str(error)) from error

    def watch(self, callback: Callable[[dict[str, int]], None] | None) -> None:
        """Hear about the progress of the handle's statements, a few times a second; None: no more."""
        self._handle.set_progress_callback(callback)

    def renew(self) -> None:
        """Replace the handle; the new one is opened first, so that the engine never loses its last."""
        spoiled, self._handle = self._handle, chdb.connect(self._target)
        spoiled.close()

    def close(self) -> None:
        """End the conversation; the last one to end closes the engine."""
        if not self._closed:
            self._closed = True
            self._handle.close()

    def _query(self, sql: str, form: str, parameters: Parameters | None) -> bytes:
        try:
            return bytes(self._handle.query(sql, form, params=_bound(parameters)).bytes() or b"")
        except RuntimeError as error:
            self.renew()
            raise EngineError(str(error)) from error


class _Chunk(Protocol):
    def bytes(self) -> bytes: ...


class _Chunks(Protocol):
    """What chDB's untyped streams do."""

    def fetch(self) -> _Chunk | None: ...
    def cancel(self) -> None: ...


class ChdbStream:
    """A running SELECT of a handle."""

    def __init__(self, connection: ChdbConnection, result: _Chunks, progress: Progress) -> None:
        self._connection = connection
        self._result = result
        self._ended = False
        self.progress = progress

    def next(self) -> pa.RecordBatch | None:
        """Wait for the next block; each is an Arrow file of its own."""
        if self._ended:
            return None
        try:
            chunk = self._result.fetch()
        except RuntimeError as error:
            self._ended = True
            self._connection.renew()
            raise EngineError(str(error)) from error
        if chunk is None:
            self._ended = True
            self._connection.watch(None)
            return None
        reader = pa.ipc.open_file(chunk.bytes())
        if reader.num_record_batches == 1:
            return reader.get_batch(0)
        return reader.read_all().combine_chunks().to_batches()[0]

    def close(self) -> None:
        """Stop the statement if it still runs."""
        if self._ended:
            return
        self._ended = True
        self._connection.watch(None)
        try:
            self._result.cancel()
        except RuntimeError as error:
            self._connection.renew()
            raise EngineError(str(error)) from error


def _bound(parameters: Parameters | None) -> dict[str, str]:
    return {name: format_bind_value(value) for name, value in (parameters or {}).items()}
