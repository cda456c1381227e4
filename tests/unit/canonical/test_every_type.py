from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import CANONICALISERS, TYPES, display
from heimdall_server.canonical.column import FAST_VALUES_MIN, Canonical, CanonicalColumn, Change
from heimdall_server.canonical.email import email
from heimdall_server.canonical.hashes import file_hash
from heimdall_server.canonical.paths import file_path
from heimdall_server.canonical.phone import phone
from tests.unit.canonical.spellings import column_of, texts_for

ALL_TYPES = sorted(TYPES)
LONG = [
    "a" * 300_000,
    "1." * 100_000,
    "[.]" * 50_000,
    "\ufdfa" * 40_000,
    "http://" + "a." * 60_000,
    ":" * 100_000,
    "%2e" * 90_000,
    "@" * 99_999,
]


@pytest.mark.parametrize("type_name", ALL_TYPES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_canonical_value_stays_what_it_is_and_can_be_shown(type_name: str, data: st.DataObject) -> None:
    texts = data.draw(texts_for(type_name))
    column = column_of(type_name, *texts)
    accepted = [value for value in column.values.to_pylist() if value is not None]
    again = column_of(type_name, *accepted)
    assert again.values.to_pylist() == accepted
    assert not any(changes & ~Change.CONFUSABLE & ~Change.ASSUMED for changes in again.changes.to_pylist())
    shown = [display(type_name, value) for value in accepted]
    assert column_of(type_name, *shown).values.to_pylist() == accepted


@pytest.mark.parametrize("type_name", ALL_TYPES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_fast_path_decides_as_the_exact_rule_does(type_name: str, data: st.DataObject) -> None:
    texts = data.draw(texts_for(type_name))
    column = column_of(type_name, *texts)
    for row, text in enumerate(texts):
        one = TYPES[type_name].read(text)
        value = column.values[row].as_py()
        if isinstance(one, Canonical):
            assert (value, column.changes[row].as_py()) == (one.value, one.changes), text
            assert column.confidence[row].as_py() == pytest.approx(one.confidence)
            assert column.reasons[row].as_py() is None
        else:
            assert value is None, text
            assert column.reasons[row].as_py() == one.reason
            assert column.confidence[row].as_py() == 0
            assert column.changes[row].as_py() == 0


PARAMETERS: dict[str, tuple[str, Callable[[pa.StringArray], CanonicalColumn]]] = {
    "email, local part kept": ("email", lambda values: email(values, local="keep")),
    "phone in Germany": ("phone", lambda values: phone(values, region="DE")),
    "phone in Italy": ("phone", lambda values: phone(values, region="IT")),
    "hash of SHA-3": ("hash", lambda values: file_hash(values, context="file.sha3-256")),
    "imphash": ("hash", lambda values: file_hash(values, context="pe.imphash")),
    "path of Windows": ("file_path", lambda values: file_path(values, system="windows")),
    "path of POSIX": ("file_path", lambda values: file_path(values, system="posix")),
}


@pytest.mark.parametrize("name", PARAMETERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_canonical_value_stays_what_it_is_under_every_parameter(name: str, data: st.DataObject) -> None:
    type_name, rule = PARAMETERS[name]
    texts = [*data.draw(texts_for(type_name)), *(f"filler {at}" for at in range(FAST_VALUES_MIN))]
    once = rule(pa.array(texts, pa.string())).values.drop_null()
    assert rule(once).values.to_pylist() == once.to_pylist()
    # Beside fillers the fast path is used, alone the exact rule.
    assert [rule(pa.array([text])).values[0].as_py() for text in texts[:3]] == rule(pa.array(texts)).values.to_pylist()[
        :3
    ]


@pytest.mark.parametrize("type_name", ALL_TYPES)
def test_very_long_texts_are_judged_in_no_time_and_refused_with_a_reason(type_name: str) -> None:
    column = column_of(type_name, *LONG)
    assert all(reason for reason in column.reasons.to_pylist())
    assert column.values.null_count == len(LONG)


@pytest.mark.parametrize("type_name", ALL_TYPES)
def test_no_reason_repeats_the_value(type_name: str) -> None:
    column = column_of(type_name, "s3cret-Value é", "", None)
    assert column.values.null_count == 3 or type_name in ("file_path", "user_agent")
    assert not any("s3cret" in (reason or "") for reason in column.reasons.to_pylist())
    assert all(column.reasons.to_pylist()[1:])


@pytest.mark.parametrize("type_name", ALL_TYPES)
def test_an_empty_column_stays_empty(type_name: str) -> None:
    column = CANONICALISERS[type_name](pa.array([], pa.string()))
    assert [len(part) for part in (column.values, column.changes, column.confidence, column.reasons)] == [0, 0, 0, 0]


@pytest.mark.parametrize("type_name", ALL_TYPES)
def test_every_rule_cites_its_source(type_name: str) -> None:
    rule = CANONICALISERS[type_name]
    doc = getattr(rule, "func", rule).__doc__ or ""
    module = __import__(getattr(rule, "func", rule).__module__, fromlist=["_"]).__doc__ or ""
    assert any(source in doc + module for source in ("RFC", "ISO", "IEEE", "FIPS", "STIX", "POSIX", "CVE", "E.164"))
