"""Who is let in at the HTTP edge: certificates, tokens, permissions; and what a slow or greedy client may do."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.http.server import HttpServer
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles
from tests.service.edge.test_http_otlp import JSON, in_json
from tests.support.edge_server import Edge, Reply, edge_server, until, write_tokens
from tests.support.pki import Pki

OPTIONAL = {"client_certificate": "optional"}


@pytest.fixture
async def edge(pki: Pki, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_server(pki, tmp_path, http=OPTIONAL) as running:
        yield running


async def post(edge: Edge, body: str, *, client: str | None = None, authorization: str = "") -> Reply:
    headers = {"authorization": authorization} if authorization else {}
    return await edge.send("POST", "/v1/logs", body, client=client, content_type=JSON, **headers)


def basic(name: str, token: str, *, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'{name}:{token}'.encode()).decode()}"


async def test_a_token_names_its_caller_however_it_is_shown(edge: Edge) -> None:
    token = edge.tokens["agent"]
    shown = [
        f"Bearer {token}",
        f"bearer {token}",
        basic("agent", token),
        basic("agent", token, scheme="ApiKey"),
        f"ApiKey {base64.b64encode(b'agent:' + token.encode()).decode()}",
    ]
    for number, authorization in enumerate(shown):
        assert (await post(edge, in_json(f"r{number}"), authorization=authorization)).status == 200
    assert await edge.ingest.bodies_of("otlp/agent") == [f"r{number}" for number in range(5)]


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", "Basic !!!", "Basic YWdlbnQ=", "Digest x", basic("agent", "wrong"), basic("x", "")],
)
async def test_what_is_no_token_is_refused_and_told_how_to_come_in(edge: Edge, authorization: str) -> None:
    reply = await post(edge, in_json("no"), authorization=authorization)
    assert (reply.status, reply.json()["code"]) == (401, 16)
    assert "Basic" in reply.headers["www-authenticate"]
    assert await edge.ingest.frames() == []


async def test_basic_needs_the_name_that_goes_with_the_token(edge: Edge) -> None:
    assert (await post(edge, in_json("no"), authorization=basic("other", edge.tokens["agent"]))).status == 401


async def test_a_certificate_does_without_a_token_but_a_wrong_token_is_not_passed_over(edge: Edge) -> None:
    assert (await post(edge, in_json("a"), client="admin")).status == 200
    assert (await post(edge, in_json("b"), client="admin", authorization="Bearer wrong")).status == 401
    assert await edge.ingest.bodies_of("otlp/admin") == ["a"]


async def test_new_tokens_are_taken_up_and_a_broken_file_keeps_the_old_ones(edge: Edge, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    made = write_tokens(path, "agent", "second")

    async def taken_up() -> bool:
        return (await post(edge, in_json("x"), authorization=f"Bearer {made['second']}")).status == 200

    await until(taken_up)
    assert (await post(edge, in_json("x"), authorization=f"Bearer {edge.tokens['agent']}")).status == 401
    path.write_text("[tokens.x]\n")
    os.utime(path, ns=(1, 1))
    await asyncio.sleep(1.1)
    assert (await post(edge, in_json("x"), authorization=f"Bearer {made['second']}")).status == 200


async def test_a_caller_without_the_permission_is_refused(pki: Pki, edge: Edge) -> None:
    pki.write("outsider", pki.leaf("outsider", kind="instance"))
    reply = await post(edge, in_json("no"), client="outsider")
    assert (reply.status, reply.json()["code"]) == (403, 7)
    assert await edge.ingest.frames() == []


async def test_without_a_certificate_there_is_no_handshake_where_one_is_required(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path) as edge:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await post(edge, in_json("no"))
        assert (await post(edge, in_json("yes"), client="admin")).status == 200


async def test_a_certificate_of_a_stranger_or_one_taken_back_is_refused(pki: Pki, tmp_path: Path) -> None:
    denied = tmp_path / "denied"
    denied.write_text("")
    config = pki.tls_config()
    files = TlsFiles(TlsConfig(config.certificate_file, config.key_file, config.trust, denied))
    (tmp_path / "other").mkdir()
    stranger = Pki(tmp_path / "other")
    pki.write("stranger", stranger.leaf("admin"))
    leaf = pki.leaf("fired")
    pki.write("fired", leaf)
    async with edge_server(pki, tmp_path, files=files) as edge:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await post(edge, in_json("no"), client="stranger")
        connection = edge.connection("fired")

        def again() -> int:
            connection.request("POST", "/v1/logs", in_json("x"), {"content-type": JSON})
            response = connection.getresponse()
            response.read()
            return response.status

        assert await asyncio.to_thread(again) == 200
        denied.write_text(f"{leaf.certificate.serial_number:x}\n")

        async def taken_back() -> bool:
            return await asyncio.to_thread(again) == 401  # on the connection that is open

        await until(taken_back)
        connection.close()


async def test_tls_1_2_is_refused(edge: Edge) -> None:
    context = edge.context("admin")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = edge.http.address.rpartition(":")

    def connect() -> None:
        with socket.create_connection((host, int(port)), 10) as raw, context.wrap_socket(raw, server_hostname=host):
            pass

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(connect)


async def test_a_renewed_certificate_serves_the_next_connection(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path) as edge:
        host, _, port = edge.http.address.rpartition(":")
        context = edge.context("admin")

        def serial() -> int:
            with (
                socket.create_connection((host, int(port)), 10) as raw,
                context.wrap_socket(raw, server_hostname=host) as secured,
            ):
                return int(str((secured.getpeercert() or {})["serialNumber"]), 16)

        first = await asyncio.to_thread(serial)
        renewed = pki.server_leaf()
        pki.write("server", renewed)

        async def changed() -> bool:
            return await asyncio.to_thread(serial) != first

        await until(changed)
        assert await asyncio.to_thread(serial) == renewed.certificate.serial_number


async def _raw(edge: Edge, *sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = edge.http.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=edge.context("admin"))
    for part in sent:
        writer.write(part)
    await writer.drain()
    return reader, writer


async def _closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"POST /v1/logs HTT", b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"],
    ids=["nothing", "a line end", "half a head", "half a body"],
)
async def test_a_client_that_falls_silent_is_disconnected(pki: Pki, tmp_path: Path, sent: bytes) -> None:
    async with edge_server(pki, tmp_path, http={"head_s": 0.3, "body_s": 0.3}) as edge:
        reader, writer = await _raw(edge, sent)
        assert await _closed(reader) == b""
        writer.close()

        async def gone() -> bool:
            return edge.http.connection_count == 0

        await until(gone)
        assert edge.ingest.rpc.admission.call_count == 0
        assert edge.ingest.rpc.inflight.used_bytes == 0


async def test_a_head_over_the_limit_is_refused(edge: Edge) -> None:
    reader, writer = await _raw(edge, b"GET / HTTP/1.1\r\nhost: x\r\nlarge: " + b"x" * 20_000 + b"\r\n\r\n")
    assert (await _closed(reader)).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_connections_beyond_the_limit_wait_for_room(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path, http={"connections_max": 2}) as edge:
        held = [await _raw(edge) for _ in range(2)]
        waiting = asyncio.create_task(post(edge, in_json("later"), client="admin"))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        held[0][1].close()
        assert (await waiting).status == 200
        held[1][1].close()


async def test_a_hundred_silent_connections_cost_the_others_nothing(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path) as edge:
        host, _, port = edge.http.address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
        assert (await post(edge, in_json("served"), client="admin")).status == 200
        for _, writer in silent:
            writer.close()


async def test_stop_ends_idle_connections_and_a_taken_port_is_told(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path) as edge:
        reader, writer = await _raw(edge)
        twin = HttpServer(edge.http.address, None, pki.tls_files(), HttpConfig(), edge.ingest.rpc.limits)
        with pytest.raises(ConfigurationError, match="can't listen"):
            await twin.start()
        await edge.http.stop()
        assert await _closed(reader) == b""
        writer.close()
        assert edge.http.connection_count == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000,
    ],
)
async def test_what_is_no_http_ends_its_connection_only(pki: Pki, tmp_path: Path, sent: bytes) -> None:
    async with edge_server(pki, tmp_path, http={"head_s": 0.5, "body_s": 0.5, "idle_s": 1.0}) as edge:
        reader, writer = await _raw(edge, sent)
        answer = await _closed(reader)
        assert answer.count(b"HTTP/1.1 ") <= 20
        assert b" 500 " not in answer
        writer.close()
        assert (await post(edge, in_json("alive"), client="admin")).status == 200


async def test_a_handshake_that_never_ends_gives_its_room_back(pki: Pki, tmp_path: Path) -> None:
    limits = RpcLimits(handshake_s=0.3)
    async with edge_server(pki, tmp_path, http={"connections_max": 1}, limits=limits) as edge:
        host, _, port = edge.http.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        assert (await post(edge, in_json("served"), client="admin")).status == 200
        writer.close()
