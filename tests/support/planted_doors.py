"""Takes planted values in through every door and format: in bodies, attributes, names, resources, names of dumps, and in lines that can't be read.

Whatever a door answers is kept: an answer may say too much as well.
"""

from __future__ import annotations

import base64
import csv
import http.client
import io
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pyarrow as pa

from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from heimdall_server.crypto.certificate_files import key_path
from tests.support.frames_out import OWN_WORDS, error_bytes
from tests.support.kill_load import EXPORT
from tests.support.planted import HIDDEN_KINDS, HOST_KINDS, SHORT_KINDS, Planted, Value
from tests.support.planted_otlp import otlp_request
from tests.support.server_process import ServerProcess

_ANSWER_S: Final = 30.0
_BAD_REQUEST: Final = 400
_STAMP: Final = "2026-11-01T10:00:00Z"


@dataclass
class Doors:
    """All ways into a server."""

    server: ServerProcess
    client: Client
    planted: Planted
    folder: Path
    _connection: http.client.HTTPSConnection | None = None
    heard: list[tuple[str, list[bytes]]] = field(default_factory=list)
    """What each door answered, errors included."""

    def feed(self) -> None:
        """Everything, once."""
        try:
            for feed in self.all():
                feed()
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def all(self) -> tuple[Callable[[], None], ...]:
        """Each door's part."""
        return (
            self.ndjson,
            self.json_document,
            self.csv,
            self.text,
            self.logfmt,
            self.arrow,
            self.sdk,
            self.files,
            self.otlp,
            self.otlp_http,
            self.bulk,
            self.loki,
            self.syslog,
            self.nonsense,
        )

    def again(self, when: str) -> None:
        """Something of everything, once more."""
        rows = [{"message": value.text, "note": other.text} for value, other in zip(
            self.planted.take_all(f"{when}: body"), self.planted.take_all(f"{when}: attribute"), strict=True
        )]  # fmt: skip
        self._append("ndjson", b"".join(json.dumps(row).encode() + b"\n" for row in rows), source=when)
        for value in self.planted.take_all(f"{when}: dead letter", SHORT_KINDS):
            self._append("ndjson", f'{{"message": "{value.text}", broken\n'.encode())

    def objects(self, door: str) -> list[dict[str, Any]]:
        """Records as JSON objects, a value in each."""
        rows: list[dict[str, Any]] = []
        take = self.planted.take_all
        rows += [{"message": value.text} for value in take(f"{door}: body")]
        rows += [{"message": "of a note", "note": value.text} for value in take(f"{door}: attribute")]
        rows += [{"message": "named", value.field: value.bare} for value in take(f"{door}: named attribute")]
        rows += [{"message": "deep", "a": {"b": [{"note": value.text}]}} for value in take(f"{door}: nested")]
        rows += [{"message": "keyed", value.text: "x"} for value in take(f"{door}: attribute name")]
        for name in ("service", "host", "event_name", "scope_name", "level"):
            kinds = HOST_KINDS if name == "host" else SHORT_KINDS
            rows += [{"message": "named", name: value.bare} for value in take(f"{door}: {name}", kinds)]
        return rows

    def ndjson(self) -> None:
        """Lines of JSON; numbers, disguises, and lines that aren't JSON besides."""
        rows = self.objects("ndjson")
        for kind in ("card", "bank_account", "national_id/pesel"):
            value = self.planted.take(kind, "ndjson: number")
            rows.append({"message": "number", value.field: int(value.bare)})
        for name, hide in _DISGUISES.items():
            hidden = self.planted.take_all(f"ndjson: {name}", HIDDEN_KINDS)
            rows += [{"message": "hidden", "note": hide(value)} for value in hidden]
        lines = [json.dumps(row).encode() for row in rows]
        lines += [
            f'{{"message": "{value.text}", broken'.encode() for value in self.planted.take_all("ndjson: dead letter")
        ]
        lines += [
            b'{"message": "' + value.text.encode() + b' \xff\xfe"}'
            for value in self.planted.take_all("ndjson: not UTF-8")
        ]
        self._append("ndjson", b"\n".join(lines) + b"\n")

    def json_document(self) -> None:
        """One array of objects, and one that breaks off."""
        self._append("json", json.dumps(self.objects("json")).encode())
        broken = json.dumps([{"message": value.text} for value in self.planted.take_all("json: dead letter")])
        self._append("json", broken[:-2].encode() + b" broken")

    def csv(self) -> None:
        """A table with a column for each kind, rows that don't fit it, and a column named by a value."""
        kinds = self.planted.kinds
        named = self.planted.take_all("csv: named column")
        texts = self.planted.take_all("csv: column")
        columns = [f"c{number}" for number in range(len(kinds))]
        keys = self.planted.take_all("csv: header")
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["time", "message", *(f"n{n}.{one.field}" for n, one in enumerate(named)), *columns])
        writer.writerow([_STAMP, "full row", *(one.bare for one in named), *(one.text for one in texts)])
        for value in self.planted.take_all("csv: body"):
            writer.writerow([_STAMP, value.text, *([""] * (2 * len(kinds)))])
        for value in self.planted.take_all("csv: dead letter"):
            writer.writerow([_STAMP, "too", "few", value.text])
        self._append("csv", out.getvalue().encode())
        out = io.StringIO()
        csv.writer(out).writerows(
            [["time", "message", *(one.text for one in keys)], [_STAMP, "m", *("x" for _ in keys)]]
        )
        self._append("csv", out.getvalue().encode(), source="csv-header")

    def text(self) -> None:
        """Lines with a stamp and a level."""
        lines = [f"{_STAMP} INFO {value.text}" for value in self.planted.take_all("text: body")]
        lines += [f"    at {value.text}" for value in self.planted.take_all("text: continued")]
        self._append("text", "\n".join(lines).encode() + b"\n")

    def logfmt(self) -> None:
        """Pairs of name and value."""
        lines = [f'ts={_STAMP} level=info msg="{value.text}"' for value in self.planted.take_all("logfmt: body")]
        lines += [
            f'ts={_STAMP} level=info msg=m note="{value.text}"' for value in self.planted.take_all("logfmt: attribute")
        ]
        lines += [
            f'ts={_STAMP} level=info msg=m {value.field}="{value.bare}"'
            for value in self.planted.take_all("logfmt: named attribute")
        ]
        self._append("text", "\n".join(lines).encode() + b"\n", source="logfmt")

    def arrow(self) -> None:
        """Columns."""
        values = {
            "message": self.planted.take_all("arrow: body"),
            "note": self.planted.take_all("arrow: attribute"),
            "service": self.planted.take_all("arrow: service"),
        }
        table = pa.table({name: [value.text for value in column] for name, column in values.items()})
        for number, value in enumerate(self.planted.take_all("arrow: named attribute")):
            table = table.append_column(f"n{number}.{value.field}", pa.array([value.bare] * table.num_rows))
        for value in self.planted.take_all("arrow: attribute name"):
            table = table.append_column(value.text, pa.array(["x"] * table.num_rows))
        with self.client.ingester("arrow", format="arrow") as ingester:
            ingester.append_arrow(table)
            self._hear("arrow", ingester.finish())

    def sdk(self) -> None:
        """Records of a program's own."""
        with self.client.record_ingester("sdk") as records:
            for value in self.planted.take_all("sdk: body"):
                records.log(value.text)
            for value in self.planted.take_all("sdk: attribute"):
                records.log("m", attributes={"note": value.text, "deep": {"x": [value.text]}})
            for value in self.planted.take_all("sdk: named attribute"):
                records.log("m", attributes={value.field: value.bare})
            for value in self.planted.take_all("sdk: service", HOST_KINDS):
                records.log("m", service=value.bare, host=value.bare)
            records.flush()

    def files(self) -> None:
        """Dumps and sources that are called by a value, defaults of a source, and one that is opened wrongly."""
        for number, kind in enumerate(SHORT_KINDS):
            dump, name, source, service = (
                self.planted.take(kind, f"file: {place}")
                for place in ("dump", "file name", "source", "default service")
            )
            file = self.folder / f"export {name.bare}.ndjson"
            file.write_text(json.dumps({"message": f"of a dump {number}"}) + "\n")
            self._try("file", partial(self.client.ingest_file, file, f"dumped-{number}", dump=dump.bare))
            self._try("file", partial(self.client.ingest_file, file))
            self._append("ndjson", b'{"message":"of a source"}\n', source=f"app/{source.bare}")
            self._append("ndjson", b'{"message":"of a service"}\n', source=f"default-{number}", service=service.bare)
            file.unlink()
        for value in self.planted.take_all("file: format option", SHORT_KINDS):
            self._append("text", b"x\n", source="wrong", format_options={"regex": f"({value.bare}"})
            self._append("text", b"x\n", source="wrong", dataset=value.bare)
            self._append("text", b"x\n", source="wrong", time_zone=value.bare)

    def otlp(self) -> None:
        """OTLP by gRPC, and what isn't OTLP."""
        with self._channel(self.server.otlp_address) as channel:
            call: Any = channel.unary_unary(EXPORT)
            for request in (otlp_request(self.planted, "otlp").SerializeToString(), self._broken("otlp: broken")):
                try:
                    self._hear("otlp", call(request, timeout=_ANSWER_S))
                except grpc.RpcError as error:
                    self._hear("otlp", error_bytes(error), refused=True)

    def otlp_http(self) -> None:
        """OTLP by HTTP: protobuf, JSON, and what is neither."""
        request = otlp_request(self.planted, "otlp/http")
        self._post("/v1/logs", request.SerializeToString(), "application/x-protobuf")
        records = [
            {"body": {"stringValue": value.text}, "attributes": [_json_pair("note", other.text)]}
            for value, other in zip(
                self.planted.take_all("otlp/json: body"), self.planted.take_all("otlp/json: attribute"), strict=True
            )
        ]
        resource = {
            "attributes": [_json_pair(f"note.{number}", value.text)
                           for number, value in enumerate(self.planted.take_all("otlp/json: resource"))]
        }  # fmt: skip
        document = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
        self._post("/v1/logs", json.dumps(document).encode(), "application/json")
        for value in self.planted.take_all("otlp/json: broken"):
            body = f'{{"resourceLogs": [{{"{value.text}": "{value.text}"'.encode()
            self._post("/v1/logs", body, "application/json")
        self._post("/v1/logs", self._broken("otlp/http: broken"), "application/x-protobuf")

    def bulk(self) -> None:
        """Elasticsearch's `_bulk`, documents that aren't JSON and actions that aren't known."""
        lines: list[str] = []
        for row in self.objects("bulk"):
            lines += ['{"index":{"_index":"logs"}}', json.dumps(row)]
        for value in self.planted.take_all("bulk: index", SHORT_KINDS):
            lines += [json.dumps({"create": {"_index": f"logs of {value.bare}"}}), '{"message":"of an index"}']
        for value in self.planted.take_all("bulk: dead letter"):
            lines += ['{"index":{}}', f'{{"message":"{value.text}", broken']
        for value in self.planted.take_all("bulk: update", SHORT_KINDS):
            lines += [json.dumps({"update": {"_index": "logs", "_id": value.bare}}), json.dumps({"doc": value.text})]
        self._post("/_bulk", "\n".join(lines).encode() + b"\n", "application/x-ndjson")
        broken = "\n".join(value.text for value in self.planted.take_all("bulk: broken"))
        self._post("/_bulk", broken.encode(), "application/x-ndjson")

    def loki(self) -> None:
        """Loki's push, and what isn't one."""
        now_ns = time.time_ns()
        bodies = self.planted.take_all("loki: body")
        notes = self.planted.take_all("loki: metadata")
        values = [
            [str(now_ns + n), body.text, {"note": note.text}]
            for n, (body, note) in enumerate(zip(bodies, notes, strict=True))
        ]
        streams = [{"stream": {"app": "shop"}, "values": values}]
        streams += [
            {"stream": {"note": value.text}, "values": [[str(now_ns), "labelled"]]}
            for value in self.planted.take_all("loki: label")
        ]
        streams += [
            {"stream": {"service_name": value.bare}, "values": [[str(now_ns), "of a service"]]}
            for value in self.planted.take_all("loki: service", SHORT_KINDS)
        ]
        self._post("/loki/api/v1/push", json.dumps({"streams": streams}).encode(), "application/json")
        for value in self.planted.take_all("loki: broken", SHORT_KINDS):
            wrong = {"streams": [{"stream": {"a": value.text}, "values": [[value.text, value.text]]}]}
            self._post("/loki/api/v1/push", json.dumps(wrong).encode(), "application/json")
            self._post("/loki/api/v1/push", f'{{"streams": "{value.text}'.encode(), "application/json")

    def syslog(self) -> None:
        """RFC 5424 and RFC 3164 by TLS, and frames that are neither."""
        messages = [f"<13>1 {_STAMP} web1 shop 7 - - {value.text}" for value in self.planted.take_all("syslog: body")]
        messages += [
            f'<13>1 {_STAMP} web1 shop 7 - [x@32473 note="{value.text}"] m'
            for value in self.planted.take_all("syslog: structured")
        ]
        for place in ("host", "app", "message id"):
            for value in self.planted.take_all(f"syslog: {place}", HOST_KINDS if place == "host" else SHORT_KINDS):
                names = {"host": "web1", "app": "shop", "message id": "-", place: value.bare}
                messages.append(f"<13>1 {_STAMP} {names['host']} {names['app']} 7 {names['message id']} - m")
        messages += [
            f"<13>Nov  3 10:00:00 web1 shop[12]: {value.text}" for value in self.planted.take_all("syslog: old")
        ]
        messages += [f"<999>{value.text}" for value in self.planted.take_all("syslog: priority")]
        addresses = [event["addresses"] for event in self.server.events() if event.get("event") == "syslog listening"]
        host, _, port = addresses[-1]["tls"].rpartition(":")
        context = self._context()
        frames = [message.encode() for message in messages]
        broken = self.planted.take("email", "syslog: frame").text.encode()
        for data in (b"".join(b"%d %b" % (len(frame), frame) for frame in frames), b"99999999999 " + broken):
            with socket.create_connection((host, int(port)), timeout=10) as plain:
                connection = context.wrap_socket(plain, server_hostname=host)
                connection.sendall(data)
                connection.unwrap().close()

    def nonsense(self) -> None:
        """Requests that nobody understands."""
        for value in self.planted.take_all("http: address", SHORT_KINDS):
            quoted = urllib.parse.quote(value.bare, safe="@+")
            self._post(f"/{quoted}", b"x", "text/plain")
            self._post(f"/v1/logs?user={quoted}", b"x", "application/json")
            self._post("/v1/logs", b"x", f"text/{quoted}", **{"user-agent": value.bare, "x-user": value.bare})

    def _append(self, format_: str, data: bytes, *, source: str = "", **options: Any) -> None:
        def append() -> Any:
            with self.client.ingester(name, format=format_, **options) as ingester:
                ingester.write(data)
                return ingester.finish(timeout_s=_ANSWER_S)

        name = source or f"{format_}-{len(self.heard)}"
        self._try(name, append)

    def _try(self, door: str, act: Callable[[], Any]) -> None:
        try:
            self._hear(door, act())
        except HeimdallError as error:
            self._hear(door, error, refused=True)

    def _hear(self, door: str, answer: object, *, refused: bool = False) -> None:
        name = f"a refusal of {door}" if refused else f"{OWN_WORDS} {door}"
        self.heard.append((name, [answer if isinstance(answer, bytes) else repr(answer).encode()]))

    def _broken(self, where: str) -> bytes:
        """Bytes that begin as a request does, with values in them."""
        texts = b"".join(value.text.encode() for value in self.planted.take_all(where))
        return b"\x0a\xff\xff\x03\x12" + texts

    def _channel(self, address: str) -> grpc.Channel:
        return grpc.secure_channel(address, self.server.credentials("writer"))

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.server.pki.ca_file))
        certificate = self.server.certs / "writer.pem"
        context.load_cert_chain(certificate, key_path(certificate))
        return context

    def _post(self, path: str, body: bytes, media_type: str, **headers: str) -> None:
        connection = self._connection = self._connection or self._connect()
        try:
            connection.request("POST", path, body, {"content-type": media_type, **headers})
            response = connection.getresponse()
        except (http.client.HTTPException, OSError):  # it was closed behind the answer before
            self._connection = None
            if connection.sock is None:
                raise
            connection.close()
            self._post(path, body, media_type, **headers)
            return
        told = f"{response.status} {response.headers}".encode() + response.read()
        self._hear(f"POST {path.partition('?')[0][:12]}", told, refused=response.status >= _BAD_REQUEST)

    def _connect(self) -> http.client.HTTPSConnection:
        host, _, port = self.server.http_address.rpartition(":")
        return http.client.HTTPSConnection(host, int(port), context=self._context(), timeout=_ANSWER_S)


def _json_pair(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


_DISGUISES: Final[Mapping[str, Callable[[Value], str]]] = {
    "URL-encoded": lambda value: f"q={urllib.parse.quote(value.bare, safe='')}",
    "base64": lambda value: base64.b64encode(value.text.encode()).decode(),
    "JSON in a string": lambda value: json.dumps({"note": value.text}),
    "JSON in JSON": lambda value: json.dumps(json.dumps({"note": value.text})),
}
