"""Requests of JSON documents, a line each → records, with the number that each request had.

What `_bulk` and Loki's push are turned into at the edge: lines that hold no blank one, so that a document's place is its
line. The lines themselves are NDJSON's to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heimdall_server.decode.json_lines import decode_lines
from heimdall_server.decode.otlp import OtlpDecoded
from heimdall_server.domain.decoding import DecodeContext

_NEWLINE: Final = b"\n"


def decode(payloads: Sequence[bytes], context: DecodeContext) -> OtlpDecoded:
    """Decode requests.

    Args:
        payloads: Lines, each ended by a newline, none of them blank.
        context: What is said about the records besides.

    Returns:
        Good records of all requests in order, and the bad lines; `counts` has both.
    """
    decoded = decode_lines(b"".join(payloads), context)
    return OtlpDecoded(decoded, [payload.count(_NEWLINE) for payload in payloads], [None] * len(payloads))
