"""Arrow IPC streams: our own record schema passes almost as it is, any other is mapped as JSON would be.

Each payload is a whole stream: schema, batches, end. What a payload claims about where its records came from counts
for nothing: source, dataset, dump, sharing mark and principal are the context's, times keep the guard, limits are enforced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays
from heimdall_server.decode.arrow_frames import batch_size
from heimdall_server.decode.arrow_nested import as_attribute, flat, scalar
from heimdall_server.decode.columns import Attributes, assemble
from heimdall_server.decode.mapping import split, target_of
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format
from heimdall_server.domain.errors import FormatError, RecordTooLargeError
from heimdall_server.domain.records import RECORD_SCHEMA, SAFE_INTEGER_MAX, TimeFlag

SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes that a payload may become when it is decompressed."""
ROWS_MAX: Final = 1 << 20
"""Records a payload may hold; columns of nulls need no bytes, so bytes alone don't bound them."""
_FORMAT: Final = "Arrow IPC stream"
_ATTRIBUTE_MAPS: Final = ("attributes", "attributes_number", "attributes_bool")
_RESOURCE_MAPS: Final = ("resource", "resource_number", "resource_bool")
_RAW_TARGETS: Final = ("time", "trace_id", "span_id")
"""Core columns that take timestamps and bytes as they are."""
_FLAGS: Final = int(TimeFlag.MISSING | TimeFlag.INFERRED_YEAR | TimeFlag.INFERRED_ZONE | TimeFlag.OUT_OF_RANGE)
_OWN_CORE: Final = (
    "time", "observed_time", "severity", "severity_text", "service", "host", "body", "trace_id", "span_id", "flags",
    "event_name", "scope_name", "scope_version",
)  # fmt: skip
_OWN_NAMES: Final = tuple(
    [name for name in RECORD_SCHEMA.names if name not in later]
    for later in ((), ("principal",), ("principal", "tokens"))
)
"""Columns of a batch that is one of ours: of today's schema, of version 2, which had no `principal`, and of version 1, which had no `tokens` either."""
_Pairs = tuple[npt.NDArray[np.int64], pa.Array, pa.Array]


def complete_length(buffer: bytes, *, final: bool) -> int:  # noqa: ARG001 - as all decoders
    """A payload is whole or it isn't Arrow: all of the buffer."""
    return len(buffer)


def decode(
    chunk: bytes,
    format: Format,  # noqa: A002, ARG001 - as all decoders
    context: DecodeContext,
    *,
    size_bytes_max: int = SIZE_BYTES_MAX,
    rows_max: int = ROWS_MAX,
) -> Decoded:
    """Decode one payload, or several whose streams follow one another.

    Args:
        chunk: Whole IPC streams, their buffers uncompressed or compressed.
        format: Of kind ARROW; has no options.
        context: What the source says about its records.
        size_bytes_max: Bound on the decompressed size.
        rows_max: Bound on the records.

    Raises:
        FormatError: Bytes that aren't a valid stream; nothing of the chunk is kept.
        RecordTooLargeError: A bound is exceeded.
        InvalidArgumentError: The context's zone isn't known.
    """
    decoded: list[pa.RecordBatch] = []
    for batch in _read(chunk, size_bytes_max, rows_max):
        part = _own(batch, context, size_bytes_max) if _is_own(batch) else _foreign(batch, context, size_bytes_max)
        decoded.append(part)
    if not decoded:
        return Decoded(assemble(0, context, core={}))
    table = pa.Table.from_batches(decoded, RECORD_SCHEMA).combine_chunks()
    whole = table.to_batches()[0] if table.num_rows else decoded[0]
    if context.first_record_number:
        numbers = pa.array(np.arange(whole.num_rows, dtype=np.uint64) + np.uint64(context.first_record_number))
        whole = whole.set_column(
            RECORD_SCHEMA.get_field_index("record_number"), RECORD_SCHEMA.field("record_number"), numbers
        )
    return Decoded(whole)


