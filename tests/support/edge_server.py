"""The HTTP edge over real TLS, beside gRPC's ports on the same journal, and a plain HTTP client of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from heimdall_server.crypto.certificate_files import key_path
from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.http import tokens
from heimdall_server.edge.http.server import HttpServer
from heimdall_server.edge.http.wiring import make_doors, make_http_server
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.tls_files import TlsFiles
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.wiring.clock import SystemClock
from tests.support.ingest_server import IngestServer, ingest_server
from tests.support.pki import TRUST_DOMAIN, Pki

ADMIN = "admin"


@dataclass
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


@dataclass
class Edge:
    """A running edge, and clients of it."""

    pki: Pki
    http: HttpServer
    ingest: IngestServer
    tokens: dict[str, str] = field(default_factory=dict)
    """Name → token."""

    def context(self, client: str | None) -> ssl.SSLContext:
        """A client's TLS; None: without a certificate."""
        context = ssl.create_default_context(cafile=str(self.pki.ca_file))
        if client is not None:
            path = self.pki.folder / f"{client}.pem"
            if not path.exists():
                self.pki.write(client, self.pki.leaf(client))
            context.load_cert_chain(path, key_path(path))
        return context

    def connection(self, client: str | None = ADMIN) -> HTTPSConnection:
        """A connection that isn't opened yet."""
        host, _, port = self.http.address.rpartition(":")
        return HTTPSConnection(host, int(port), context=self.context(client), timeout=20)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | str = b"",
        *,
        client: str | None = ADMIN,
        content_type: str = "",
        packed: str = "",
        **headers: str,
    ) -> Reply:
        """Send one request on a connection of its own; `packed` names an encoding to use."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type:
            named["content-type"] = content_type
        if packed:
            named["content-encoding"] = packed
            data = gzip.compress(data) if packed == "gzip" else zlib.compress(data)
        return await asyncio.to_thread(self._send, method, path, data, client, named)

    def _send(self, method: str, path: str, body: bytes, client: str | None, headers: dict[str, str]) -> Reply:
        connection = self.connection(client)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, told, response.read())
        finally:
            connection.close()


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 8.0) -> None:
    """Ask again until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"it doesn't hold after {timeout_s:g} s")
        await asyncio.sleep(0.05)


def write_tokens(path: Path, *names: str) -> dict[str, str]:
    """Write a tokens file; name → token."""
    made = {name: tokens.mint() for name in names}
    text = "".join(
        f'[tokens.{name}]\nsha256 = "{digest}"\nprincipal = "spiffe://{TRUST_DOMAIN}/client/{name}"\n'
        for name, (_, digest) in made.items()
    )
    path.touch(mode=0o600)
    path.write_text(text)
    return {name: token for name, (token, _) in made.items()}


@asynccontextmanager
async def edge_server(
    pki: Pki, folder: Path, *, files: TlsFiles | None = None, http: Mapping[str, Any] | None = None, **ingest: Any
) -> AsyncIterator[Edge]:
    """An edge on the journal in `folder`, with the token `agent` where certificates are optional."""
    options = dict(http or {})
    made: dict[str, str] = {}
    if options.get("client_certificate") == "optional":
        options["tokens_file"] = folder / "tokens.toml"
        made = write_tokens(options["tokens_file"], "agent")
    config = HttpConfig(**options)
    async with ingest_server(pki, folder, **ingest) as running:
        clock = ingest.get("clock") or SystemClock()
        shared: dict[str, Any] = {
            "pipeline": running.pipeline,
            "state": running.state,
            "clock": clock,
            "keep_raw": True,
        }
        export = ExportUseCase(dataset="logs", **shared)
        server = make_http_server(
            "127.0.0.1:0",
            make_doors(export, config=config, **shared),
            files or pki.tls_files(),
            AccessPolicy.default(TRUST_DOMAIN),
            config,
            running.rpc,
        )
        await server.start()
        try:
            yield Edge(pki, server, running, made)
        finally:
            await server.stop()
