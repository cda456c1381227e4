"""Records for tests: from a few named values, or at random, with a vocabulary small enough that queries hit.

Strategies for records and for expression trees draw from the same words, keys and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Not,
    Operator,
    Or,
    Regex,
    TimeLiteral,
    Wildcard,
    Words,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA

TIME_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""

WORDS = ("timeout", "time", "out", "café", "ünder", "ß", "x1", "42", "kelvin", "你好", "a")
PIECES = (
    *WORDS,
    "Timeout",
    "TIME",
    "CAFÉ",
    "K",
    " ",
    " ",
    "-",
    "_",
    "\n",
    ".",
    "/",
    "'",
    '"',
    "\\",
    "%",
    "[",
    ":",
    "\x01",
)
TEXTS = ("", "api", "API", "web-1", "web_1", "web1", "a*b", "a?b", "a\\b", "a%b", "x\ny", "é", "10", "true", "z'z", '"')
ADDRESSES = (
    "10.1.2.3",
    "10.255.0.1",
    "11.0.0.1",
    "010.1.2.3",
    "10.1.2",
    "10.1.2.3 ",
    "::ffff:10.1.2.3",
    "::ffff:010.1.2.3",
    "::FFFF:a01:203",
    "2001:db8::1",
    "2001:DB8:0:0::2",
    "2001:db9::1",
    "::",
    "::1",
    "1.2.3.256",
    "fe80::1%eth0",
)
NETWORKS = ("10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "::1/128", "::ffff:10.0.0.0/104")
NUMBERS = (0.0, 1.0, -1.0, 10.0, 200.0, 1.5, -2.5, 1e21, 2.0**53, 1e-7, 17.0, 5.0)
PATTERNS = (
    "a",
    "^api$",
    "x.y",
    "(?s)x.y",
    "(?i)API",
    "web[-_]?1",
    r"\d+",
    "time(out)?",
    "",
    "a|^$",
    r"\bout\b",
    "é",
    r"\\",
    "^",
    "a$",
    r"(?m)^y",
    "[^a-z]",
    r"\x01",
    "T.*t",
)
WILDCARDS = ("*", "a*", "*1", "web?1", "w*1", "a\\*b", "a?b", "?", "??", "*a*", "a\\\\b", "x*y", "é", "%", "a_b", "*.*")
BODY_WILDCARDS = (
    "time*",
    "*out",
    "*out*",
    "t*t",
    "t?me",
    "caf?",
    "*é",
    "x?",
    "?",
    "*-*",
    "out-*",
    "tim*out",
    "*",
    "ß*",
    "[*",
    "*/a",
)
KEYS = ("status", "user", "ok", "ip", "shared", "k.dotted", "ключ")
IDS = (bytes(16), bytes(range(16)), b"\xab" * 16)


def record(row: int, **values: Any) -> dict[str, Any]:
    """A record: what isn't given is missing; maps are plain dicts."""
    defaults: dict[str, Any] = {}
    for field in POSITIONED_SCHEMA:
        if pa.types.is_map(field.type):
            defaults[field.name] = {}
        elif pa.types.is_fixed_size_binary(field.type):
            defaults[field.name] = bytes(field.type.byte_width)
        else:
            defaults[field.name] = "" if pa.types.is_string(field.type) else 0
    times = {"time": TIME_NS + row, "observed_time": TIME_NS + row}
    return {**defaults, **times, "dataset": "logs", "position": 1, "row": row, **values}


