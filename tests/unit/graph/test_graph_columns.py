"""The arithmetic and the bytes below the graph's store, without a store."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.identity import entity_ids as identities_of
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_ids import (
    dump_id,
    edge_id,
    entity_ids,
    field_id,
    field_value_ids,
    octets,
    packed,
    sighting_id,
)
from heimdall_server.storage.postgres.binary_copy import END, HEAD, Column, Texts, array_integers, encode, pieces
from heimdall_server.storage.postgres.graph.cypher_text import returned_columns
from heimdall_server.storage.postgres.graph.facts import Pairs, Sums, concatenated
from heimdall_server.storage.postgres.graph.properties import token_marks, vertex_properties
from heimdall_server.storage.postgres.graph.ranges import joined, missing

LONGS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.tuples(LONGS, st.text(max_size=20), st.integers(-(2**15), 2**15 - 1), st.text(max_size=3)), max_size=20
)


def rows_of(copy: bytes) -> list[list[bytes]]:
    """Read a binary COPY as PostgreSQL's documentation tells it."""
    assert copy.startswith(HEAD)
    place, found = len(HEAD), []
    while (count := struct.unpack_from(">h", copy, place)[0]) != -1:
        place += 2
        row = []
        for _ in range(count):
            length = struct.unpack_from(">i", copy, place)[0]
            row.append(copy[place + 4 : place + 4 + length])
            place += 4 + length
        found.append(row)
    assert copy[place:] == END
    return found


@given(rows=ROWS, begin=st.integers(0, 3))
def test_what_is_encoded_can_be_read_field_by_field(rows: list[tuple[int, str, int, str]], begin: int) -> None:
    padded = pa.array(["before"] * begin + [row[1] for row in rows], pa.string()).slice(begin)
    keys = np.array([row[0] for row in rows], np.int64)
    octets_ = np.ascontiguousarray(keys).view(np.uint8).reshape(len(rows), 8)
    columns: list[Column] = [
        keys,
        Texts.of(padded, prefix=b"\x01"),
        np.array([row[2] for row in rows], np.int16),
        octets_,
        Texts.of(pa.array([row[3] for row in rows], pa.string())),
    ]
    for chosen in (columns, columns[1:], columns[:1] + columns[2:4]):
        copy = b"".join(bytes(piece) for piece in pieces(encode(chosen)))
        expected = [
            [
                struct.pack(">q", key),
                b"\x01" + one.encode(),
                struct.pack(">h", number),
                octets_[index].tobytes(),
                two.encode(),
            ]
            for index, (key, one, number, two) in enumerate(rows)
        ]
        places = [index for index, column in enumerate(columns) if any(column is other for other in chosen)]
        assert rows_of(copy) == [[row[place] for place in places] for row in expected]


@given(st.lists(LONGS, max_size=20))
def test_arrays_of_postgres_are_read(numbers: list[int]) -> None:
    head = struct.pack(">iii", 1 if numbers else 0, 0, 20) + (struct.pack(">ii", len(numbers), 1) if numbers else b"")
    answer = head + b"".join(struct.pack(">iq", 8, number) for number in numbers)
    assert array_integers(answer, 8).tolist() == numbers
    assert array_integers(None, 8).tolist() == []


RANGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda one: (one[0], one[0] + one[1])), max_size=8
)


@given(ranges=RANGES, wanted=st.tuples(st.integers(0, 40), st.integers(0, 10)))
def test_ranges_cover_what_their_positions_do(ranges: list[tuple[int, int]], wanted: tuple[int, int]) -> None:
    held: list[tuple[int, int]] = []
    for one in ranges:
        held = joined(held, one)
    covered = {position for first, last in ranges for position in range(first, last + 1)}
    assert {position for first, last in held for position in range(first, last + 1)} == covered
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(held))
    first, last = wanted[0], wanted[0] + wanted[1]
    gaps = missing(held, (first, last))
    assert [position for begin, end in gaps for position in range(begin, end + 1)] == [
        position for position in range(first, last + 1) if position not in covered
    ]


SEEN = st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 99), st.integers(0, 9), st.integers(0, 9))


def sums(rows: list[tuple[int, int, int, int, int]]) -> Sums:
    first, count, place = (np.array([row[index] for row in rows], np.int64) for index in (2, 3, 4))
    hours = np.zeros((len(rows), 24), np.int32)
    hours[:, 7] = count
    return Sums(first, first + 10, count, place, place, hours)


def pairs(rows: list[tuple[int, int, int, int, int]]) -> Pairs:
    return Pairs.of(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), sums(rows))


