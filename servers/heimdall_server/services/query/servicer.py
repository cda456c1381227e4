"""The query service's RPCs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import pyarrow as pa
from google.rpc import status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import DrainingError, TokenError
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.status import ok_status, to_status
from heimdall_server.services.query import watch_model
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.logic.watch.stream import WatchUseCase
from heimdall_server.services.query.model import Rows
from heimdall_server.services.query.translate import messages, watches
from heimdall_server.services.query.translate.rows import RowEncoder

FIELDS_PAGE_DEFAULT: Final = 500
VALUES_PAGE_DEFAULT: Final = 20
_INLINE_BYTES_MAX: Final = 64 * 1024
"""Rows of more bytes than this become messages in a thread."""
_M = TypeVar("_M")

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
        self._encoders = ThreadPoolExecutor(2, thread_name_prefix="query-encode")

    async def Search(self, request: pb.SearchRequest, context: Context) -> AsyncIterator[pb.SearchResponse]:
        """See the contract."""
        asked = messages.search_in(request, self._journal_id)
        encoder = RowEncoder(request.row_encoding)
        async with aclosing(self._search.search(current_call().principal.uri, asked)) as answers:
            async for answer in answers:
                out = messages.answer_out(answer, encoder, tier=self._tier, journal_id=self._journal_id)
                large = isinstance(answer, Rows) and _is_large(answer.batch)
                async with aclosing(self._encoded(out, large=large)) as encoded:
                    async for message in encoded:
                        yield message

    async def Watch(
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """See the contract."""
        stream = self._watch.stream(current_call().principal.uri)
        requests = watches.requests_in(request_iterator)
        async with aclosing(stream.run(requests, self._drain.event)) as events:
            async for event in events:
                out = watches.event_out(event, journal_id=self._journal_id, status_of=_status_of)
                if watch_model.size_of(event) <= _INLINE_BYTES_MAX:
                    # Most are, and there are many: without another generator around each.
                    for message in out:
                        yield message
                    continue
                async with aclosing(self._encoded(out, large=True)) as encoded:
                    async for message in encoded:
                        yield message
        if self._drain.draining:
            raise DrainingError

    async def _encoded(self, out: Iterator[_M], *, large: bool) -> AsyncGenerator[_M, None]:
        """The messages, made in a thread where that takes longer than the loop may be held up."""
        if not large:
            for message in out:
                yield message
            return
        loop = asyncio.get_running_loop()
        while (made := await loop.run_in_executor(self._encoders, next, out, None)) is not None:
            yield made

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
        request_digest = _fields_digest(request)
        start = _offset_in(request.page_token, request_digest) if request.page_token else 0
        end = start + (request.page_size or FIELDS_PAGE_DEFAULT)
        return pb.ListFieldsResponse(
            fields=[messages.field_out(info) for info in fields[start:end]],
            next_page_token=_offset_out(end, request_digest) if end < len(fields) else "",
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


def _is_large(batch: pa.RecordBatch) -> bool:
    return int(batch.nbytes) > _INLINE_BYTES_MAX


def _fields_digest(request: pb.ListFieldsRequest) -> str:
    """What a page token is bound to: what is listed, however it is paged."""
    listed = pb.ListFieldsRequest(time_range=request.time_range, datasets=sorted(request.datasets))
    return hashlib.sha256(listed.SerializeToString(deterministic=True)).hexdigest()[:16]


def _offset_out(offset: int, request_digest: str) -> str:
    """A page token: how many fields came before; it says nothing secret, so it isn't MACed."""
    return base64.urlsafe_b64encode(f"{offset}:{request_digest}".encode()).decode()


def _offset_in(token: str, request_digest: str) -> int:
    try:
        offset, _, digest = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        start = int(offset)
    except ValueError as error:
        raise TokenError("it is damaged") from error
    if digest != request_digest:
        raise TokenError("it belongs to another request")
    if start < 0:
        raise TokenError("it is damaged")
    return start
