"""The last step of every decoder: whatever columns it has → exactly `RECORD_SCHEMA`.

A decoder names the core columns that it found and hands in all else as attributes. `assemble` reads times,
severities and ids, fills defaults from the context, keeps as attributes what a core column can't hold, and
enforces the limits. Nothing here loops over records.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.decode import arrays, hexadecimals, severity
from heimdall_server.decode.attributes import MapBuilder, limited
from heimdall_server.decode.civil import Stamps
from heimdall_server.decode.times import first_known, given, read, settle
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.records import (
    ATTRIBUTE_COUNT_MAX,
    DUMP_ATTRIBUTE_COUNT_MAX,
    ORIGINAL_TIME_ATTRIBUTE,
    RECORD_SCHEMA,
    TIME_TYPE,
    default_column,
    repeat,
)

Variants: TypeAlias = pa.Array | Sequence[pa.Array]
"""A column, or several of different types for one field: row by row the first that isn't null counts."""

TEXT_COLUMNS: Final = ("body", "service", "host", "event_name", "scope_name", "scope_version")
CORE_COLUMNS: Final = frozenset(
    {*TEXT_COLUMNS, "time", "observed_time", "severity", "level", "severity_text", "trace_id", "span_id", "flags"}
)
"""Names that `assemble` takes in `core`. `level` is a severity on a logger's own scale: 10 and 20 are pino's
and bunyan's trace and debug there, while as `severity` they are OpenTelemetry's numbers."""
CONTEXT_COLUMNS: Final = ("source", "dataset", "dump", "tlp", "principal")
"""What the context says of all of them."""
_LEVELS: Final = ("level", "severity")


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attribute columns in the forms that decoders have them."""

    columns: Iterable[tuple[str, pa.Array]] = ()
    """Key and values; null: the record lacks it. A key may come again with another type."""
    maps: Iterable[pa.MapArray] = ()
    """Already built: text keys; strings, numbers or booleans; no null keys or values."""
    pairs: Iterable[tuple[npt.NDArray[np.int64], str | pa.Array, pa.Array]] = ()
    """Rows (ascending), keys (or the one key, then rows are distinct) and values (strings, numbers or booleans, no
    nulls) of attributes one by one."""


def assemble(
    count: int,
    context: DecodeContext,
    *,
    core: Mapping[str, Variants],
    attributes: Attributes | Iterable[tuple[str, pa.Array]] = (),
    resource: Attributes | Iterable[tuple[str, pa.Array]] = (),
    stamps: Stamps | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    columns_kept: bool = False,
) -> pa.RecordBatch:
    """Build a batch of records.

    Args:
        count: Records.
        context: What the source says about them.
        core: `CORE_COLUMNS` that the decoder has, each `count` long, nulls allowed.
            `time`: whatever `times.read` understands. `severity`, `level`: words or numbers. `trace_id`, `span_id`:
            hex text or raw bytes. The text columns take numbers and booleans too and hold them as JSON text.
        attributes: All else. Keys of a record must be distinct.
        resource: Resource attributes, likewise.
        stamps: Times already read; `core["time"]` is then only the original that is kept where they can't be used.
        rows: Index of each record among the chunk's records, bad ones counted; None: no bad ones. Only a dump
            looks at it.
        columns_kept: All that is in `core` is among the attributes, too, under its own name (`mapping.split`): what a core
            column can't hold isn't lost.

    Returns:
        Columns of `RECORD_SCHEMA`, no nulls, passing `validate(full=True)`.

    Raises:
        InvalidArgumentError: The context's zone isn't known.
        KeyError: A name that isn't in `CORE_COLUMNS`.
    """
    if unknown := set(core) - CORE_COLUMNS:
        raise KeyError(*unknown)
    found = {name: _variants(column) for name, column in core.items()}
    left_over = MapBuilder(count)
    columns = {name: _text(found.get(name), count) for name in TEXT_COLUMNS}
    columns["service"] = _or_default(columns["service"], context.service)
    columns["host"] = _or_default(columns["host"], context.host)
    columns |= _times(count, context, found, stamps, left_over)
    columns |= _severities(count, found, left_over)
    columns["trace_id"] = _ids("trace_id", 16, found, count, left_over)
    columns["span_id"] = _ids("span_id", 8, found, count, left_over)
    columns["flags"] = _flags(found.get("flags", []), count, left_over)
    own = MapBuilder(count) if columns_kept else left_over
    count_max = DUMP_ATTRIBUTE_COUNT_MAX if context.dump else ATTRIBUTE_COUNT_MAX
    columns |= _attributes(own, MapBuilder(count), attributes, resource, count_max)
    columns |= _constants(count, context)
    columns["record_number"] = _record_numbers(count, context, rows)
    ordered = [
        columns[field.name] if field.name in columns else default_column(field.name, count) for field in RECORD_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(ordered, schema=RECORD_SCHEMA)


def _variants(column: Variants) -> list[pa.Array]:
    columns = [column] if isinstance(column, pa.Array) else list(column)
    return [arrays.plain(part) for part in columns if not pa.types.is_null(part.type)]


def _text(variants: list[pa.Array] | None, count: int) -> pa.Array:
    if not variants:
        return repeat("", count, pa.string())
    found = arrays.first_valid([arrays.text(part) for part in variants])
    return pc.fill_null(found, "") if found.null_count else found


def _or_default(values: pa.Array, default: str) -> pa.Array:
    return pc.if_else(pc.equal(values, ""), pa.scalar(default, pa.string()), values) if default else values


def _times(
    count: int, context: DecodeContext, found: dict[str, list[pa.Array]], stamps: Stamps | None, left_over: MapBuilder
) -> dict[str, pa.Array]:
    observed = np.full(count, context.observed_time_ns, np.int64)
    for part in found.get("observed_time", []):
        seen = read(part, context)
        usable = seen.known & (seen.ns > 0) & (seen.ns <= context.observed_time_ns)
        observed = np.where(usable, seen.ns, observed)
    variants = found.get("time", [])
    if stamps is None:
        read_ = [read(part, context) for part in variants] or [Stamps.none(count)]
        stamps = functools.reduce(first_known, read_)
    carried = stamps.known.copy()
    if not carried.all():
        for part in variants:
            carried |= given(part)
    times = settle(stamps, carried, context, observed_ns=observed)
    if times.unusable.any():
        original = arrays.first_valid([arrays.text(part) for part in variants])
        left_over.add(ORIGINAL_TIME_ATTRIBUTE, _only(original, times.unusable))
    return {
        "time": times.array(),
        "observed_time": pa.array(observed).view(TIME_TYPE),
        "time_flags": pa.array(times.flags),
    }


def _severities(count: int, found: dict[str, list[pa.Array]], left_over: MapBuilder) -> dict[str, pa.Array]:
    text = pa.nulls(count, pa.string())
    number = np.zeros(count, np.uint8)
    for part in found.get("severity_text", []):
        text = pc.coalesce(text, _stated(arrays.text(part)))
        number = severity.from_words(text)
    stated = np.zeros(count, np.bool_)
    for name in _LEVELS:
        for part in found.get(name, []):
            words = _stated(arrays.text(part))
            carried = arrays.bools(words.is_valid())
            fresh = carried & ~stated
            ladder = name == "level"
            if arrays.is_number(part.type):
                levels = severity.from_numbers(part, ladder=ladder)
                # A number of the very scale that the column has needn't be told again, and 0 tells nothing.
                told = fresh & (levels == _whole(part)) & ((levels > 0) | (not ladder))
            else:
                levels = _of_words(words, ladder=ladder)
                told = np.zeros(count, np.bool_)
            stated |= carried
            number = np.where(fresh & (levels > 0), levels, number).astype(np.uint8)
            kept = _only(words, fresh & ~told)
            taken = arrays.bools(pc.and_(text.is_valid(), kept.is_valid())) & ~arrays.bools(pc.equal(text, kept))
            if (lost := taken | (carried & ~fresh)).any():
                left_over.add(name, _only(part, lost))
            text = pc.coalesce(text, kept)
    return {"severity": pa.array(number), "severity_text": pc.fill_null(text, "") if text.null_count else text}


def _stated(words: pa.Array) -> pa.Array:
    """Words, null where they are blank."""
    encoded = words.dictionary_encode()
    blank = pc.equal(pc.utf8_trim_whitespace(encoded.dictionary), "")
    if not pc.any(blank, min_count=0).as_py():
        return words
    return pc.if_else(blank.take(encoded.indices), pa.scalar(None, pa.string()), words)


def _of_words(words: pa.Array, *, ladder: bool) -> npt.NDArray[np.uint8]:
    # A log has few: each is read once.
    encoded = words.dictionary_encode()
    distinct = pa.concat_arrays([encoded.dictionary, pa.nulls(1, pa.string())])
    levels = severity.from_words(distinct)
    numerals = pc.match_substring_regex(distinct, pattern=r"^\d{1,2}$")
    if pc.any(numerals, min_count=0).as_py():
        numbers = pc.if_else(numerals, distinct, pa.scalar(None, pa.string())).cast(pa.int64())
        levels = np.where(levels == 0, severity.from_numbers(numbers, ladder=ladder), levels).astype(np.uint8)
    out: npt.NDArray[np.uint8] = levels.take(pc.fill_null(encoded.indices, len(distinct) - 1).to_numpy())
    return out


def _whole(numbers: pa.Array) -> npt.NDArray[np.float64]:
    return np.nan_to_num(arrays.float64s(numbers.cast(pa.float64(), safe=False)))


def _ids(name: str, width: int, found: dict[str, list[pa.Array]], count: int, left_over: MapBuilder) -> pa.Array:
    """Raw ids of `width` bytes. What isn't one stays as an attribute of the same name."""
    raw = np.zeros((count, width), np.uint8)
    for part in found.get(name, []):
        if pa.types.is_binary(part.type) or pa.types.is_fixed_size_binary(part.type):
            ids, text = part.cast(pa.binary()), None
        else:
            text = arrays.text(part)
            whole = hexadecimals.read(text, width)
            if whole is not None:
                raw = whole
                continue
            hexadecimal = pc.match_substring_regex(text, pattern=f"^[0-9a-fA-F]{{{width * 2}}}$")
            digits = pc.if_else(hexadecimal, text, pa.scalar(None, pa.string()))
            ids = pl.Series(digits).str.decode("hex").to_arrow().cast(pa.binary())
        good = arrays.bools(pc.equal(pc.binary_length(ids), width))
        if good.any():
            raw[good] = _bytes(ids.filter(pa.array(good))).reshape(-1, width)
        if text is None:
            text = pl.Series(ids).bin.encode("hex").to_arrow().cast(pa.string())
        bad = ~good & given(text)
        if bad.any():
            left_over.add(name, _only(text, bad))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(raw.tobytes())])


