"""What nearly everybody meets is on lists, and facts about it are believed less."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import CANONICALISERS
from heimdall_server.canonical.identity import entity_ids
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.domain.warninglists import Match, Warninglist, from_plain, to_plain
from heimdall_server.projections.graph.confidence import lowered
from heimdall_server.projections.graph.extraction import Facts, look
from heimdall_server.projections.graph.warninglists.files import packaged
from heimdall_server.projections.graph.warninglists.matching import NOT_LISTED, Warninglists
from tests.support.random_records import record

PACKAGE_BYTES_MAX = 1 << 20
PACKAGED = Warninglists(packaged())


def listing(name: str, match: Match, types: Sequence[str], entries: Sequence[str] = (), confidence: int = 10) -> Any:
    return Warninglist(name, name, "", "here", "CC0-1.0", "1", match, tuple(types), confidence, tuple(entries))


def test_the_lists_that_come_with_the_server_are_small_say_where_they_are_from_and_hold_canonical_values() -> None:
    folder = resources.files("heimdall_server.projections.graph.warninglists") / "lists"
    assert sum(len(one.read_bytes()) for one in folder.iterdir()) <= PACKAGE_BYTES_MAX
    names = [one.name for one in PACKAGED.lists]
    assert len(names) == len(set(names)) > 15
    for one in PACKAGED.lists:
        assert one.source, one.name
        assert one.licence, one.name
        assert one.version, one.name
        assert one.description, one.name
        assert len(one.entries) == len(set(one.entries))
        assert one.entries or one.match is Match.PUBLIC_SUFFIX
        if one.match is Match.NETWORK:
            assert list(one.entries) == CANONICALISERS["ip"](pa.array(one.entries, pa.string())).values.to_pylist()
        else:
            understood = {
                value
                for name in one.types
                for value in CANONICALISERS[name](pa.array(one.entries, pa.string())).values.to_pylist()
            }
            assert set(one.entries) <= understood, one.name


@pytest.mark.parametrize(
    ("type_name", "value", "name"),
    [
        ("ipv4", "8.8.8.8", "public-resolvers"),
        ("ipv6", "2620:fe::fe", "public-resolvers"),
        ("ipv4", "10.11.12.13", "private-addresses"),
        ("ipv4", "100.64.0.1", "private-addresses"),
        ("ipv6", "fd00::1", "private-addresses"),
        ("ipv4", "10.1.0.0/16", "private-addresses"),
        ("ipv4", "127.0.0.1", "special-addresses"),
        ("ipv6", "fe80::1", "special-addresses"),
        ("ipv4", "203.0.113.7", "documentation-addresses"),
        ("ipv6", "2001:db8::1", "documentation-addresses"),
        ("ipv4", "239.1.2.3", "multicast-addresses"),
        ("ipv6", "ff02::1", "multicast-addresses"),
        ("ipv4", "52.95.110.1", "amazon-aws"),
        ("domain", "google.com", "tranco10k"),
        ("domain", "evil.example", "example-domains"),
        ("domain", "printer.local", "special-domains"),
        ("domain", "co.uk", "public-suffixes"),
        *(
            (name, hashlib.new(name, b"").hexdigest(), "empty-files")
            for name in ("md5", "sha1", "sha224", "sha256", "sha512")
        ),
    ],
)
def test_what_everybody_meets_is_on_a_list(type_name: str, value: str, name: str) -> None:
    assert name in PACKAGED.names(type_name, value)
    assert PACKAGED.confidences(type_name, pa.array([value]))[0] < NOT_LISTED


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("ipv4", "185.220.101.4"),
        ("ipv4", "10.0.0.0/7"),
        ("ipv4", "[ipv4:1" + "a" * 26 + "]"),
        ("ipv6", "2a01:4f8::1"),
        ("domain", "evil.duckdns.org"),
        ("domain", "notexample"),
        ("domain", "badlocal.net"),
        ("sha256", "ab" * 32),
        ("email", "alice@example.com"),
    ],
)
def test_what_only_looks_like_it_is_on_none(type_name: str, value: str) -> None:
    assert not PACKAGED.names(type_name, value)


def addresses(version: int) -> st.SearchStrategy[Any]:
    # Close together, so that they often meet.
    top = {4: 0x0A000000, 6: 0xFD << 120}[version]
    kind: Any = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return st.integers(0, 4096).map(lambda number: kind(top + number))


@st.composite
def networks(draw: st.DrawFn, version: int) -> Any:
    width = 32 if version == 4 else 128
    return ipaddress.ip_network((draw(addresses(version)), draw(st.integers(width - 12, width))), strict=False)


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_an_address_is_in_a_list_as_it_is_in_one_of_its_networks(version: int, data: st.DataObject) -> None:
    listed = data.draw(st.lists(networks(version), max_size=8))
    asked = data.draw(st.lists(networks(version) | addresses(version), min_size=1, max_size=20))
    lists = Warninglists([listing("n", Match.NETWORK, ("ipv4", "ipv6"), [str(one) for one in listed])])
    merged = list(ipaddress.collapse_addresses(listed))
    found = lists.confidences(f"ipv{version}", pa.array([str(one) for one in asked], pa.string())) < NOT_LISTED
    assert found.tolist() == [any(ipaddress.ip_network(one).subnet_of(other) for other in merged) for one in asked]


@given(st.text(max_size=40), st.sampled_from(["ipv4", "ipv6", "domain", "md5", "user_agent"]))
def test_any_text_may_be_asked_for(text: str, type_name: str) -> None:
    PACKAGED.names(type_name, text.encode(errors="replace").decode())


def test_the_least_of_several_lists_counts_and_digests_are_told_apart_by_their_length() -> None:
    lists = Warninglists(
        [
            listing("wide", Match.NETWORK, ("ipv4",), ["1.0.0.0/8"], 30),
            listing("narrow", Match.NETWORK, ("ipv4",), ["1.1.0.0/16"], 5),
            listing("digests", Match.VALUE, ("md5", "sha1"), ["d" * 32, "e" * 40]),
        ]
    )
    assert lists.confidences("ipv4", pa.array(["1.1.1.1", "1.2.1.1", "2.1.1.1"])).tolist() == [5, 30, NOT_LISTED]
    assert lists.names("md5", "d" * 32) == ["digests"]
    assert lists.names("sha1", "e" * 40) == ["digests"]
    assert not lists.names("sha1", "d" * 32)
    assert lists.confidences("ipv4", pa.array([], pa.string())).tolist() == []


def test_a_list_is_the_same_after_it_was_written_and_read() -> None:
    for one in PACKAGED.lists:
        assert from_plain(to_plain(one)) == one


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../up"},
        {"types": ["email"]},
        {"types": []},
        {"confidence": 101},
        {"confidence": "10"},
        {"match": "regex"},
        {"entries": "10.0.0.0/8"},
        {"entries": [1]},
        {"title": "a\x1b[2J"},
        {"further": 1},
    ],
)
def test_what_is_no_list_is_refused(change: dict[str, object]) -> None:
    plain = to_plain(listing("n", Match.NETWORK, ("ipv4",), ["10.0.0.0/8"]))
    with pytest.raises(ValueError, match=r"warninglist|regex"):
        from_plain(plain | change)


def facts_of(*rows: dict[str, Any]) -> Facts:
    batch = pa.RecordBatch.from_pylist([record(number, **row) for number, row in enumerate(rows)], schema=RECORD_SCHEMA)
    return look([(7, batch)], instance="here").facts(entity_ids)


def told(facts: Facts) -> dict[tuple[str, ...], set[int]]:
    """How much is believed of each vertex and edge."""
    found: dict[tuple[str, ...], set[int]] = {}
    values = {row["id"]: row["value"] for row in facts.vertices.to_pylist()}
    for row in facts.vertices.to_pylist():
        key: tuple[str, ...] = (VERTEX_KINDS[row["kind"]], row["value"])
        found.setdefault(key, set()).add(facts.provenances[row["provenance"]].confidence)
    for row in facts.edges.to_pylist():
        key = (EDGE_KINDS[row["kind"]], values[row["start"]], values[row["end"]])
        found.setdefault(key, set()).add(facts.provenances[row["provenance"]].confidence)
    return found


def test_facts_about_what_is_listed_are_believed_less_and_are_the_same_facts() -> None:
    plain = facts_of(
        {"source": "a", "body": "8.8.8.8 asked by 185.220.101.4"},
        {"source": "b", "body": "8.8.8.8"},
        {"dump": "d", "source": "c", "attributes": {"ip": "8.8.8.8", "other": "185.220.101.4"}, "record_number": 1},
    )
    less = lowered(plain, PACKAGED)
    for name in ("vertices", "edges"):
        before, after = getattr(plain, name), getattr(less, name)
        assert before.drop_columns(["provenance"]).equals(after.drop_columns(["provenance"]))
        after.validate(full=True)
    assert told(plain)["Entity", "8.8.8.8"] == {50}
    found = told(less)
    assert found["Entity", "8.8.8.8"] == {10}
    assert found["FieldValue", "8.8.8.8"] == {10}
    assert found["OF_ENTITY", "a", "8.8.8.8"] == {10}
    assert found["OF_ENTITY", "d", "8.8.8.8"] == {10}
    assert found["HAS_VALUE", "ip", "8.8.8.8"] == {10}
    assert found["OBSERVED_IN", "d", "ip"] == {10}
    assert found["Entity", "185.220.101.4"] == {50}
    assert found["OF_ENTITY", "a", "185.220.101.4"] == {50}
    assert found["HAS_VALUE", "other", "185.220.101.4"] == {50}
    assert found["Dump", "d"] == {50}
    assert found["HAS_FIELD", "d", "ip"] == {50}
    assert {(one.source, one.dump) for one in less.provenances} == {("a", ""), ("b", ""), ("c", "d")}
    assert lowered(less, PACKAGED) == less or told(lowered(less, PACKAGED)) == found
    assert lowered(plain, Warninglists()) is plain


def test_a_list_doesnt_raise_what_is_believed_less_already() -> None:
    lists = Warninglists([listing("sure", Match.NETWORK, ("ipv4",), ["8.0.0.0/8"], 90)])
    plain = facts_of({"source": "a", "body": "8.8.8.8"})
    less = lowered(plain, lists)
    assert less.provenances == plain.provenances
    assert np.array_equal(less.vertices.column("provenance"), plain.vertices.column("provenance"))