def _read(chunk: bytes, size_bytes_max: int, rows_max: int) -> Iterator[pa.RecordBatch]:
    """The validated batches of all streams in a chunk, bounded before they are decompressed."""
    source = pa.BufferReader(chunk)
    size = rows = 0
    while source.tell() < len(chunk):
        start = source.tell()
        try:
            end, stream_size, stream_rows = _measured(source)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise FormatError(format=_FORMAT, problem="a message can't be read", offset=start) from error
        size, rows = size + stream_size, rows + stream_rows
        for value, limit in ((size, size_bytes_max), (rows, rows_max)):
            if value > limit:
                raise RecordTooLargeError(size_bytes=value, limit_bytes=limit)
        try:
            with pa.ipc.open_stream(pa.py_buffer(chunk)[start:end]) as reader:
                for batch in reader:
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise FormatError(format=_FORMAT, problem="a batch isn't valid", offset=start) from error
        source.seek(end)


def _measured(source: pa.BufferReader) -> tuple[int, int, int]:
    """Where a stream ends, its decompressed size and its rows."""
    size = rows = 0
    messages = pa.ipc.MessageReader.open_stream(source)
    first = next(_until_end(messages), None)
    if first is None or first.type != "schema":
        raise FormatError(format=_FORMAT, problem="it doesn't begin with a schema")
    for message in _until_end(messages):
        batch_rows, batch_bytes = batch_size(message)
        size += batch_bytes
        rows += batch_rows if message.type == "record batch" else 0
    return source.tell(), size, rows


def _until_end(messages: pa.ipc.MessageReader) -> Iterator[pa.ipc.Message]:
    while True:
        try:
            yield messages.read_next_message()
        except StopIteration:
            return


def _is_own(batch: pa.RecordBatch) -> bool:
    names = batch.schema.names
    return names in _OWN_NAMES and all(
        batch.schema.field(name).type == RECORD_SCHEMA.field(name).type for name in names
    )


def _own(batch: pa.RecordBatch, context: DecodeContext, size_bytes_max: int) -> pa.RecordBatch:
    """Rebuild a batch of our schema under the context."""
    sets = [[batch[name] for name in names] for names in (_ATTRIBUTE_MAPS, _RESOURCE_MAPS)]
    attributes, resource = (_own_maps(maps, size_bytes_max) for maps in sets)
    records = assemble(
        batch.num_rows,
        context,
        core={name: batch[name] for name in _OWN_CORE},
        attributes=attributes,
        resource=resource,
    )
    # What the sender had to assume about its times stays assumed.
    told = pc.bit_wise_and(pc.fill_null(batch["time_flags"], 0), pa.scalar(_FLAGS, pa.uint8()))
    records = _with(records, "time_flags", pc.bit_wise_or(records["time_flags"], told))
    theirs = pc.fill_null(batch["overflow"], "")
    if pc.all(pc.equal(theirs, ""), min_count=0).as_py():
        return records
    return _with(records, "overflow", _joined(theirs, records["overflow"]))


def _own_maps(maps: list[pa.MapArray], size_bytes_max: int) -> Attributes:
    if all(column.null_count == 0 and column.items.null_count == 0 for column in maps):
        offsets = [np.asarray(column.offsets) for column in maps]
        if all(_distinct(column, bounds) for column, bounds in zip(maps, offsets, strict=True)):
            return Attributes(maps=maps)
    return Attributes(pairs=[pair for column in maps for pair in _pairs(column, "", size_bytes_max)])


def _distinct(column: pa.MapArray, offsets: npt.NDArray[np.int32]) -> bool:
    first, last = int(offsets[0]), int(offsets[-1])
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    keys = column.keys.slice(first, last - first).dictionary_encode()
    return bool(arrays.last_of_each(rows, arrays.int64s(keys.indices), len(keys.dictionary)).all())


