"""A ClickHouse server over HTTP, by clickhouse-connect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import IOBase
from typing import cast

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.clickhouse.connection import (
    STORE_NAME,
    EngineError,
    Parameters,
    Progress,
    Settings,
    arrow_pieces,
)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is and who asks."""

    host: str
    port: int = 8123
    username: str = "default"
    password: str = field(default="", repr=False)
    secure: bool = False
    """TLS; `ca_file` names the authority, else the system's."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    connect_timeout_s: int = 10
    read_timeout_s: int = 300
    """Longest silence of a statement, above every query's own limit."""


class RemoteEngine:
    """A server."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address

    def connect(self) -> RemoteConnection:
        """Open a client of its own: a client is one conversation."""
        to = self.address
        try:
            client = clickhouse_connect.get_client(
                host=to.host,
                port=to.port,
                username=to.username,
                password=to.password,
                secure=to.secure,
                ca_cert=to.ca_file or None,
                client_cert=to.cert_file or None,
                client_cert_key=to.key_file or None,
                connect_timeout=to.connect_timeout_s,
                send_receive_timeout=to.read_timeout_s,
                autogenerate_session_id=False,
                query_retries=0,
            )
        except (ClickHouseError, OSError) as error:
            raise StoreError(STORE_NAME, f"no connection: {EngineError(str(error)).detail}") from error
        return RemoteConnection(client)


class RemoteConnection:
    """A client of the server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run a statement that has no result."""
        try:
            self._client.command(sql, parameters=dict(parameters or {}))
        except (ClickHouseError, OSError) as error:
            raise EngineError(str(error)) from error

    def table(self, sql: str, parameters: Parameters | None = None) -> pa.Table:
        """Run a SELECT whose small result is wanted whole."""
        try:
            answer = self._client.raw_query(sql, parameters=dict(parameters or {}), fmt="ArrowStream")
            return pa.ipc.open_stream(answer).read_all()
        except (ClickHouseError, OSError, pa.ArrowInvalid) as error:
            raise EngineError(str(error)) from error

    def stream(self, sql: str, parameters: Parameters | None = None) -> RemoteStream:
        """Start a SELECT."""
        try:
            source = self._client.raw_stream(sql, parameters=dict(parameters or {}), fmt="ArrowStream")
            return RemoteStream(cast("IOBase", source))
        except (ClickHouseError, OSError) as error:
            raise EngineError(str(error)) from error

    def insert(self, table: str, batches: Sequence[pa.RecordBatch], settings: Settings) -> None:
        """Send batches in one request; committed when this returns."""
        names = batches[0].schema.names
        try:
            self._client.raw_insert(table, names, arrow_pieces(batches), settings=dict(settings), fmt="ArrowStream")
        except (ClickHouseError, OSError) as error:
            raise EngineError(str(error)) from error

    def close(self) -> None:
        """Close the client's sockets."""
        self._client.close()


class RemoteStream:
    """An answer that is still coming."""

    def __init__(self, source: IOBase) -> None:
        # HTTP tells what was read only in headers, before the first row: progress stays zero here.
        self.progress = Progress()
        self._source = source
        self._reader: pa.RecordBatchStreamReader | None = None

    def next(self) -> pa.RecordBatch | None:
        """Wait for the next batch."""
        try:
            if self._reader is None:
                self._reader = pa.ipc.open_stream(self._source)
            while True:
                batch = self._reader.read_next_batch()
                if batch.num_rows:
                    return batch
        except StopIteration:
            self.close()
            return None
        except (ClickHouseError, OSError, pa.ArrowInvalid) as error:
            self.close()
            raise EngineError(str(error)) from error

    def close(self) -> None:
        """Hang up."""
        self._source.close()
