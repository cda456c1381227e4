"""Columns of serialized OTLP values (AnyValue) → columns of scalars.

Text, integers, numbers and truth values are read from the bytes of the whole column at once. The recursive kinds and raw
bytes become text (JSON, base64) by a Python call, one for each distinct value; so does what is written unusually.

An AnyValue on the wire is one field: a tag, then its content. Text is `0A length bytes`, a truth value `10 0|1`,
an integer `18 varint`, a number `21` and eight bytes (protobuf encoding; opentelemetry/proto/common/v1/common.proto).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, EntityRef, KeyValueList

from heimdall_server.domain.errors import FormatError

Indices: TypeAlias = npt.NDArray[np.int64]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
_Parsed = TypeVar("_Parsed", bound=Message)
_Flags: TypeAlias = npt.NDArray[np.bool_]
_Bytes: TypeAlias = npt.NDArray[np.uint8]

_STRING: Final = 0x0A
_BOOL: Final = 0x10
_INT: Final = 0x18
_DOUBLE: Final = 0x21
_VARINT_BYTES_MAX: Final = 10
_LENGTH_BYTES_MAX: Final = 4
_DOUBLE_BYTES: Final = 9
_BOOL_BYTES: Final = 2
_GOES_ON: Final = np.uint8(0x80)
_SHORT_HEAD: Final = 2


def scalars(values: pa.BinaryArray) -> Iterator[tuple[Indices | None, pa.Array]]:
    """Read a column of AnyValues.

    Args:
        values: Serialized, no nulls. An empty one has no kind.

    Yields:
        Indices (ascending; None: all) and their values: string, int64, float64 or bool, no nulls. Each value that has
        a kind once.

    Raises:
        FormatError: A value isn't an AnyValue, or some text isn't UTF-8.
    """
    starts, lengths, data = _layout(values)
    tags = np.zeros(len(values), np.uint8)
    filled = lengths > 0
    tags[filled] = data[starts[filled]]
    rest = filled.copy()
    texts = np.flatnonzero(tags == _STRING)
    found = [_texts(values, texts)]
    if len(texts) < np.count_nonzero(filled):
        found += [_integers(starts, lengths, tags, data), _numbers(starts, lengths, tags, data)]
        found.append(_truths(starts, lengths, tags, data))
    for at, column in found:
        rest[at] = False
        if len(at):
            yield (None if len(at) == len(values) else at), column
    if rest.any():
        yield from _one_by_one(values, np.flatnonzero(rest))


def texts_of(values: pa.BinaryArray) -> list[pa.Array]:
    """A column of AnyValues as columns of scalars: in each row at most one of them has a value, the others null.

    Raises:
        FormatError: As `scalars`.
    """
    return [column if at is None else spread(column, at, len(values)) for at, column in scalars(values)]


def spread(values: pa.Array, at: Indices, count: int) -> pa.Array:
    """A column of `count` rows with values at some, null elsewhere."""
    places = np.full(count, -1)
    places[at] = np.arange(len(at))
    return values.take(pa.array(places, mask=places < 0))


def entity_references(references: Sequence[bytes]) -> str:
    """Serialized EntityRef messages as a JSON array.

    Raises:
        FormatError: One isn't.
    """
    read = [_parsed(EntityRef, raw) for raw in references]
    return _json(
        [
            {
                "schema_url": entity.schema_url,
                "type": entity.type,
                "id_keys": list(entity.id_keys),
                "description_keys": list(entity.description_keys),
            }
            for entity in read
        ]
    )


def _layout(values: pa.BinaryArray) -> tuple[Indices, Indices, _Bytes]:
    """Where each value is in the column's bytes, and how long."""
    _, offsets, content = values.buffers()
    if not len(values) or content is None:
        none = np.zeros(len(values), np.int64)
        return none, none, np.empty(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    return bounds[:-1], np.diff(bounds), np.frombuffer(content, np.uint8)


def _texts(values: pa.BinaryArray, at: Indices) -> tuple[Indices, pa.Array]:
    if len(at) < len(values):
        values = values.take(pa.array(at))
    starts, lengths, data = _layout(values)
    if len(at) and lengths.min() >= _SHORT_HEAD and lengths.max() < _SHORT_HEAD + _GOES_ON:
        stated = data[starts + 1]
        if (stated == lengths - _SHORT_HEAD).all():
            return at, _checked(pc.binary_slice(values, _SHORT_HEAD, int(_GOES_ON) + _SHORT_HEAD))
    heads = np.full(len(at), _SHORT_HEAD)
    for size in range(1, _LENGTH_BYTES_MAX):
        # A length below 128 takes one byte, one below 16,384 two.
        heads += lengths - size - 1 >= 1 << (7 * size)
    fits = lengths >= heads
    fits[fits] = _are_varints(starts[fits] + 1, heads[fits] - 1, data)
    fits[fits] = _varints(starts[fits] + 1, heads[fits] - 1, data) == lengths[fits] - heads[fits]
    if not fits.all():
        good = np.flatnonzero(fits)
        where, texts = _texts(values.take(pa.array(good)), np.arange(len(good)))
        return at[good[where]], texts
    if not len(at):
        return at, pa.array([], pa.string())
    first = int(starts[0])
    kept = np.ones(int(lengths.sum()), np.bool_)
    for byte in range(int(heads.max())):
        kept[(starts if byte < 2 else starts[heads > byte]) - first + byte] = False
    content = data[first : first + len(kept)][kept]
    bounds = np.zeros(len(at) + 1, np.int32)
    np.cumsum(lengths - heads, out=bounds[1:])
    return at, _checked(
        pa.BinaryArray.from_buffers(pa.binary(), len(at), [None, pa.py_buffer(bounds), pa.py_buffer(content)])
    )


def _checked(texts: pa.BinaryArray) -> pa.StringArray:
    """The same as text, which has to be UTF-8."""
    try:
        return texts.cast(pa.string())
    except pa.ArrowInvalid:
        raise FormatError("otlp", "some text isn't UTF-8") from None


def _parsed(kind: type[_Parsed], raw: bytes) -> _Parsed:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise FormatError("otlp", f"a value isn't {kind.DESCRIPTOR.full_name}, or some text isn't UTF-8") from None


def _integers(starts: Indices, lengths: Indices, tags: _Bytes, data: _Bytes) -> tuple[Indices, pa.Array]:
    at = np.flatnonzero((tags == _INT) & (lengths > 1) & (lengths <= _VARINT_BYTES_MAX + 1))
    starts, sizes = starts[at] + 1, lengths[at] - 1
    whole = _are_varints(starts, sizes, data)
    return at[whole], pa.array(_varints(starts[whole], sizes[whole], data))


def _numbers(starts: Indices, lengths: Indices, tags: _Bytes, data: _Bytes) -> tuple[Indices, pa.Array]:
    at = np.flatnonzero((tags == _DOUBLE) & (lengths == _DOUBLE_BYTES))
    content = data[starts[at][:, None] + np.arange(1, _DOUBLE_BYTES)]
    return at, pa.array(content.reshape(-1).view("<f8"))


def _truths(starts: Indices, lengths: Indices, tags: _Bytes, data: _Bytes) -> tuple[Indices, pa.Array]:
    at = np.flatnonzero((tags == _BOOL) & (lengths == _BOOL_BYTES))
    content = data[starts[at] + 1]
    plain = content <= 1
    return at[plain], pa.array(content[plain] == 1)


def _are_varints(starts: Indices, sizes: Indices, data: _Bytes) -> _Flags:
    """Whether of each piece just the last byte says that it is the last."""
    good = np.ones(len(starts), np.bool_)
    for byte in range(int(sizes.max(initial=0))):
        here = sizes > byte
        good[here] &= (data[starts[here] + byte] >= _GOES_ON) == (sizes[here] > byte + 1)
    return good


def _varints(starts: Indices, sizes: Indices, data: _Bytes) -> Indices:
    """Little-endian groups of seven bits, 64 of which count (two's complement)."""
    out = np.zeros(len(starts), np.uint64)
    for byte in range(int(sizes.max(initial=0))):
        here = sizes > byte
        bits = (data[starts[here] + byte] & (_GOES_ON - 1)).astype(np.uint64)
        out[here] |= bits << np.uint64(7 * byte)
    return out.view(np.int64)


def _one_by_one(values: pa.BinaryArray, at: Indices) -> Iterator[tuple[Indices, pa.Array]]:
    """The other kinds, and what is written unusually, by the OpenTelemetry classes."""
    distinct = values.take(pa.array(at)).dictionary_encode()
    read = [_scalar(_parsed(AnyValue, raw)) for raw in distinct.dictionary.to_pylist()]
    codes = distinct.indices.to_numpy()
    for kind, arrow in ((str, pa.string()), (bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        wanted = [code for code, value in enumerate(read) if type(value) is kind]
        if not wanted:
            continue
        found = np.isin(codes, wanted)
        column = pa.array([value if type(value) is kind else None for value in read], arrow)
        yield at[found], column.take(pa.array(codes[found]))


def _scalar(value: AnyValue) -> str | bool | int | float | None:
    """None: the value has no kind."""
    if value.WhichOneof("value") == "double_value":
        return value.double_value
    plain = _plain(value)
    return _json(plain) if isinstance(plain, list | dict) else plain


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _object(values: KeyValueList) -> dict[str, Json]:
    return {pair.key: _plain(pair.value) for pair in values.values}


def _plain(value: AnyValue) -> Json:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            # JSON has no word for these.
            return value.double_value if math.isfinite(value.double_value) else str(value.double_value)
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return _object(value.kvlist_value)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case _:
            return None