def batch_of(records: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Records as columns of `POSITIONED_SCHEMA`."""
    columns = []
    for field in POSITIONED_SCHEMA:
        values = [each[field.name] for each in records]
        if pa.types.is_map(field.type):
            values = [list(value.items()) for value in values]
        columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=POSITIONED_SCHEMA)


def _map(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(KEYS), values, max_size=3)


bodies = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
texts = st.sampled_from((*TEXTS, *ADDRESSES))
attributes = st.fixed_dictionaries(
    {},
    optional={
        "attributes": _map(texts),
        "attributes_number": _map(st.sampled_from((*NUMBERS, float("nan")))),
        "attributes_bool": _map(st.booleans()),
        "resource": _map(texts),
        "resource_number": _map(st.sampled_from(NUMBERS)),
        "resource_bool": _map(st.booleans()),
    },
)
core = st.fixed_dictionaries(
    {},
    optional={
        "body": bodies,
        "tokens": bodies,
        "service": texts,
        "host": texts,
        "source": texts,
        "severity": st.integers(0, 24),
        "flags": st.sampled_from((0, 1, 200, 2**32 - 1)),
        "record_number": st.sampled_from((0, 1, 2**53 + 1, 2**64 - 1)),
        "trace_id": st.sampled_from(IDS),
        "time": st.integers(-3, 3).map(lambda step: TIME_NS + step),
    },
)


@st.composite
def batches(draw: st.DrawFn, *, max_size: int = 25) -> pa.RecordBatch:
    """A batch of `POSITIONED_SCHEMA` with rows 0, 1, 2, …"""
    drawn = draw(st.lists(st.tuples(core, attributes), min_size=1, max_size=max_size))
    return batch_of([record(row, **one, **two) for row, (one, two) in enumerate(drawn)])


keywords = st.sampled_from(("service", "host", "source")).map(lambda name: FieldRef(Scope.CORE, name))
attribute_fields = st.builds(
    FieldRef, st.sampled_from((Scope.ANY, Scope.ATTRIBUTES, Scope.RESOURCE)), st.sampled_from(KEYS)
)
text_fields = st.one_of(keywords, attribute_fields)
operators = st.sampled_from(tuple(Operator))
BODY = FieldRef(Scope.CORE, "body")
word_fields = st.sampled_from(("body", "tokens")).map(lambda name: FieldRef(Scope.CORE, name))
TRACE_ID = FieldRef(Scope.CORE, "trace_id")

leaves: st.SearchStrategy[Expression] = st.one_of(
    st.just(All()),
    st.builds(Words, word_fields, st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple)),
    st.builds(Compare, text_fields, operators, texts),
    st.builds(Compare, attribute_fields, operators, st.sampled_from(NUMBERS)),
    st.builds(Compare, attribute_fields, st.just(Operator.EQ), st.booleans()),
    st.builds(
        Compare,
        st.sampled_from(("severity", "flags", "record_number", "row")).map(lambda name: FieldRef(Scope.CORE, name)),
        operators,
        st.sampled_from((*NUMBERS, 2.0**53, 2.0**64)),
    ),
    st.builds(
        Compare,
        st.just(FieldRef(Scope.CORE, "time")),
        operators,
        st.integers(-3, 3).map(lambda step: TimeLiteral(TIME_NS + step)),
    ),
    st.builds(Compare, st.just(TRACE_ID), st.just(Operator.EQ), st.sampled_from(IDS).map(bytes.hex)),
    st.builds(Wildcard, text_fields, st.sampled_from(WILDCARDS)),
    st.builds(Wildcard, st.just(TRACE_ID), st.sampled_from(("0001*", "*ab", "*0?0f*", "????*", "a*"))),
    st.builds(Wildcard, word_fields, st.sampled_from(BODY_WILDCARDS)),
    st.builds(Regex, st.one_of(text_fields, word_fields), st.sampled_from([each for each in PATTERNS if each])),
    st.builds(Cidr, text_fields, st.sampled_from(NETWORKS)),
    st.builds(
        Exists,
        st.one_of(
            text_fields,
            st.sampled_from(("body", "tokens", "severity", "flags", "time", "trace_id")).map(
                lambda name: FieldRef(Scope.CORE, name)
            ),
        ),
    ),
)

expressions: st.SearchStrategy[Expression] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=5).map(tuple)),
    ),
    max_leaves=8,
)
"""Trees that `check_query` accepts, over the fields that `batches` fills."""
