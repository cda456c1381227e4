"""What happens around each call, over real mutual TLS."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from prometheus_client import REGISTRY

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from heimdall.types.v1 import method_policy_pb2
from heimdall_server.domain.errors import (
    BudgetExceededError,
    OffsetGapError,
    StoreError,
    StreamLaggedError,
)
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.logs import JsonFormatter
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.rpc_server import Behaviour, details_of, get_status, info_of, serving, unpack_all

SearchResponse = query_service_pb2.SearchResponse
AppendRequest = ingest_service_pb2.AppendRequest
LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"


def question(text: str = "a") -> query_service_pb2.SearchRequest:
    return query_service_pb2.SearchRequest(question=query_service_pb2.Question(text=text))


def batch(offset: int, *, payload: bytes = b"x") -> AppendRequest:
    message = AppendRequest.Batch(offset=offset, next_offset=offset + len(payload), payload=payload)
    return AppendRequest(batch=message)


async def failed(call: Any) -> grpc.aio.AioRpcError:
    """The error of a unary or streaming call."""

    async def run() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await run()
    return caught.value


def query(channel: grpc.aio.Channel) -> Any:
    return query_service_pb2_grpc.QueryServiceStub(channel)


def ingest(channel: grpc.aio.Channel) -> Any:
    return ingest_service_pb2_grpc.IngestServiceStub(channel)


def raw(channel: grpc.aio.Channel, path: str, *, deserializer: Any = None) -> Any:
    """A unary method that is sent bytes."""
    return channel.unary_unary(path, response_deserializer=deserializer)


def events(log: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in log.records if record.getMessage() == event]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_domain_error_of_a_unary_call_has_reason_and_retry_delay(pki: Pki) -> None:
    async def refuse() -> Any:
        raise BudgetExceededError(1.5, "queries", 8)

    async with (
        serving(pki, Behaviour(get_status=refuse)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        error = await failed(get_status(channel))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = details_of(error)
    info = info_of(status)
    assert (info.domain, info.reason) == ("heimdall", "BUDGET_EXCEEDED")
    assert unpack_all(status, error_details_pb2.RetryInfo)[0].retry_delay.ToMilliseconds() == 1500
    assert unpack_all(status, error_details_pb2.QuotaFailure)[0].violations[0].subject == "queries"


async def test_error_raised_while_a_response_stream_is_iterated_is_mapped(pki: Pki) -> None:
    async def lag(_: Any) -> AsyncIterator[Any]:
        yield SearchResponse(schema=SearchResponse.Schema())
        bound = "too slow"
        raise StreamLaggedError(bound, b"token")

    async with (
        serving(pki, Behaviour(search=lag)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        call = query(channel).Search(question(), timeout=5)
        first = await call.read()
        error = await failed(call.read())
    assert first.HasField("schema")
    assert error.code() is grpc.StatusCode.ABORTED
    assert info_of(details_of(error)).metadata["resume_token"] == base64.b64encode(b"token").decode()


async def test_error_raised_in_a_task_group_of_a_stream_is_mapped(pki: Pki) -> None:
    async def gap(_: Any) -> AsyncIterator[Any]:
        async def fail() -> None:
            raise OffsetGapError("s", 1, 2)

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(5)
        yield SearchResponse()

    async with (
        serving(pki, Behaviour(search=gap)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        error = await failed(query(channel).Search(question(), timeout=5))
    assert info_of(details_of(error)).reason == "OFFSET_GAP"


async def test_bug_tells_the_client_nothing_but_the_request_id(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async def crash() -> Any:
        secret = {"alice@example.com": 1}
        return secret["bob@example.com"]

    async with (
        serving(pki, Behaviour(get_status=crash)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        error = await failed(get_status(channel, metadata=(("x-request-id", "abc-1"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    info = info_of(details_of(error))
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"request_id": "abc-1"})
    assert "bob" not in str(error.details())
    (event,) = events(caplog, "call failed")
    assert event["failure"]["type"] == "KeyError"
    assert any("crash" in frame for frame in event["failure"]["frames"])
    assert "example.com" not in str(event["failure"])


async def test_detail_of_an_engine_goes_to_the_log_only(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> Any:
        raise StoreError("warm", "disk is on fire")

    async with (
        serving(pki, Behaviour(get_status=fail)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        error = await failed(get_status(channel))
    assert "fire" not in str(error.details())
    assert "fire" not in str(details_of(error))
    (event,) = events(caplog, "call failed")
    assert "fire" in event["failure"]["text"]


async def test_broken_constraints_are_all_named_by_path(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        request = query_service_pb2.SearchRequest(row_limit=-1, resume_token=b"x" * 5000)
        error = await failed(query(channel).Search(request, timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (bad,) = unpack_all(details_of(error), error_details_pb2.BadRequest)
    assert {violation.field for violation in bad.field_violations} == {"question", "row_limit", "resume_token"}
    assert all(violation.description for violation in bad.field_violations)


async def test_broken_constraint_of_a_later_streamed_message_ends_the_stream(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        call = ingest(channel).Append(timeout=5)
        await call.write(batch(0))
        assert (await call.read()).ack.next_offset == 1
        await call.write(AppendRequest(batch=AppendRequest.Batch(offset=-1, payload=b"x")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    (bad,) = unpack_all(details_of(caught.value), error_details_pb2.BadRequest)
    assert [violation.field for violation in bad.field_violations] == ["batch.offset"]


async def test_bytes_that_are_no_message_are_an_invalid_argument(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        error = await failed(raw(channel, "/heimdall.admin.v1.AdminService/GetStatus")(b"\xff\xff", timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(details_of(error)).reason == "INVALID_ARGUMENT"


async def test_request_id_comes_back_and_reaches_handler_and_log(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen = []

    async def look() -> Any:
        seen.append(current_call())
        record = logging.makeLogRecord({"msg": "looked", "name": "t", "levelname": "INFO"})
        return admin_service_pb2.GetStatusResponse(version=JsonFormatter().format(record))

    async with (
        serving(pki, Behaviour(get_status=look)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        call = stub.GetStatus(admin_service_pb2.GetStatusRequest(), metadata=(("x-request-id", "r-7"),), timeout=5)
        line = json.loads((await call).version)
        trailers = dict(await call.trailing_metadata())
        made_up = stub.GetStatus(
            admin_service_pb2.GetStatusRequest(), metadata=(("x-request-id", "not good"),), timeout=5
        )
        await made_up
        other = dict(await made_up.trailing_metadata())
    assert trailers["x-request-id"] == "r-7"
    assert len(other["x-request-id"]) == 32
    assert (line["request_id"], line["principal"]) == ("r-7", f"spiffe://{TRUST_DOMAIN}/client/admin")
    assert seen[0].method == "heimdall.admin.v1.AdminService/GetStatus"
    assert 0 < (seen[0].remaining_s() or 0) <= 5


async def test_audited_call_leaves_an_audit_line_also_when_it_succeeds(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        await stub.GetConfig(admin_service_pb2.GetConfigRequest(), timeout=5)
        await get_status(channel)
    (event,) = [vars(record) for record in caplog.records if record.name == "heimdall.audit"]
    assert (event["method"], event["code"]) == ("heimdall.admin.v1.AdminService/GetConfig", "OK")


async def test_unknown_method_and_one_that_is_left_out_are_unimplemented_with_a_reason(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        for path in ("/heimdall.sync.v1.SyncService/Exchange", "/heimdall.admin.v1.AdminService/ListDatasets"):
            error = await failed(raw(channel, path)(b"", timeout=5))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert info_of(details_of(error)).reason == "UNIMPLEMENTED"
        assert 'method="Exchange"' not in str(list(REGISTRY.collect()))


async def test_hanging_up_closes_the_handlers_generator_at_once(pki: Pki) -> None:
    closed = asyncio.Event()

    async def forever(_: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield SearchResponse(progress=SearchResponse.Progress())
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async with serving(pki, Behaviour(search=forever)) as server:
        async with pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
            call = query(channel).Search(question(), timeout=60)
            await call.read()
            call.cancel()
            async with asyncio.timeout(20):
                await closed.wait()
        labels = {"service": "heimdall.query.v1.QueryService", "method": "Search"}
        assert await server.drain(2)
        assert sample("heimdall_rpc_in_flight", **labels) == 0


async def test_deadline_ends_the_handler(pki: Pki) -> None:
    ended = asyncio.Event()

    async def sleep() -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    labels = {"service": "heimdall.admin.v1.AdminService", "method": "GetStatus", "code": "DEADLINE_EXCEEDED"}
    before = sample("heimdall_rpc_requests_total", **labels)
    async with (
        serving(pki, Behaviour(get_status=sleep)) as server,
        pki.channel(server.mesh_address, pki.leaf("admin")) as channel,
    ):
        await channel.channel_ready()  # else a busy machine needs the time for the handshake
        error = await failed(get_status(channel, timeout=0.5))
        async with asyncio.timeout(20):
            await ended.wait()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert sample("heimdall_rpc_requests_total", **labels) == before + 1


async def test_streams_of_one_identity_are_bounded(pki: Pki) -> None:
    limits = RpcLimits(streams_per_peer_max=1)
    async with serving(pki, limits=limits) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        stub = ingest(channel)
        first = stub.Append(timeout=5)
        await first.write(batch(0))
        await first.read()
        error = await failed(stub.Append(timeout=5))
        assert info_of(details_of(error)).reason == "BUDGET_EXCEEDED"
        assert unpack_all(details_of(error), error_details_pb2.RetryInfo)
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        await get_status(channel)


async def test_draining_refuses_new_calls_and_lets_streams_finish(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        call = ingest(channel).Append(timeout=10)
        await call.write(batch(0))
        await call.read()
        draining = asyncio.create_task(server.drain(5))
        await asyncio.sleep(0)
        error = await failed(get_status(channel))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert info_of(details_of(error)).reason == "DRAINING"
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not draining.done()
        await call.write(batch(1))
        assert (await call.read()).ack.next_offset == 2
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await draining


async def test_large_unary_requests_share_the_budget_and_are_told_when_to_come_back(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        export = raw(channel, f"/{LOGS}/Export")
        with server.inflight.try_acquire(server.inflight.limit_bytes):
            error = await failed(export(b"x" * 100_000, timeout=5))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert unpack_all(details_of(error), error_details_pb2.RetryInfo)
        await export(b"x" * 100_000, timeout=5)
        assert server.inflight.used_bytes == 0


async def test_gzip_is_accepted_and_a_bomb_is_not(pki: Pki) -> None:
    request = logs_service_pb2.ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records
    record.extend([logs_pb2.LogRecord(severity_number=logs_pb2.SEVERITY_NUMBER_INFO)] * 20_000)
    plain = request.SerializeToString()
    limits = RpcLimits(message_bytes_max=1_000_000, message_inflated_bytes_max=1_000_000)
    async with serving(pki, limits=limits) as server, pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
        export = raw(channel, f"/{LOGS}/Export", deserializer=logs_service_pb2.ExportLogsServiceResponse.FromString)
        answer = await export(plain, timeout=5, compression=grpc.Compression.Gzip)
        assert answer.partial_success.error_message == str(len(plain))
        error = await failed(export(bytes(50_000_000), timeout=5, compression=grpc.Compression.Gzip))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "1000000 bytes after decompression" in str(error.details())
        lying = gzip.compress(bytes(2_000_000))[:-4] + (1000).to_bytes(4, "little")
        error = await failed(export(lying, timeout=5))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        stub = ingest(channel)
        call = stub.Append(timeout=5, compression=grpc.Compression.Gzip)
        await call.write(batch(0, payload=b"y" * 100_000))
        assert (await call.read()).ack.next_offset == 100_000


async def test_health_lists_and_watches_each_service(pki: Pki) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("nobody")) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=5)
        assert set(listed.statuses) == {
            "",
            "heimdall.admin.v1.AdminService",
            "heimdall.query.v1.QueryService",
            "heimdall.ingest.v1.IngestService",
            LOGS,
        }
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="heimdall.query.v1.QueryService"), timeout=5)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.health.set_serving("heimdall.query.v1.QueryService", serving=False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        error = await failed(stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5))
        assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_in_both_versions(pki: Pki, version: str) -> None:
    async with serving(pki) as server, pki.channel(server.mesh_address, pki.leaf("nobody")) as channel:
        call: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(timeout=5)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert {"heimdall.query.v1.QueryService", f"grpc.reflection.{version}.ServerReflection", LOGS} <= names
        for symbol in (f"grpc.reflection.{version}.ServerReflection", "heimdall.query.v1.QueryService"):
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
            assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()


def upload_handlers(server: Any) -> None:
    """A method of the shape that none of ours has: a stream in, one message out."""

    async def upload(requests: AsyncIterator[Any], _: Any) -> Any:
        offsets = [request.batch.offset async for request in requests]
        if 13 in offsets:
            raise OffsetGapError("s", 1, 13)
        return ingest_service_pb2.AppendResponse.Ack(next_offset=sum(offsets))

    handler: Any = grpc.stream_unary_rpc_method_handler(
        upload,
        request_deserializer=AppendRequest.FromString,
        response_serializer=ingest_service_pb2.AppendResponse.Ack.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("heimdall.test.v1.Upload", {"Put": handler}),)
    )


async def test_stream_with_one_answer_is_checked_and_mapped_like_any_other(pki: Pki) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="heimdall/test/v1/upload.proto", package="heimdall.test.v1")
    file.message_type.add(name="Nothing")
    method = file.service.add(name="Upload").method.add(name="Put", client_streaming=True)
    method.input_type = method.output_type = ".heimdall.test.v1.Nothing"
    method.options.Extensions[method_policy_pb2.policy].permission = "ingest.append"
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    server = RpcServer(ListenConfig("127.0.0.1:0", ""), pki.tls_files(), AccessPolicy.default(TRUST_DOMAIN))
    server.add("heimdall.test.v1.Upload", lambda _, target: upload_handlers(target), object())
    await server.start()
    try:
        async with pki.channel(server.mesh_address, pki.leaf("bo")) as channel:
            put: Any = channel.stream_unary(
                "/heimdall.test.v1.Upload/Put",
                request_serializer=AppendRequest.SerializeToString,
                response_deserializer=ingest_service_pb2.AppendResponse.Ack.FromString,
            )
            assert (await put(iter([batch(1), batch(2)]), timeout=5)).next_offset == 3
            assert info_of(details_of(await failed(put(iter([batch(13)]), timeout=5)))).reason == "OFFSET_GAP"
            error = await failed(put(iter([batch(1), AppendRequest()]), timeout=5))
            assert info_of(details_of(error)).reason == "INVALID_ARGUMENT"
    finally:
        await server.stop()
