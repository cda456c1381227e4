"""OTLP export requests (protobuf) → columns, without a loop over records.

`ptars` turns whole requests into nested Arrow lists by the shadow of the OTLP messages (`otlp_shadow.proto`); the
nesting is flattened by offsets. Nothing of a record is lost: what has no column becomes an attribute. Attributes of the
scope stand under `scope.`; what OTLP itself adds (`schema_url`, counts of dropped attributes) under `otel.`.

`ptars` holds the GIL, so little is handed to it at a time. It refuses a request as a whole if it isn't protobuf or some
string isn't UTF-8, and so does this decoder: there is no telling where the next record starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall.stored.v1 import otlp_shadow_pb2
from heimdall_server.decode import severity
from heimdall_server.decode.civil import Stamps
from heimdall_server.decode.columns import Attributes, Variants, assemble
from heimdall_server.decode.otlp_attributes import Pairs, constant, pairs_of
from heimdall_server.decode.otlp_values import Indices, entity_references, spread, texts_of
from heimdall_server.decode.protobuf_columns import reader_of
from heimdall_server.domain.decoding import DecodeContext, Decoded, RowError
from heimdall_server.domain.errors import FormatError
from heimdall_server.domain.records import RECORD_BYTES_MAX, RECORD_SCHEMA, TIME_TYPE

SLICE_BYTES_MAX: Final = 4 << 20
"""Most that goes to `ptars` at once, if requests are no larger: it holds the GIL for about 2.5 ms a MiB."""

REQUEST_RECORDS_MAX: Final = 1 << 18
"""Records of one request: two bytes can be one, and in columns each takes 130."""
SPREAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes that the attributes of resources and scopes may become when each record gets its own."""

_INT64_MAX: Final = np.uint64(np.iinfo(np.int64).max)
_SEVERITY_MAX: Final = 24
_ID_BYTES: Final = {"trace_id": 16, "span_id": 8}
_RESOURCE_COLUMNS: Final = {"service.name": "service", "host.name": "host"}


@dataclass(frozen=True, slots=True)
class OtlpDecoded:
    """What became of several requests."""

    decoded: Decoded
    """All records in order. A request that was refused is one error; its `offset` is the index of the request."""
    counts: list[int]
    """Records of each request; 0 for a refused one."""
    problems: list[FormatError | None]
    """Of each request, why it was refused."""


def decode(payloads: Sequence[bytes], context: DecodeContext) -> OtlpDecoded:
    """Decode export requests.

    Args:
        payloads: Serialized ExportLogsServiceRequest messages. An empty one has no records.
        context: What is said about the records besides. Where a record has neither time, its time is the observed time.

    Returns:
        Good requests whole; bad ones named. Never raises for what the payloads hold.

    Cost: about 1.5 µs a record of eight attributes; the GIL is held for half of it.
    """
    batches: list[pa.RecordBatch] = []
    counts: list[int] = []
    problems: list[FormatError | None] = []
    errors: list[RowError] = []
    seen = 0
    for group in _slices(payloads):
        pieces: list[tuple[list[bytes], tuple[pa.RecordBatch, list[int]] | None]]
        try:
            pieces = [(group, _decode(group, context, seen))]
        except FormatError:
            pieces = [([payload], None) for payload in group]
        for piece, result in pieces:
            try:
                batch, of_each = result or _decode(piece, context, seen)
            except FormatError as problem:
                reason = f"not an OTLP export request: {problem.problem}"
                errors.append(RowError(seen, len(counts), reason, raw=piece[0][:RECORD_BYTES_MAX]))
                counts.append(0)
                problems.append(problem)
                seen += 1
                continue
            batches.append(batch)
            counts += of_each
            problems += [None] * len(piece)
            seen += batch.num_rows
    whole = pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], RECORD_SCHEMA)
    return OtlpDecoded(Decoded(whole, errors), counts, problems)


