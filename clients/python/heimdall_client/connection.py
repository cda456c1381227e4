"""What all parts of the client share: the channel, its stubs, and how unary calls are made."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf.message import Message

from heimdall.admin.v1 import admin_service_pb2_grpc
from heimdall.graph.v1 import curation_service_pb2_grpc, graph_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2_grpc
from heimdall.privacy.v1 import privacy_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_client import errors, status
from heimdall_client.channel import open_channel
from heimdall_client.config import ClientConfig

UNARY_TIMEOUT_S: Final = 30.0

_Answer = TypeVar("_Answer", bound=Message)


class Connection:
    """A lazily opened channel to the configured servers. Belongs to the event loop of its first call.

    Args:
        config: See `load_config`.
        timeout_s: For each unary call, retries included.
    """

    def __init__(self, config: ClientConfig, *, timeout_s: float = UNARY_TIMEOUT_S) -> None:
        self.connection = config
        """Where this client connects."""
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Hang up; what still runs on the client fails. Close ingesters, searches and watches first."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def _address(self) -> str:
        return self.connection.address

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            what = "client"
            raise errors.ClosedError(what)
        if self._channel is None:
            self._channel = open_channel(self.connection)
        return self._channel

    @property
    def _ingest(self) -> ingest_service_pb2_grpc.IngestServiceAsyncStub:
        return ingest_service_pb2_grpc.IngestServiceStub(self._open())

    @property
    def _query(self) -> query_service_pb2_grpc.QueryServiceAsyncStub:
        return query_service_pb2_grpc.QueryServiceStub(self._open())

    @property
    def _admin(self) -> admin_service_pb2_grpc.AdminServiceAsyncStub:
        return admin_service_pb2_grpc.AdminServiceStub(self._open())

    @property
    def _privacy(self) -> privacy_service_pb2_grpc.PrivacyServiceAsyncStub:
        return privacy_service_pb2_grpc.PrivacyServiceStub(self._open())

    @property
    def _graph(self) -> graph_service_pb2_grpc.GraphServiceAsyncStub:
        return graph_service_pb2_grpc.GraphServiceStub(self._open())

    @property
    def _curation(self) -> curation_service_pb2_grpc.CurationServiceAsyncStub:
        return curation_service_pb2_grpc.CurationServiceStub(self._open())

    async def _unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, _Answer],
        request: Message,
        *,
        timeout_s: float | None = None,
    ) -> _Answer:
        """Make a call; one that is refused with `RetryInfo` is made again while the deadline allows.

        Raises:
            RpcError: It failed, or there was no time for another try.
        """
        deadline_s = time.monotonic() + (timeout_s or self._timeout_s)
        while True:
            try:
                return await method(request, timeout=max(0.001, deadline_s - time.monotonic()))
            except grpc.aio.AioRpcError as error:
                problem = status.from_call(error, address=self._address)
                wait_s = problem.retry_after_s
                if wait_s is None or time.monotonic() + wait_s >= deadline_s:
                    raise problem from error
            await asyncio.sleep(wait_s)
