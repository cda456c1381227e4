"""The HTTP interface of a ClickHouse server, thinly, over the chDB of this process.

Enough of it for clickhouse-connect: statements in the body or the URL, parameters, settings, inserts, errors with their
code. It proves the client's side of the remote adapter with the same SQL.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
from chdb._exceptions import ChdbError

_TRANSPORT = frozenset(
    {
        "query",
        "database",
        "session_id",
        "query_id",
        "wait_end_of_query",
        "client_protocol_version",
        "compress",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "send_progress_in_http_headers",
    }
)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: str

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().strip(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _form(self, body: bytes) -> dict[str, str]:
        """What is too long for an address comes as a form."""
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return {}
        parts = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).get_payload()
        found = {}
        for part in parts:
            assert isinstance(part, Message)
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found[str(part.get_param("name", header="Content-Disposition"))] = content.decode()
        return found

    def _answer(self, body: bytes) -> None:
        options = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)) | self._form(body)
        parameters = {name[6:]: value for name, value in options.items() if name.startswith("param_")}
        settings = {
            name: value for name, value in options.items() if name not in _TRANSPORT and not name.startswith("param_")
        }
        connection = chdb.connect(self.target)
        try:
            for name, value in settings.items():
                connection.query(f"SET {name} = '{value}'")
            status, answer, code = 200, self._run(connection, options.get("query", ""), body, parameters), ""
        except (ChdbError, RuntimeError) as error:
            status, answer = 500, str(error).encode()
            found = _CODE.search(str(error))
            code = found.group(1) if found else "0"
        finally:
            connection.close()
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            if code:
                self.send_header("X-ClickHouse-Exception-Code", code)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    @staticmethod
    def _run(connection: Any, sql: str, body: bytes, parameters: dict[str, str]) -> bytes:
        if sql.lstrip().upper().startswith("INSERT") and _FORMAT.search(sql):
            with tempfile.NamedTemporaryFile() as file:
                file.write(body)
                file.flush()
                source = f" FROM INFILE '{file.name}' FORMAT "
                connection.query(_FORMAT.sub(lambda found: source + found.group(1), sql))
            return b""
        text = sql or body.decode()
        found = _FORMAT.search(text)
        answer = connection.query(text, found.group(1) if found else "TabSeparated", params=parameters)
        return bytes(answer.bytes() or b"")


@contextlib.contextmanager
def served(target: str) -> Iterator[int]:
    """Serve the chDB of a connection string; gives the port."""
    handler = type("Handler", (_Handler,), {"target": target})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