def _slices(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for payload in payloads:
        if group and size + len(payload) > SLICE_BYTES_MAX:
            yield group
            group, size = [], 0
        group.append(payload)
        size += len(payload)
    if group:
        yield group


@functools.cache
def _reader() -> Callable[[list[bytes]], pa.RecordBatch]:
    return reader_of(otlp_shadow_pb2.OtlpExport.DESCRIPTOR)


def _exports(payloads: list[bytes]) -> pa.ListArray:
    """For each request the list of its OtlpResourceLogs."""
    try:
        return _reader()(payloads).column(0)
    except ValueError as error:
        # The message may go on with what was seen.
        problem = "some text isn't UTF-8" if "UTF-8" in str(error) else "truncated, or not protobuf"
        raise FormatError("otlp", problem) from None


def _decode(payloads: list[bytes], context: DecodeContext, first_row: int) -> tuple[pa.RecordBatch, list[int]]:
    """Decode requests that are all good.

    Raises:
        FormatError: One of them isn't, or they would become too much together.
    """
    exports = _exports(payloads)
    resource_logs = exports.values
    scope_lists = resource_logs.field("scope_logs")
    scope_logs = scope_lists.values
    record_lists = scope_logs.field("log_records")
    records = record_lists.values
    scope_of = _parents(record_lists)
    resource_of = _parents(scope_lists)[scope_of]
    ends = record_lists.offsets.to_numpy()[scope_lists.offsets.to_numpy()[exports.offsets.to_numpy()]]
    if (np.diff(ends) > REQUEST_RECORDS_MAX).any():
        raise FormatError("otlp", f"more than {REQUEST_RECORDS_MAX} records in one request; send smaller ones")

    core, stamps = _times(records)
    core["body"] = texts_of(records.field("body"))
    core |= {name: records.field(name) for name in ("flags", "event_name")}
    for name in ("name", "version"):
        core[f"scope_{name}"] = scope_logs.field("scope").field(name).take(pa.array(scope_of))
    of_resource = _resource_pairs(resource_logs)
    for key, column in _RESOURCE_COLUMNS.items():
        of_resource, values = _split(of_resource, key, len(resource_logs))
        core[column] = values.take(pa.array(resource_of))

    own = pairs_of(records.field("attributes"))
    of_scope = _scope_pairs(scope_logs)
    _check_spread([(of_resource, resource_of), (of_scope, scope_of)])
    added = [pairs.of_records(scope_of) for pairs in of_scope]
    added += _dropped("otel.", records)
    severities, odd_severities = _severities(records)
    columns = {"severity": severities, "severity_text": records.field("severity_text")}
    added += odd_severities
    for name, width in _ID_BYTES.items():
        columns[name], odd_ids = _ids(name, width, records.field(name))
        added += odd_ids
    batch = assemble(
        len(records),
        context,
        core=core,
        stamps=stamps,
        attributes=Attributes(pairs=_triples([*own, *(pairs.without(own) for pairs in added)])),
        resource=Attributes(pairs=_triples([pairs.of_records(resource_of) for pairs in of_resource])),
        rows=first_row + np.arange(len(records)),
    )
    # These have their column's very form already: `assemble`, which takes any, would only spend time on them.
    for name, column in columns.items():
        at = RECORD_SCHEMA.get_field_index(name)
        batch = batch.set_column(at, RECORD_SCHEMA.field(at), column)
    return batch, np.diff(ends).tolist()


def _check_spread(owned: Sequence[tuple[list[Pairs], Indices]]) -> None:
    """Each record gets the attributes of its resource and scope: a few large ones times many records explode."""
    size = sum(int(pairs.size_bytes(owner_of)) for some, owner_of in owned for pairs in some)
    if size > SPREAD_BYTES_MAX:
        problem = f"the attributes of resources and scopes take {size} bytes when each record gets its own"
        raise FormatError("otlp", f"{problem}, over the limit of {SPREAD_BYTES_MAX}; send smaller requests")


def _parents(lists: pa.ListArray) -> Indices:
    """For each element of a flattened list, the index of the list."""
    return np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))


def _times(records: pa.StructArray) -> tuple[dict[str, Variants], Stamps]:
    time, observed = (records.field(f"{name}_unix_nano").to_numpy() for name in ("time", "observed_time"))
    stated = np.where(time != 0, time, observed)
    core: dict[str, Variants] = {"time": pa.array(stated, mask=stated == 0)}
    if observed.any():
        core["observed_time"] = pa.array(_signed(observed), mask=observed == 0).view(TIME_TYPE)
    return core, Stamps(_signed(stated), stated != 0, np.zeros(len(stated), np.uint8))


