"""Reading the pieces of records' first lines by a pattern: named groups → core columns and attributes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from heimdall_server.decode import cells, mapping, severity
from heimdall_server.decode.civil import Stamps
from heimdall_server.decode.layouts import read_stamps
from heimdall_server.decode.line_records import Fields
from heimdall_server.decode.lines import Records, joined_lines
from heimdall_server.decode.patterns import Pattern
from heimdall_server.decode.priorities import read_priorities
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.records import Severity

PROGRAM_ATTRIBUTE: Final = "program"
"""Where a line's program goes if the source has a service of its own."""
FACILITY_ATTRIBUTE: Final = "facility"
PRIORITY_ATTRIBUTE: Final = "pri"
"""Where a PRI goes that names no severity."""

HEAD: Final = "_head"
"""Group around a pattern's whole match."""
_CORE: Final = frozenset({HEAD, "time_year", "time", "time_fraction", "level", "host", "service", "pri", "body"})
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500


def read_plain(records: Records) -> Fields:
    """All of the record is body."""
    return Fields(core={"body": cells.to_arrow(joined_lines(records.text))})


def read_heads(records: Records, pattern: Pattern, context: DecodeContext) -> Fields:
    """Read records by an entry of the catalogue."""
    # One entry's head goes over two lines; all others must not run into the lines that join.
    source = records.text if pattern.start else records.heads()
    return read_groups(records, source.str.extract_groups(head_regex(pattern.regex)).struct.unnest(), pattern, context)


def head_regex(regex: str) -> str:
    """A pattern's regex with a group around all of it, whose length tells where the body begins."""
    return f"^(?P<{HEAD}>{regex.removeprefix('^')})"


def read_groups(records: Records, groups: pl.DataFrame, pattern: Pattern, context: DecodeContext) -> Fields:
    """Make fields of named groups.

    Args:
        records: Where the groups come from.
        groups: One column a group, `head_regex`'s among them; null where a record doesn't match.
        pattern: What the groups mean.
        context: Zone, reference time, and whether the source has a service of its own.
    """
    fields = Fields(core={"body": cells.to_arrow(_body(records, groups))})
    if "time" in groups.columns:
        _read_times(fields, groups, pattern, context)
    _read_severities(fields, groups, pattern)
    if "host" in groups.columns:
        fields.core["host"] = cells.to_arrow(_stated(groups["host"]))
    if "service" in groups.columns:
        program = cells.to_arrow(_stated(groups["service"]))
        if context.service:
            fields.attributes.append((PROGRAM_ATTRIBUTE, program))
        else:
            fields.core["service"] = program
    for name in groups.columns:
        if name in _CORE:
            continue
        values = _stated(groups[name])
        if name in pattern.numbers:
            fields.attributes += [(name, part) for part in _numbers_or_text(values)]
        else:
            fields.attributes.append((name, cells.to_arrow(values)))
    return fields


def read_custom(records: Records, pattern: Pattern, *, is_dump: bool = False) -> Fields:
    """Read records by a user's regex: groups are named as fields are in `mapping`.

    Args:
        records: The cut chunk.
        pattern: The regex.
        is_dump: All groups stay attributes, too.
    """
    heads = records.heads()
    groups = heads.str.extract_groups(pattern.regex).struct.unnest()
    named = {name: groups[name] for name in groups.columns if not name.isdigit()}
    body_names = [name for name in named if mapping.target_of(name) == "body"]
    # Lines that don't match are all body.
    body = heads
    kept: list[tuple[str, pa.Array]] = []
    if body_names:
        first = named.pop(body_names[0])
        body = pl.select(pl.coalesce(first, heads)).to_series()
        kept = [(body_names[0], cells.to_arrow(cells.present(first)))] if is_dump else kept
    columns: dict[str, list[pa.Array]] = {}
    for name, values in named.items():
        texts = cells.present(values)
        columns[name] = cells.variants(texts) if mapping.target_of(name) is None else [cells.to_arrow(texts)]
    core, attributes = mapping.split(columns, keep=is_dump)
    # A second group that would be the body stays what it is called.
    second = core.pop("body", [])
    attributes += kept if is_dump else [(body_names[1], part) for part in second]
    core["body"] = [cells.to_arrow(_with_rest(records, body))]
    return Fields(core=dict(core), attributes=attributes, columns_kept=is_dump)


