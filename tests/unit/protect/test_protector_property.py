from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.protect.disguises import disguised
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.reference import Row, batch_of, protect_row, rows_of

PIECES = [
    "alice@example.com", "bob.müller@sub.example.co.uk", "a@b", "icon@2x.png", "pkg@1.2.rc1", "@", "_",
    "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "3782 822463 10005",
    "5555 ", "0.4111111111111111", "+4111111111111111", "1700000000000", "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00", "BE68 5390 0754 7034", "GB82 WEST 1234 5698 7654 32", "NL91ABNA0417164300",
    "078-05-1120", "123-45-6789", "000-12-3456", "ssn: 123456789", "SSN=123 45 6789", "social security number 123-45-6789",
    "+4915112345678", "+1 (415) 555-2671", "415-555-2671", "(415) 555-2671", "tel: 020 7946 0958", "phone=0171/1234567",
    "+33 6 12 34 56 78", "2024-01-02T03:04:05.678+01:00", "10.0.0.1", "1.2.3.4.5", "fe80::1", "2001:db8::1:", "::", "std::begin",
    "::ffff:10.0.0.1", "12:34:56", "eyJhbGciOiJI.eyJzdWIiOiIx.sig-_", "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9,
    "xoxb-123456789012-abc", "sk_live_" + "a1" * 12, "AIza" + "x" * 35, "password=", "password: ", "Password:", "passwd", "pwd=", "token", "token: ",
    "token:", "secret=", "api_key=", '"api-key": ', '"password":', "'secret': ", 'password="', '\\"token\\":\\"', "Authorization: Bearer ",
    "authorization: ", "Bearer ", "://user:", "https://", "[secret]", "[email]", "[", "]", "hunter2", "abc\\", "\\n", "\\", '"', "'", ",", ";", ":", "=",
    " ", "\n", "}", "{", "(", ")", "-----BEGIN RSA PRIVATE KEY-----", "MIIE-x\n", "-----END RSA PRIVATE KEY-----", "é", "中", "0", "9", "A", "x", "-", ".", "/",
    '{"a":1}', '{"b":"c"}', "[1,2]", "-12.5e3", "null",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)
KEYS = st.sampled_from(
    ["user", "user.email", "password", "db_password", "clientSecret", "Authorization", "ssn", "lesson", "card.number", "pan", "phone", "api-key", "note", ""]
)  # fmt: skip
NUMBERS = st.sampled_from(
    [
        0.0,
        -1.5,
        200.0,
        1.7e12,
        4111111111111111.0,
        4111111111111112.0,
        378282246310005.0,
        2.0**60,
        4.5e15 + 0.5,
        float("inf"),
    ]
)
TEXT_MAPS = st.dictionaries(KEYS, TEXTS, max_size=3)
NUMBER_MAPS = st.dictionaries(KEYS, NUMBERS, max_size=3)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    row: Row = {"source": draw(st.sampled_from(["app", "web", ""])), "body": draw(TEXTS)}
    for scope in ("attributes", "resource"):
        texts, numbers = draw(TEXT_MAPS), draw(NUMBER_MAPS)
        row[scope] = texts
        row[f"{scope}_number"] = {key: value for key, value in numbers.items() if key not in texts}
    for name in ("overflow", "service", "host", "severity_text", "event_name", "scope_name"):
        row[name] = draw(st.just("") | TEXTS)
    return row


POLICIES = [
    PrivacyPolicy(),
    PrivacyPolicy(7, (PrivacyRule("mask"),)),
    PrivacyPolicy(8, (PrivacyRule("drop", "card"), PrivacyRule("drop", "secret", field="attributes.*"), PrivacyRule("keep", "email", "app", "body"))),
    PrivacyPolicy(9, (PrivacyRule("keep", source="w*"), PrivacyRule("drop", "phone", field="note"), PrivacyRule("mask"))),
    PrivacyPolicy(10, (PrivacyRule("keep"),)),
    PrivacyPolicy(11, (PrivacyRule("drop"),)),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.version))
@settings(max_examples=15, deadline=None)
@given(records=st.lists(rows(), max_size=12))
def test_columns_equal_the_rules_applied_value_by_value(policy: PrivacyPolicy, records: list[Row]) -> None:
    batch = batch_of(records)
    protected = PolicyProtector(policy).protect(batch).batch
    protected.validate(full=True)
    assert protected.schema == batch.schema
    for row, done in zip(rows_of(batch), rows_of(protected), strict=True):
        # The reference takes texts as they stand; what reads otherwise has tests of its own.
        if not _reads_otherwise(row):
            assert done == protect_row(row, policy)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.version))
@settings(max_examples=15, deadline=None)
@given(records=st.lists(rows(), max_size=12))
def test_protecting_twice_changes_nothing(policy: PrivacyPolicy, records: list[Row]) -> None:
    protector = PolicyProtector(policy)
    once = protector.protect(batch_of(records)).batch
    twice = protector.protect(once)
    assert rows_of(twice.batch) == rows_of(once)
    assert not twice.hits


# An unclosed quote inside a JSON string may be closed by a later one: masking goes before form.
JSON_TEXTS = st.lists(st.sampled_from([piece for piece in PIECES if "'" not in piece]), max_size=4).map("".join)
JSON_NUMBERS = st.integers(-(10**12), 10**12) | st.sampled_from([123456789, 491511234567, -5, 1e22])
CARDS = st.sampled_from([4111111111111111, -4111111111111111, 378282246310005, 4111111111111111.5])
LEAVES = JSON_TEXTS | JSON_NUMBERS | st.booleans() | st.none()
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | JSON_TEXTS, inner | CARDS, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(DOCUMENTS, min_size=5, max_size=20), ascii_only=st.booleans(), indent=st.sampled_from([None, 1])
)
def test_json_text_stays_json(documents: list[object], ascii_only: bool, indent: int | None) -> None:
    texts = [json.dumps({"d": document}, ensure_ascii=ascii_only, indent=indent) for document in documents]
    texts += [json.dumps([text]) for text in texts]
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    masked = protector.protect(batch_of([{"overflow": text} for text in texts])).batch
    # In a text that reads otherwise than it stands, a value may end where only its reading has an end.
    reads_otherwise = set(disguised(pa.array(texts, pa.string())).tolist())
    for row, text in enumerate(masked["overflow"].to_pylist()):
        if row not in reads_otherwise:
            json.loads(text)
    assert protector.protect(masked).batch["overflow"] == masked["overflow"]


@settings(max_examples=20, deadline=None)
@given(records=st.lists(rows(), min_size=3, max_size=8), start=st.integers(0, 2))
def test_slices_of_longer_columns_are_read_right(records: list[Row], start: int) -> None:
    sliced = batch_of(records).slice(start)
    copied = pa.concat_batches([batch_of(records[start:])])
    protector = PolicyProtector()
    assert rows_of(protector.protect(sliced).batch) == rows_of(protector.protect(copied).batch)


def _reads_otherwise(row: object) -> bool:
    if isinstance(row, str):
        return len(disguised(pa.array([row], pa.string()))) > 0
    if isinstance(row, Mapping):
        return any(map(_reads_otherwise, (*row, *row.values())))
    return isinstance(row, list | tuple) and any(map(_reads_otherwise, row))
