"""The asynchronous client: one object for everything that a Heimdall server offers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from heimdall.admin.v1 import admin_service_pb2
from heimdall_client.config import load_config
from heimdall_client.connection import UNARY_TIMEOUT_S
from heimdall_client.curation_calls import CurationCalls
from heimdall_client.database_calls import DatabaseCalls
from heimdall_client.graph_calls import GraphCalls
from heimdall_client.graph_dump_calls import GraphDumpCalls
from heimdall_client.graph_hunt_calls import GraphHuntCalls
from heimdall_client.graph_view_calls import GraphViewCalls
from heimdall_client.ingest_calls import IngestCalls
from heimdall_client.interchange_calls import InterchangeCalls
from heimdall_client.privacy_calls import PrivacyCalls
from heimdall_client.query_calls import QueryCalls

PAGE_SIZE: Final = 1000


class AsyncClient(
    IngestCalls,
    QueryCalls,
    PrivacyCalls,
    GraphCalls,
    GraphViewCalls,
    GraphHuntCalls,
    GraphDumpCalls,
    CurationCalls,
    InterchangeCalls,
    DatabaseCalls,
):
    """A client of one or several Heimdall servers. Made by `connect_async`; use it as a context manager.

    All methods may be used at once from one event loop. Errors are those of `heimdall_client.errors`.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client:
        ...         summary = await client.ingest_file("app.log", service="api")
        ...         table = await client.search("timeout", at_least=summary.position).to_arrow()
        ...         print(table.num_rows)
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def status(self) -> admin_service_pb2.GetStatusResponse:
        """Which services run, how healthy the stores are, how far each projection is behind."""
        return await self._unary(self._admin.GetStatus, admin_service_pb2.GetStatusRequest())

    async def config(self) -> admin_service_pb2.GetConfigResponse:
        """The server's configuration in force, secrets redacted."""
        return await self._unary(self._admin.GetConfig, admin_service_pb2.GetConfigRequest())

    async def datasets(self) -> list[admin_service_pb2.Dataset]:
        """The datasets with their retention and what they hold, by name."""
        found: list[admin_service_pb2.Dataset] = []
        token = ""
        while True:
            request = admin_service_pb2.ListDatasetsRequest(page_size=PAGE_SIZE, page_token=token)
            page = await self._unary(self._admin.ListDatasets, request)
            found += page.datasets
            token = page.next_page_token
            if not token:
                return found


def connect_async(
    address: str | None = None,
    *,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
    config_file: str | Path | None = None,
    timeout_s: float = UNARY_TIMEOUT_S,
) -> AsyncClient:
    """Make an asynchronous client from the same configuration as the `heimdall` command.

    Nothing is sent before the first call.

    Args:
        address: See `ClientConfig.address`; None: from file or environment, as the other files.
        ca_file: PEM of the CA that signed the server's certificate.
        cert_file: PEM of the client's certificate.
        key_file: PEM of its key.
        config_file: Read this file instead of looking for `.heimdall/client.toml`.
        timeout_s: For each unary call, retries included.

    Raises:
        ConfigError: Nothing was found, or it can't be used; all problems at once.

    Example:
        >>> async def main():
        ...     async with heimdall_client.connect_async() as client:
        ...         print((await client.status()).version)
    """
    config = load_config(
        address=address, ca_file=ca_file, cert_file=cert_file, key_file=key_file, config_file=config_file
    )
    return AsyncClient(config, timeout_s=timeout_s)
