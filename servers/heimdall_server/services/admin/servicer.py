"""The admin service's RPCs."""

from __future__ import annotations

import base64
from typing import Any, TypeAlias

import grpc

from heimdall.admin.v1 import admin_service_pb2 as pb
from heimdall.admin.v1 import admin_service_pb2_grpc as pb_grpc
from heimdall.admin.v1 import database_pb2
from heimdall_server.domain.errors import TokenError, UnimplementedError
from heimdall_server.ports.database_health import DatabaseHealth
from heimdall_server.services.admin import database_translate, translate
from heimdall_server.services.admin.logic import AdminUseCase

PAGE_SIZE_DEFAULT = 100


Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(pb_grpc.AdminServiceServicer):
    """See the contract."""

    def __init__(self, use_case: AdminUseCase, database: DatabaseHealth | None = None) -> None:
        """Serve.

        Args:
            use_case: What is behind the calls.
            database: PostgreSQL's health; None: this process has none.
        """
        self._use_case = use_case
        self._database = database

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """See the contract."""
        return translate.status_out(await self._use_case.status())

    async def GetConfig(self, request: pb.GetConfigRequest, context: Context) -> pb.GetConfigResponse:
        """See the contract."""
        toml, version, files = self._use_case.config_toml()
        return pb.GetConfigResponse(toml=toml, version=version, file_names=files)

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """See the contract."""
        after = _name_in(request.page_token) if request.page_token else ""
        size = request.page_size or PAGE_SIZE_DEFAULT
        states = [s for s in await self._use_case.datasets() if s.dataset.name > after]
        page = states[:size]
        more = len(states) > size
        return pb.ListDatasetsResponse(
            datasets=[translate.dataset_out(state) for state in page],
            next_page_token=base64.urlsafe_b64encode(page[-1].dataset.name.encode()).decode() if more else "",
        )

    async def ReportIndexes(
        self, request: database_pb2.ReportIndexesRequest, context: Context
    ) -> database_pb2.ReportIndexesResponse:
        """See the contract."""
        return database_translate.report_out(await self._watched("ReportIndexes").indexes())

    async def ListSlowStatements(
        self, request: database_pb2.ListSlowStatementsRequest, context: Context
    ) -> database_pb2.ListSlowStatementsResponse:
        """See the contract."""
        return database_translate.slow_out(self._watched("ListSlowStatements"), request)

    def _watched(self, method: str) -> DatabaseHealth:
        if self._database is None:
            raise UnimplementedError(method)
        return self._database


def _name_in(token: str) -> str:
    """The name behind a page token; a name is no secret, so it isn't MACed."""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except ValueError as error:
        raise TokenError("it is damaged") from error
