"""What can be recognised in running text: addresses, names, digests and tokens, each in canonical form.

For text that was written for people or programs, not for us: `java.io.File` isn't a host, `10.2.1.0.7` isn't an address, and 32 hexadecimal
digits are an id more often than an MD5. What is doubtful isn't found; a field whose name says what it holds is read by its type instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.canonical.catalogue import CANONICALISERS
from heimdall_server.canonical.column import Change, to_arrow
from heimdall_server.canonical.domain import UNKNOWN_SUFFIX_CONFIDENCE
from heimdall_server.domain.personal import CLASS_PATTERN, WORD_PATTERN

TOKEN_TYPE: Final = "token"  # noqa: S105 - the name of a type
"""Its values are tokens of personal values without their brackets: `class:word`."""
OBSERVABLE_SCHEMA: Final = pa.schema(
    [
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("whole", pa.bool_(), nullable=False),
    ]
)
"""`row`: of the text; `type`: a name of the catalogue of types, or `TOKEN_TYPE`; `value`: canonical; `whole`: it is all that the text says."""

# What ends in these is a file, a piece of code or a unit more often than a name of the DNS.
_NOT_SUFFIXES: Final = frozenset(
    [
        "app",
        "cc",
        "cfg",
        "csv",
        "do",
        "gz",
        "id",
        "in",
        "info",
        "ini",
        "is",
        "java",
        "jar",
        "js",
        "json",
        "log",
        "map",
        "md",
        "mov",
        "name",
        "ms",
        "no",
        "page",
        "pl",
        "properties",
        "ps",
        "py",
        "rb",
        "rs",
        "run",
        "sh",
        "show",
        "so",
        "sql",
        "st",
        "swift",
        "to",
        "top",
        "ts",
        "txt",
        "vi",
        "work",
        "xml",
        "yaml",
        "yml",
        "zip",
    ]
)
# Not in the DNS, and yet names of hosts (RFC 2606, RFC 7686, and what networks at home and at work use).
_SPECIAL_SUFFIXES: Final = frozenset(["corp", "example", "home", "internal", "lan", "local", "onion", "test"])
# Names that begin with these are packages, written the other way round.
_PACKAGES: Final = frozenset(
    ["com", "de", "edu", "gov", "io", "java", "javax", "jdk", "kotlin", "net", "org", "scala", "sun"]
)
ENDS: Final = ".,;:!?)]}'\">"
"""What ends a sentence, or closes what was opened before a value."""
_DOMAIN_CHARACTERS_MIN: Final = 4
_IPV6_CHARACTERS_MIN: Final = 6


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of a type are found in a text."""

    gate: str
    """A cheap pattern; a text without it holds none."""
    run: str
    """A maximal run that may be a value: what stands beside a value makes it none, so runs are taken with it."""
    read: Callable[[pa.StringArray], pa.StringArray]
    """Distinct runs → canonical values; null: it is none."""


def find_observables(texts: pa.StringArray, types: Iterable[str] | None = None) -> pa.Table:
    """Find them.

    Args:
        texts: Any; null counts as "".
        types: Only these of `OBSERVABLE_TYPES` and `ASKED_TYPES`; none: all of the former.

    Returns:
        `OBSERVABLE_SCHEMA`, by type and row; each value once a text.

    Raises:
        KeyError: There is no such type.

    Cost: 0.4 to 1 µs a text that holds nothing, 3 to 6 one that does (text of 100 bytes, a core).
    """
    kinds = _KINDS if types is None else {name: _ASKED[name] if name in _ASKED else _KINDS[name] for name in types}
    series = pl.Series("text", texts, dtype=pl.String)
    found = [
        part
        for name, kind in kinds.items()
        if (part := _found(series, name, kind)) is not None  # a type at a time: few texts pass each gate
    ]
    return pa.concat_tables(found) if found else OBSERVABLE_SCHEMA.empty_table()


def _found(texts: pl.Series, name: str, kind: _Kind) -> pa.Table | None:
    rows = texts.str.contains(kind.gate).fill_null(value=False).arg_true()
    if not len(rows):
        return None
    passed = texts.gather(rows)
    runs = (
        pl.DataFrame({"row": rows, "text": passed, "run": passed.str.extract_all(kind.run)})
        .explode("run", empty_as_null=False)
        .drop_nulls()
    )
    distinct = runs["run"].unique()
    if not len(distinct):
        return None
    values = pl.DataFrame({"run": distinct, "value": pl.Series(kind.read(to_arrow(distinct)), dtype=pl.String)})
    found = (
        runs.join(values.drop_nulls(), on="run")
        .group_by("row", "value")
        .agg(whole=(pl.col("run") == pl.col("text").str.strip_chars()).any())
        .sort("row", "value")
    )
    if not len(found):
        return None
    return pa.table(
        [
            pa.array(found["row"].to_numpy(), pa.uint32()),
            pa.repeat(name, len(found)),
            to_arrow(found["value"]),
            found["whole"].to_arrow(),
        ],
        schema=OBSERVABLE_SCHEMA,
    )


def _by_type(name: str) -> Callable[[pa.StringArray], pa.StringArray]:
    """What the type's own rule understands without having had to mend it."""
    mended = int(Change.ASSUMED | Change.ZONE | Change.HOST_BITS | Change.EXTENSION)

    def read(runs: pa.StringArray) -> pa.StringArray:
        column = CANONICALISERS[name](_without_ends(runs))
        doubtful = pc.not_equal(pc.bit_wise_and(column.changes, pa.scalar(mended, pa.uint32())), 0)
        return pc.if_else(doubtful, pa.scalar(None, pa.string()), column.values)

    return read


