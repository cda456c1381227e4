"""What is recognised in running text, and what only looks like it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.observables import OBSERVABLE_SCHEMA, OBSERVABLE_TYPES, find_observables

TOKEN = "email:1" + "a" * 26


def found(text: str, *types: str) -> set[tuple[str, str]]:
    table = find_observables(pa.array([text]), types or None)
    return set(zip(table["type"].to_pylist(), table["value"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 10.0.0.1:80 to 8.8.8.8.", {("ipv4", "10.0.0.1"), ("ipv4", "8.8.8.8")}),
        ("ip=1.2.3.4, (5.6.7.8)", {("ipv4", "1.2.3.4"), ("ipv4", "5.6.7.8")}),
        ("1.2.3.4 5.6.7.8", {("ipv4", "1.2.3.4"), ("ipv4", "5.6.7.8")}),
        ("peer 2001:DB8:0:0:0:0:0:1 via fe80::1", {("ipv6", "2001:db8::1"), ("ipv6", "fe80::1")}),
        (
            "beacon to evil.example and host=c2.evil.example:443",
            {("domain", "evil.example"), ("domain", "c2.evil.example")},
        ),
        (
            "GET https://Evil.example.com:443/a?b=c.",
            {("url", "https://evil.example.com/a?b=c"), ("domain", "evil.example.com")},
        ),
        ("http://1.2.3.4/x", {("url", "http://1.2.3.4/x"), ("ipv4", "1.2.3.4")}),
        ("fixes cve-2024-12345", {("cve", "CVE-2024-12345")}),
        ("digest " + "AB" * 32, {("sha256", "ab" * 32)}),
        ("sha512:" + "0c" * 64, {("sha512", "0c" * 64)}),
        (f"mail from [{TOKEN}] taken", {("token", TOKEN)}),
    ],
)
def test_values_in_texts_are_found_in_their_canonical_form(text: str, expected: set[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "version v1.2.3.4, 1.2.3.4.5, 1.2.3.4a, 999.1.1.1, 1.2.3",
        "std::vector<a::b> at 12:34:56 on 00:11:22:33:44:55",
        "java.io.File org.apache.hadoop.hdfs com.example.app main.py README.md libfoo.so /usr/lib/a.de/b.com",
        "user@mail.example.com",
        "mapreduce.job.id e.g. U.S. i.e. 3.14 a.b",
        "trace 0123456789abcdef0123456789abcdef",  # an id, as likely as an MD5
        "x" + "a" * 64 + " " + "a" * 65,
        "cve-24-1 and mycve-2024-12345",
        "[email:short] [Email:1" + "a" * 26 + "] email:1" + "a" * 26,
        "",
    ],
)
def test_what_only_looks_like_a_value_is_left_alone(text: str) -> None:
    assert found(text) == set()


def test_a_value_counts_once_a_text_and_rows_are_those_of_the_texts() -> None:
    table = find_observables(pa.array([None, "1.2.3.4 and 1.2.3.4", "nothing", "1.2.3.4"]), ["ipv4"])
    assert table.schema == OBSERVABLE_SCHEMA
    assert table["row"].to_pylist() == [1, 3]


def test_a_value_that_is_all_of_a_text_is_told_from_one_among_words() -> None:
    table = find_observables(pa.array([" 1.2.3.4 ", "from 1.2.3.4", f"[{TOKEN}]"]))
    assert table["whole"].to_pylist() == [True, False, True]


def test_only_the_types_that_are_asked_for_are_looked_for() -> None:
    text = "1.2.3.4 CVE-2024-12345"
    assert found(text, "cve") == {("cve", "CVE-2024-12345")}
    with pytest.raises(KeyError):
        found(text, "colour")


@given(st.lists(st.text(max_size=60), max_size=8))
def test_whatever_the_texts_are_what_is_found_is_canonical(texts: list[str]) -> None:
    table = find_observables(pa.array([text.encode(errors="replace").decode() for text in texts], pa.string()))
    assert set(table["type"].to_pylist()) <= set(OBSERVABLE_TYPES)
    for row in table.to_pylist():
        if row["type"] != "token":
            assert (row["type"], row["value"]) in found(f" {row['value']} ")