def _signed(nanoseconds: npt.NDArray[np.uint64]) -> Indices:
    return np.minimum(nanoseconds, _INT64_MAX).astype(np.int64)


def _severities(records: pa.StructArray) -> tuple[pa.Array, list[Pairs]]:
    """The numbers, read from the text where there is none; numbers that OpenTelemetry doesn't know as attributes."""
    numbers = records.field("severity_number").to_numpy()
    known = (numbers >= 0) & (numbers <= _SEVERITY_MAX)
    levels = np.where(known, numbers, 0).astype(np.uint8)
    unset = np.flatnonzero(levels == 0)
    if len(unset):
        levels[unset] = severity.from_words(records.field("severity_text").take(pa.array(unset)))
    return pa.array(levels), constant("severity_number", pa.array(numbers.astype(np.float64)), ~known)


def _ids(name: str, width: int, ids: pa.BinaryArray) -> tuple[pa.Array, list[Pairs]]:
    """A column of raw ids; what has another length as an attribute, in hexadecimal."""
    lengths = pc.binary_length(ids).to_numpy()
    kind = pa.binary(width)
    right = lengths == width
    if right.all():
        return ids.cast(kind), []
    padded = pc.if_else(pa.array(right), ids, pa.scalar(bytes(width), pa.binary())).cast(kind)
    odd = ~right & (lengths > 0)
    texts = pa.array([raw.hex() for raw in ids.filter(pa.array(odd)).to_pylist()], pa.string())
    return padded, constant(name, spread(texts, np.flatnonzero(odd), len(ids)), odd) if odd.any() else []


def _resource_pairs(resource_logs: pa.StructArray) -> list[Pairs]:
    resources = resource_logs.field("resource")
    attributes = pairs_of(resources.field("attributes"))
    added = [*_schema_url("otel.schema_url", resource_logs), *_dropped("otel.", resources)]
    added += _entity_refs(resources.field("entity_refs"))
    return [*attributes, *(pairs.without(attributes) for pairs in added)]


def _scope_pairs(scope_logs: pa.StructArray) -> list[Pairs]:
    scopes = scope_logs.field("scope")
    attributes = [pairs.prefixed("scope.") for pairs in pairs_of(scopes.field("attributes"))]
    added = [*_schema_url("scope.otel.schema_url", scope_logs), *_dropped("scope.otel.", scopes)]
    return [*attributes, *(pairs.without(attributes) for pairs in added)]


def _schema_url(key: str, holders: pa.StructArray) -> list[Pairs]:
    urls = holders.field("schema_url")
    return constant(key, urls, pc.greater(pc.binary_length(urls), 0).to_numpy(zero_copy_only=False))


def _dropped(prefix: str, holders: pa.StructArray) -> list[Pairs]:
    counts = pc.fill_null(holders.field("dropped_attributes_count"), 0).cast(pa.float64())
    return constant(f"{prefix}dropped_attributes_count", counts, counts.to_numpy() > 0)


def _entity_refs(references: pa.ListArray) -> list[Pairs]:
    if not len(references.values):
        return []
    texts = [entity_references(raw) for raw in references.to_pylist()]
    return constant("otel.entity_refs", pa.array(texts, pa.string()), np.array([text != "[]" for text in texts]))


def _split(pairs: list[Pairs], key: str, count: int) -> tuple[list[Pairs], pa.Array]:
    """Take the texts of one key out.

    Returns:
        The pairs without them, and a column of `count` owners with them; null: the owner has none.
    """
    taken = pa.nulls(count, pa.string())
    rest: list[Pairs] = []
    for some in pairs:
        if not pa.types.is_string(some.values.type) or key not in some.names():
            rest.append(some)
            continue
        is_key = pc.equal(some.keys.cast(pa.string()), key)
        others = pc.invert(is_key)
        kept = others.to_numpy(zero_copy_only=False)
        taken = pc.coalesce(taken, spread(some.values.filter(is_key), some.owners[~kept], count))
        rest.append(Pairs(some.owners[kept], some.keys.filter(others), some.values.filter(others)))
    return rest, taken


def _triples(pairs: list[Pairs]) -> list[tuple[Indices, pa.Array, pa.Array]]:
    return [(some.owners, some.keys, some.values) for some in pairs if len(some.owners)]
