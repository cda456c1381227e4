"""Syslog: RFC 5424 and RFC 3164 messages, one a line or octet-counted.

Option of the resolved format: `framing` (`newline` or `octet`).

Each message is read as RFC 5424 if it says so, else by what is usual for RFC 3164, of which every part may
lack (a PRI alone makes a message). Structured data become attributes `sd_id.param`. The program becomes the service where the
source has none. In newline framing, lines that look like a continuation join their record.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from heimdall_server.decode import lines, octets
from heimdall_server.decode.heads import head_regex, read_groups
from heimdall_server.decode.line_records import Fields, decode_records
from heimdall_server.decode.pairs import pair_maps
from heimdall_server.decode.patterns import (
    CONTINUATION,
    ISO_LAYOUT,
    RFC3164_REGEX,
    RFC5424_REGEX,
    SYSLOG_LAYOUT,
    Pattern,
)
from heimdall_server.domain.decoding import DecodeContext, Decoded, Format
from heimdall_server.domain.errors import FormatError

NEWLINE: Final = "newline"
OCTET: Final = "octet"
_STRUCTURED: Final = "structured_data"
_ELEMENT: Final = r'\[[^\s\]="]+(?: +[^\s\]="]+="(?:[^"\\]|\\.)*")* *\]'
_ID_CHARACTERS_MAX: Final = 128
"""RFC 5424 allows 32. Every parameter's key begins with it, so a long one times many would explode: it is cut."""
_PARAMETER: Final = r'[^\s\]="]+="(?:[^"\\]|\\.)*"'
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\]": "]"}


def framing_of(format_: Format) -> str:
    """The framing that a resolved format names.

    Raises:
        FormatError: No such framing.
    """
    framing = format_.options.get("framing", NEWLINE)
    if framing not in (NEWLINE, OCTET):
        raise FormatError("syslog", f"the option framing must be {NEWLINE} or {OCTET}")
    return framing


def complete_length(
    buffer: bytes,
    format_: Format,
    *,
    at_start: bool,  # noqa: ARG001 - as all decoders
    final: bool,
    frames_max: int | None = None,
) -> int:
    """How many leading bytes are whole messages; see `lines.complete_length` and `octets.complete_length`.

    Raises:
        FormatError: The options can't be used.
        RecordTooLargeError: As there.
    """
    if framing_of(format_) == OCTET:
        return octets.complete_length(buffer, final=final, frames_max=frames_max)
    return lines.complete_length(buffer, _begins, final=final)


def oversize_prefix(buffer: bytes, format_: Format, *, final: bool) -> tuple[int, bool]:
    """After `RecordTooLargeError`: see `lines.oversize_prefix` and `octets.oversize_prefix`."""
    if framing_of(format_) == OCTET:
        return octets.oversize_prefix(buffer, final=final)
    return lines.oversize_prefix(buffer, final=final)


def decode(
    chunk: bytes,
    format_: Format,
    context: DecodeContext,
    *,
    at_start: bool,  # noqa: ARG001 - as all decoders
) -> Decoded:
    """Decode whole messages.

    Args:
        chunk: As `complete_length` cut it.
        format_: Resolved.
        context: What the source says.
        at_start: Makes no difference here.

    Raises:
        FormatError: The options can't be used.
        InvalidArgumentError: The context's zone isn't known.
    """
    return decode_records(cut(chunk, framing_of(format_)), chunk, context, lambda part: read(part, context), shift=0)


def cut(chunk: bytes, framing: str) -> lines.Records:
    """Cut whole messages; what can't be one has a problem."""
    if framing == NEWLINE:
        return lines.split(chunk, _begins)
    frames = octets.find_frames(chunk, final=True)
    records = lines.cut(chunk, frames.bounds, problems=frames.problems)
    return records.without_prefix(pl.Series(frames.message_starts - frames.bounds[:-1], dtype=pl.Int64))


def _begins(text: pl.Series) -> npt.NDArray[np.bool_]:
    return ~text.str.contains(CONTINUATION).to_numpy()


def read(records: lines.Records, context: DecodeContext) -> Fields:
    """Read the fields of messages without a problem."""
    heads = records.heads()
    groups = heads.str.extract_groups(head_regex(RFC5424_REGEX)).struct.unnest()
    modern = groups["pri"].is_not_null()
    layout = ISO_LAYOUT
    if not modern.all():
        layout = ISO_LAYOUT if modern.any() else SYSLOG_LAYOUT
        groups = _with_older(groups, heads, modern)
    pattern = Pattern("syslog", RFC5424_REGEX, layout, numbers=frozenset({"pid"}))
    structured = groups[_STRUCTURED]
    fields = read_groups(records, groups.drop(_STRUCTURED), pattern, context)
    if structured.null_count() < len(structured):
        fields.maps += pair_maps(_parameters(structured), len(records))
    return fields


def _with_older(groups: pl.DataFrame, heads: pl.Series, modern: pl.Series) -> pl.DataFrame:
    """Fill in what RFC 3164 makes of the messages that aren't RFC 5424."""
    rows = (~modern).arg_true()
    older = heads.gather(rows).str.extract_groups(head_regex(RFC3164_REGEX)).struct.unnest()
    if len(rows) == len(heads):
        absent = [name for name in groups.columns if name not in older.columns]
        return older.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in absent)
    merged = {}
    for name in dict.fromkeys([*groups.columns, *older.columns]):
        column = (
            groups[name] if name in groups.columns else pl.Series([None], dtype=pl.String).new_from_index(0, len(heads))
        )
        merged[name] = column.clone().scatter(rows, older[name]) if name in older.columns else column
    return pl.DataFrame(merged)


def _parameters(structured: pl.Series) -> pl.DataFrame:
    """One row a parameter: message, `sd_id.param`, value. An element without parameters is one, and true."""
    rows = np.arange(len(structured), dtype=np.int64)
    elements = (
        pl.DataFrame({"row": rows, "element": structured.str.extract_all(_ELEMENT)})
        .explode("element")
        .drop_nulls()
        .with_columns(pl.col("element").str.extract(r"^\[([^\s\]=\"]+)", 1).str.head(_ID_CHARACTERS_MAX).alias("id"))
    )
    parameters = (
        elements.with_columns(pl.col("element").str.extract_all(_PARAMETER).alias("pair"))
        .explode("pair", empty_as_null=True)
        .with_columns(pl.col("pair").str.splitn("=", 2).struct.rename_fields(["name", "raw"]).alias("parts"))
        .unnest("parts")
    )
    value = pl.col("raw").str.head(-1).str.slice(1).str.replace_many(_ESCAPES)
    bare = pl.col("raw").is_null()
    return parameters.select(
        "row",
        pl.when(bare).then(pl.col("id")).otherwise(pl.col("id") + "." + pl.col("name")).alias("key"),
        pl.when(bare).then(pl.lit("true")).otherwise(value).alias("value"),
        pl.lit(value=False).alias("quoted"),
    ).unique(subset=["row", "key"], keep="last", maintain_order=True)
