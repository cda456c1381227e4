"""Syslog from many senders, decoded together: a server hears a little from each of many, and a chunk costs by itself.

Each record gets its sender's source and identity, and its sender's address as an attribute and, where it names no host, as its host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.decode import lines, syslog
from heimdall_server.decode.line_records import Fields, decode_records
from heimdall_server.domain.decoding import DecodeContext, RowError

PEER_ATTRIBUTE: Final = "network.peer.address"
"""OpenTelemetry's name for the other end of a connection."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Whole messages of one sender."""

    source: str
    address: str
    """Without the port; empty: not known."""
    payload: bytes
    """Lines end with LF, and the first one of newline framing doesn't look like a continuation."""
    principal: str = ""
    """URI of the identity that was proved; empty: none was."""


@dataclass(frozen=True, slots=True)
class DecodedSenders:
    """What became of them."""

    batch: pa.RecordBatch
    """Columns of `RECORD_SCHEMA`, in order."""
    errors: list[tuple[int, RowError]]
    """Index of the sender's payload, and the error; its offset counts within that payload."""


def decode(sent: Sequence[Sent], framing: str, context: DecodeContext) -> DecodedSenders:
    """Decode payloads of one framing as if they were one.

    Args:
        sent: At least one.
        framing: `newline` or `octet`, of all of them.
        context: What all have in common; its source, host and principal aren't looked at.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
    """
    chunk = b"".join(one.payload for one in sent)
    ends = np.cumsum([len(one.payload) for one in sent])
    owned = {
        "source": pa.array([one.source for one in sent], pa.string()),
        "principal": pa.array([one.principal for one in sent], pa.string()),
    }
    addresses = pa.array([one.address or None for one in sent], pa.string())
    senders = pa.array(np.zeros(0, np.int64))
    context = replace(context, source="", host="", principal="")

    def read(part: lines.Records) -> Fields:
        nonlocal senders
        senders = pa.array(np.searchsorted(ends, part.offsets[:-1], side="right"))
        fields = syslog.read(part, context)
        own = addresses.take(senders)
        host = fields.core.get("host", ())
        fields.core["host"] = [host, own] if isinstance(host, pa.Array) else [*host, own]
        fields.attributes.append((PEER_ATTRIBUTE, own))
        return fields

    decoded = decode_records(syslog.cut(chunk, framing), chunk, context, read, shift=0)
    batch = decoded.batch
    for name, values in owned.items():
        column = batch.schema.get_field_index(name)
        batch = batch.set_column(column, batch.schema.field(column), values.take(senders))
    errors = []
    for error in decoded.errors:
        index = int(np.searchsorted(ends, error.offset, side="right"))
        before = int(ends[index]) - len(sent[index].payload)
        errors.append((index, replace(error, offset=error.offset - before)))
    return DecodedSenders(batch, errors)
