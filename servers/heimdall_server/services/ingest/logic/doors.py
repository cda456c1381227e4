"""The doors by which whole requests come in: what each is called, and how its bytes become records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.decode import documents, otlp
from heimdall_server.decode.otlp import OtlpDecoded
from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind


@dataclass(frozen=True, slots=True)
class Door:
    """How requests of one protocol are read."""

    name: str
    """First part of the records' source, and a label of metrics."""
    format: Format
    """What a request's bytes are, for whoever retries a dead letter."""
    decode: Callable[[Sequence[bytes], DecodeContext], OtlpDecoded]
    """Requests, in order, to records; runs in a worker thread."""
    digest_salt: bytes = b""
    """Keeps equal bytes that came by different doors apart."""


def _otlp(payloads: Sequence[bytes], context: DecodeContext) -> OtlpDecoded:
    return otlp.decode(payloads, context)


OTLP: Final = Door("otlp", Format(FormatKind.OTLP), _otlp)
"""`ExportLogsServiceRequest` in protobuf, by gRPC or HTTP."""
ELASTIC: Final = Door("elastic", Format(FormatKind.NDJSON), documents.decode, b"elastic\0")
"""The documents of an Elasticsearch `_bulk`, a line each."""
LOKI: Final = Door("loki", Format(FormatKind.NDJSON), documents.decode, b"loki\0")
"""The entries of a Loki push, a JSON object a line each."""