def _bytes(values: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of a binary column, one value after the other."""
    _, offsets, content = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]


def _flags(variants: list[pa.Array], count: int, left_over: MapBuilder) -> pa.Array:
    out = np.zeros(count, np.uint32)
    for part in variants:
        fits = np.zeros(count, np.bool_)
        if arrays.is_number(part.type):
            number = _whole(part)
            fits = arrays.bools(part.is_valid()) & (number >= 0) & (number < 2**32) & (number == np.floor(number))
            out = np.where(fits, number, out).astype(np.uint32)
        bad = arrays.bools(part.is_valid()) & ~fits
        if bad.any():
            left_over.add("flags", _only(part, bad))
    return pa.array(out)


def _attributes(
    attributes_builder: MapBuilder,
    resource_builder: MapBuilder,
    attributes: Attributes | Iterable[tuple[str, pa.Array]],
    resource: Attributes | Iterable[tuple[str, pa.Array]],
    count_max: int,
) -> dict[str, pa.Array]:
    built = []
    for builder, given_ in ((attributes_builder, attributes), (resource_builder, resource)):
        source = given_ if isinstance(given_, Attributes) else Attributes(columns=given_)
        for pairs in source.maps:
            builder.add_map(pairs)
        for rows, keys, values in source.pairs:
            builder.add_pairs(rows, keys, values)
        for key, values in source.columns:
            builder.add(key, values)
        built.append(builder.build())
    own, of_resource, overflow = limited(built[0], built[1], count_max)
    return {
        "attributes": own.strings,
        "attributes_number": own.numbers,
        "attributes_bool": own.bools,
        "resource": of_resource.strings,
        "resource_number": of_resource.numbers,
        "resource_bool": of_resource.bools,
        "overflow": overflow,
    }


def _constants(count: int, context: DecodeContext) -> dict[str, pa.Array]:
    return {name: repeat(getattr(context, name), count, pa.string()) for name in CONTEXT_COLUMNS}


def _record_numbers(count: int, context: DecodeContext, rows: npt.NDArray[np.int64] | None) -> pa.Array:
    if not context.first_record_number:
        return default_column("record_number", count)
    index = np.arange(count) if rows is None else rows
    return pa.array((index + context.first_record_number).astype(np.uint64))


def _only(values: pa.Array, rows: npt.NDArray[np.bool_]) -> pa.Array:
    """The values of some rows, null elsewhere."""
    return pc.if_else(pa.array(rows), values, pa.scalar(None, values.type))