@given(rows=st.lists(SEEN, min_size=1, max_size=20), cut=st.integers(0, 20))
def test_sums_of_facts_are_the_same_however_rows_are_cut(rows: list[tuple[int, int, int, int, int]], cut: int) -> None:
    whole = pairs(rows)
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    halves = [pairs(part) for part in parts]
    again = Pairs.of(
        np.concatenate([half.fact for half in halves]),
        np.concatenate([half.provenance for half in halves]),
        concatenated([half.sums for half in halves]),
    )
    assert (again.fact.tolist(), again.provenance.tolist()) == (whole.fact.tolist(), whole.provenance.tolist())
    assert not again.sums.differs(whole.sums).any()
    for index, (fact, provenance) in enumerate(zip(whole.fact, whole.provenance, strict=True)):
        mine = [row for row in rows if row[:2] == (fact, provenance)]
        places = [row[4] for row in mine if row[4]]
        assert whole.sums.first_ns[index] == min(row[2] for row in mine)
        assert whole.sums.count[index] == sum(row[3] for row in mine)
        assert whole.sums.first_place[index] == (min(places) if places else 0)


@given(st.lists(st.text(), max_size=10))
def test_properties_are_json_whatever_the_values(values: list[str]) -> None:
    texts = pa.array(values, pa.string())
    days = pa.array([20_000] * len(values), pa.int32())
    made = vertex_properties(VertexKind.SIGHTING, texts, texts, days)
    for index, value in enumerate(values):
        told = json.loads(made.data[made.offsets[index] : made.offsets[index + 1]].tobytes())
        assert told == {"type": value, "value": value, "day": "2024-10-04"}


def test_only_whole_tokens_have_marks() -> None:
    word = "a" * 26
    values = [f"[email:0{word}]", f"[ipv4_24:z{word}]", f"x[email:0{word}]", f"[email:0{word}a]", "[", "plain", ""]
    assert token_marks(pa.array(values)).tolist() == [1, 36, 0, 0, 0, 0, 0]


def test_an_entity_has_the_first_bits_of_its_canonical_id() -> None:
    values = [f"host-{number}.example" for number in range(50)]
    identities = identities_of("domain", pa.array(["skipped", *values])).slice(1)
    found = entity_ids(identities)
    expected = [base64.b32decode(one.as_py()[-32:].upper())[:16] for one in identities]
    assert found.to_pylist() == expected
    assert packed(octets(found)).to_pylist() == expected
    assert len(entity_ids(pa.array([], pa.string()))) == 0
    for bad in (["short"], ["domain-1" + "1" * 32], [None]):
        with pytest.raises(ValueError, match="base32"):
            entity_ids(pa.array(bad, pa.string()))


def test_ids_differ_with_everything_that_they_follow_from() -> None:
    one, two = dump_id("one"), dump_id("two")
    ids = [
        one,
        two,
        field_id(one, "two"),
        field_id(two, "two"),
        *field_value_ids(one, [b"a", b"b"]).to_pylist(),
        sighting_id(one, "app", 1),
        sighting_id(one, "app", 2),
        sighting_id(one, "apps", 1),
        *(edge_id(kind, one, two) for kind in EdgeKind),
        edge_id(EdgeKind.RELATED_TO, one, two, "same-as"),
        edge_id(EdgeKind.RELATED_TO, two, one, "same-as"),
    ]
    assert len(set(ids)) == len(ids)
    assert {len(id_) for id_ in ids} == {16}
    assert one == hashlib.blake2b(b"one", digest_size=16, person=b"heimdall dump v1").digest()


def test_a_provenance_is_known_by_all_of_it() -> None:
    texts = ("instance", "source", "method", "method_version", "dump", "actor")
    plain = Provenance("i", "s", "m")
    others = [replace(plain, **dict[str, Any]({name: "ss"})) for name in texts]
    others += [
        Provenance("i", "s", "m", confidence=1),
        Provenance("i", "s", "m", tlp=Tlp.RED),
        Provenance("is", "", "m"),
    ]
    assert len({one.digest for one in (plain, *others)}) == len(others) + 1
    for bad in ({"confidence": 101}, {"actor": "a\0"}, {"dump": "x" * 2049}):
        with pytest.raises(ValueError, match=r"confidence|texts"):
            replace(plain, **bad)


def test_labels_of_tlp_are_read_and_told() -> None:
    assert [tlp.label for tlp in Tlp] == ["clear", "green", "amber", "amber+strict", "red"]
    assert [Tlp.of(tlp.label, unlabelled=Tlp.RED) for tlp in Tlp] == list(Tlp)
    assert Tlp.of("", unlabelled=Tlp.GREEN) is Tlp.GREEN
    with pytest.raises(ValueError, match="no TLP label"):
        Tlp.of("white", unlabelled=Tlp.RED)


@given(st.text(alphabet="MATCHRETURNWI ()[]{}-*'\"`/,.;$nx1 \n", max_size=60))
def test_any_text_is_refused_or_names_its_columns(text: str) -> None:
    with contextlib.suppress(QuerySyntaxError):
        columns = returned_columns(text)
        assert columns
        assert all(columns)
