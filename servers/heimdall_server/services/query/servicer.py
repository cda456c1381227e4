"""The query service's RPCs."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.rpc import status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import DrainingError, TokenError
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.status import ok_status, to_status
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.logic.watch.stream import WatchUseCase
from heimdall_server.services.query.translate import messages, watches

FIELDS_PAGE_DEFAULT = 500
VALUES_PAGE_DEFAULT = 20


Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class QueryServicer(pb_grpc.QueryServiceServicer):
    """See the contract."""

    def __init__(
        self,
        *,
        search: SearchUseCase,
        watch: WatchUseCase,
        catalogue: CatalogueUseCase,
        tier: str,
        journal_id: str,
        drain: Drain,
    ) -> None:
        self._search = search
        self._watch = watch
        self._catalogue = catalogue
        self._tier = tier
        self._journal_id = journal_id
        self._drain = drain

    async def Search(self, request: pb.SearchRequest, context: Context) -> AsyncIterator[pb.SearchResponse]:
        """See the contract."""
        asked = messages.search_in(request, self._journal_id)
        async with aclosing(self._search.search(current_call().principal.uri, asked)) as answers:
            async for answer in answers:
                for message in messages.answer_out(
                    answer, request.row_encoding, tier=self._tier, journal_id=self._journal_id
                ):
                    yield message

    async def Watch(
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """See the contract."""
        stream = self._watch.stream(current_call().principal.uri)
        requests = watches.requests_in(request_iterator)
        async with aclosing(stream.run(requests, self._drain.event)) as events:
            async for event in events:
                for message in watches.event_out(event, journal_id=self._journal_id, status_of=_status_of):
                    yield message
        if self._drain.draining:
            raise DrainingError

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """See the contract."""
        asked = messages.explain_in(request)
        explained = await self._search.explain(current_call().principal.uri, asked, analyze=request.analyze)
        return messages.explained_out(explained, tier=self._tier, journal_id=self._journal_id)

    async def ListFields(self, request: pb.ListFieldsRequest, context: Context) -> pb.ListFieldsResponse:
        """See the contract."""
        fields = await self._catalogue.fields(
            current_call().principal.uri, messages.time_range_in(request.time_range), tuple(request.datasets)
        )
        start = _offset_in(request.page_token) if request.page_token else 0
        end = start + (request.page_size or FIELDS_PAGE_DEFAULT)
        return pb.ListFieldsResponse(
            fields=[messages.field_out(info) for info in fields[start:end]],
            next_page_token=_offset_out(end) if end < len(fields) else "",
            sampled_count=max((info.sampled_count for info in fields), default=0),
        )

    async def ListFieldValues(self, request: pb.ListFieldValuesRequest, context: Context) -> pb.ListFieldValuesResponse:
        """See the contract."""
        found = await self._catalogue.values(
            current_call().principal.uri,
            request.field,
            messages.optional_question_in(request),
            messages.time_range_in(request.time_range),
            tuple(request.datasets),
            request.page_size or VALUES_PAGE_DEFAULT,
        )
        return pb.ListFieldValuesResponse(
            values=[messages.field_value_out(value) for value in found.values],
            record_count=found.record_count,
            distinct_count=found.distinct_count,
        )


def _status_of(error: BaseException | None) -> status_pb2.Status:
    return ok_status() if error is None else to_status(error)


def _offset_out(offset: int) -> str:
    """A page token: how many fields came before; it says nothing secret, so it isn't MACed."""
    return base64.urlsafe_b64encode(str(offset).encode()).decode()


def _offset_in(token: str) -> int:
    try:
        offset = int(base64.urlsafe_b64decode(token.encode()))
    except ValueError as error:
        raise TokenError("it is damaged") from error
    if offset < 0:
        raise TokenError("it is damaged")
    return offset