def _body(records: Records, groups: pl.DataFrame) -> pl.Series:
    """What remains of each record behind its head, or its group `body` and the lines that joined it."""
    if "body" not in groups.columns:
        return records.rests(groups[HEAD].str.len_bytes().fill_null(0).cast(pl.Int64))
    heads = records.heads()
    return _with_rest(records, pl.select(pl.coalesce(groups["body"], heads)).to_series())


def _with_rest(records: Records, first: pl.Series) -> pl.Series:
    rests = records.rests()
    joined = rests != ""
    if not joined.any():
        return first
    both = pl.select(pl.when(joined).then(first + "\n" + rests).otherwise(first))
    return both.to_series()


def _stated(values: pl.Series) -> pl.Series:
    """A group's values, where a dash or nothing means that there is none."""
    absent = (values == "-") | (values == "")
    return values.set(absent, None) if absent.any() else values


def _numbers_or_text(values: pl.Series) -> list[pa.Array]:
    numbers = values.cast(pl.Float64, strict=False)
    lost = numbers.null_count() > values.null_count()
    return cells.variants(values) if lost else [cells.to_arrow(numbers)]


def _read_times(fields: Fields, groups: pl.DataFrame, pattern: Pattern, context: DecodeContext) -> None:
    text = groups["time"]
    if "time_year" in groups.columns:
        text = groups["time_year"] + " " + text
    if "time_fraction" in groups.columns:
        text = text + groups["time_fraction"]
    text = _stated(text)
    fields.core["time"] = cells.to_arrow(text)
    fields.stamps = _read_matched(text, pattern.layout, context)


def _read_matched(text: pl.Series, layout: str, context: DecodeContext) -> Stamps:
    """Read the stamps of the lines that matched; the others have none."""
    if text.null_count() == 0:
        return read_stamps(text, layout, context)
    stamps = Stamps.none(len(text))
    rows = text.is_not_null().arg_true().to_numpy()
    if rows.size:
        stamps.put(rows, read_stamps(text.gather(rows), layout, context))
    return stamps


def _read_severities(fields: Fields, groups: pl.DataFrame, pattern: Pattern) -> None:
    if "level" in groups.columns:
        words = cells.to_arrow(groups["level"])
        fields.core["severity_text"] = words
        fields.core["severity"] = _numbers_of(words, pattern)
    elif pattern.status_severity:
        status = groups["status"].cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        numbers = np.select(
            [status >= _SERVER_ERROR, status >= _CLIENT_ERROR, status > 0],
            [Severity.ERROR, Severity.WARN, Severity.INFO],
            Severity.UNSPECIFIED,
        )
        fields.core["severity"] = _stated_numbers(numbers)
    elif "pri" in groups.columns and groups["pri"].null_count() < len(groups):
        numbers, words, facilities = read_priorities(groups["pri"])
        fields.core |= {"severity": numbers, "severity_text": words}
        fields.attributes.append((FACILITY_ATTRIBUTE, facilities))
        unknown = groups["pri"].is_not_null() & pl.Series(numbers.is_null())
        if unknown.any():
            fields.attributes.append((PRIORITY_ATTRIBUTE, cells.to_arrow(groups["pri"].set(~unknown, None))))


def _numbers_of(words: pa.Array, pattern: Pattern) -> pa.Array:
    """Severity numbers of words, each distinct word looked up once."""
    encoded = words.dictionary_encode()
    numbers = severity.from_words(encoded.dictionary).astype(np.int64)
    for index, word in enumerate(encoded.dictionary.to_pylist()):
        numbers[index] = pattern.levels.get(word.lower(), numbers[index])
    return pa.array(np.where(numbers > 0, numbers, 0), mask=numbers == 0).take(encoded.indices)


def _stated_numbers(numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(numbers.astype(np.int64), mask=numbers == 0)