def _ipv6(runs: pa.StringArray) -> pa.StringArray:
    """Addresses that can't be names of code (`a::b`)."""
    values = _by_type("ipv6")(runs)
    likely = pc.and_(
        pc.greater_equal(pc.utf8_length(values), _IPV6_CHARACTERS_MIN), pc.match_substring_regex(values, "[0-9]")
    )
    return pc.if_else(likely, values, pa.scalar(None, pa.string()))


def _domains(runs: pa.StringArray) -> pa.StringArray:
    """Hosts of URLs, and names below a public suffix that are neither files nor code."""
    texts = pl.Series(_without_ends(runs), dtype=pl.String)
    of_url = texts.str.starts_with("//")
    # A backslash escapes or parts something: that isn't a name as it is written.
    names = texts.str.strip_prefix("//").str.extract(r"^([^/\\]+)(?:/|$)").fill_null("")
    labels = names.str.split(".")
    likely = (
        (names.str.len_chars() >= _DOMAIN_CHARACTERS_MIN)
        & ~labels.list.last().is_in(list(_NOT_SUFFIXES))
        & ~labels.list.first().is_in(list(_PACKAGES))
        & ~names.str.contains(r"[A-Z_]")
        & (names == texts)
    )
    column = CANONICALISERS["domain"](to_arrow(names.set(~(of_url | likely), None)))
    last = pl.Series(column.values, dtype=pl.String).str.extract(r"([^.]+)$")
    special = pc.is_in(to_arrow(last), value_set=pa.array(list(_SPECIAL_SUFFIXES)))
    known = pc.or_(pc.greater(column.confidence, UNKNOWN_SUFFIX_CONFIDENCE), special)
    return pc.if_else(known, column.values, pa.scalar(None, pa.string()))


def _tokens(runs: pa.StringArray) -> pa.StringArray:
    return to_arrow(pl.Series(runs, dtype=pl.String).str.slice(1).str.strip_suffix("]"))


def _without_ends(runs: pa.StringArray) -> pa.StringArray:
    """Without what ends a sentence or closes what was opened before the value."""
    return to_arrow(pl.Series(runs, dtype=pl.String).str.strip_chars(ENDS))


_KINDS: Final[Mapping[str, _Kind]] = {
    "ipv4": _Kind(
        r"[0-9]\.[0-9]{1,3}\.[0-9]", r"(?-u:[\w.-]*\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}[\w.-]*)", _by_type("ipv4")
    ),
    "ipv6": _Kind(
        r"::|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:",
        r"(?-u:[\w:.-]*::[\w:.-]*|[\w:.-]*(?:[0-9A-Fa-f]{1,4}:){7}[\w:.-]*)",
        _ipv6,
    ),
    "domain": _Kind(r"[a-z0-9-]\.[a-z]{2}", r"(?-u:[\w@./\\$%-]*[a-z0-9-]\.[a-z]{2}[\w@./\\$-]*)", _domains),
    "url": _Kind(r"://", r"(?i)\b(?:https?|ftps?|wss?)://[^\s\"'<>|\\^`{}]+", _by_type("url")),
    "sha256": _Kind(r"[0-9A-Fa-f]{64}", r"(?-u:[\w-]*[0-9A-Fa-f]{64}[\w-]*)", _by_type("sha256")),
    "sha512": _Kind(r"[0-9A-Fa-f]{128}", r"(?-u:[\w-]*[0-9A-Fa-f]{128}[\w-]*)", _by_type("sha512")),
    "cve": _Kind(r"(?i)cve-", r"(?i)(?-u:[\w-]*\bcve-[0-9]{4}-[0-9]{4,}[\w-]*)", _by_type("cve")),
    TOKEN_TYPE: _Kind(r"\[[a-z][a-z0-9_]*:[0-9a-z]{27}\]", rf"\[{CLASS_PATTERN}:{WORD_PATTERN}\]", _tokens),
}

OBSERVABLE_TYPES: Final = tuple(_KINDS)
"""Types that are found in running text."""


def run_pattern(type_name: str) -> str:
    """RE2 of the runs that may be values of a type; each found one is read with what `ENDS` has at its ends taken off.

    For stores that look themselves: it finds the runs that `find_observables` looks at.
    """
    return _KINDS[type_name].run.replace("(?-u:", "(?:")


def gate_pattern(type_name: str) -> str:
    """RE2 of what every text with such a run has, and few others: cheaper to look for."""
    return _KINDS[type_name].gate


_ASKED: Final[Mapping[str, _Kind]] = {
    **{
        name: _Kind(rf"[0-9A-Fa-f]{{{digits}}}", rf"(?-u:[\w-]*[0-9A-Fa-f]{{{digits}}}[\w-]*)", _by_type(name))
        for name, digits in (("md5", 32), ("sha1", 40), ("sha224", 56), ("sha384", 96))
    },
    "mac": _Kind(
        r"[0-9A-Fa-f][:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]",
        r"(?-u:[\w:.-]*[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}[\w:.-]*)",
        _by_type("mac"),
    ),
    "asn": _Kind(r"AS[0-9]", r"(?-u:[\w.-]*\bASN?[0-9]{1,10}[\w.-]*)", _by_type("asn")),
}

ASKED_TYPES: Final = tuple(_ASKED)
"""Types that are found only where somebody who knows the texts asks for them: 32 hexadecimal digits are an id more often than an MD5."""