def _joined(theirs: pa.Array, ours: pa.Array) -> pa.Array:
    """Two columns of JSON objects (or "") as one; what isn't an object is kept as a member of one."""
    out = []
    for left, right in zip(theirs.to_pylist(), ours.to_pylist(), strict=True):
        members = [text[1:-1] for text in (_object(left), right) if len(text) > len("{}")]
        out.append("{" + ",".join(members) + "}" if members else "")
    return pa.array(out, pa.string())


def _object(text: str) -> str:
    try:
        if not text or isinstance(json.loads(text), dict):
            return text.strip()
    except (ValueError, RecursionError):
        pass
    return json.dumps({"overflow": text}, ensure_ascii=False)


def _with(records: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    return records.set_column(RECORD_SCHEMA.get_field_index(name), RECORD_SCHEMA.field(name), values)


def _foreign(batch: pa.RecordBatch, context: DecodeContext, size_bytes_max: int) -> pa.RecordBatch:
    columns: dict[str, list[pa.Array]] = {}
    pairs: dict[bool, list[_Pairs]] = {False: [], True: []}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        for name, part in flat(field.name, column, size_bytes_max=size_bytes_max):
            if pa.types.is_map(part.type):
                prefix = "" if name in (*_ATTRIBUTE_MAPS, *_RESOURCE_MAPS) else f"{name}."
                pairs[name in _RESOURCE_MAPS] += _pairs(part, prefix, size_bytes_max)
            else:
                held = part if target_of(name) in _RAW_TARGETS else as_attribute(part)
                columns[name] = [*_yielding(columns.get(name, []), held), held]
    is_dump = bool(context.dump)
    core, rest = split(columns, keep=is_dump)
    return assemble(
        batch.num_rows,
        context,
        core=core,
        attributes=Attributes(columns=[(name, as_attribute(part)) for name, part in rest], pairs=pairs[False]),
        resource=Attributes(pairs=pairs[True]),
        columns_kept=is_dump,
    )


def _yielding(earlier: list[pa.Array], later: pa.Array) -> list[pa.Array]:
    """Of two columns with one name the last that has a value counts, as in JSON."""
    return [pc.if_else(later.is_valid(), pa.scalar(None, part.type), part) for part in earlier]


def _pairs(column: pa.MapArray, prefix: str, size_bytes_max: int) -> list[_Pairs]:
    """The entries of a map column by type; null maps and items are left out, of a repeated key the last counts."""
    offsets = np.asarray(column.offsets).astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    keys = arrays.plain(column.keys.slice(first, last - first))
    items = scalar(column.items.slice(first, last - first), size_bytes_max=size_bytes_max)
    encoded = keys.dictionary_encode()
    kept = arrays.last_of_each(rows, arrays.int64s(encoded.indices), len(encoded.dictionary))
    kept &= arrays.bools(column.is_valid())[rows] & arrays.bools(items.is_valid())
    if prefix:
        keys = pc.binary_join_element_wise(pa.scalar(prefix), keys, "")
    out = []
    for part, mask in _by_type(items):
        chosen = kept & mask
        out.append((rows[chosen], keys.filter(pa.array(chosen)), part.filter(pa.array(chosen))))
    return out


def _by_type(items: pa.Array) -> list[tuple[pa.Array, npt.NDArray[np.bool_]]]:
    """Items as the maps hold them, each with the rows it is for: integers beyond 2^53 are text."""
    everywhere = np.ones(len(items), np.bool_)
    if pa.types.is_boolean(items.type):
        return [(items, everywhere)]
    if not arrays.is_number(items.type):
        return [(arrays.text(items), everywhere)]
    numbers = items.cast(pa.float64(), safe=False)
    if not pa.types.is_integer(items.type):
        return [(numbers, everywhere)]
    safe = np.abs(np.nan_to_num(arrays.float64s(numbers))) < SAFE_INTEGER_MAX
    return [(numbers, safe), (items.cast(pa.string()), ~safe)]
