"""What records hold, as facts of the graph."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import Any

import pyarrow as pa

from heimdall_server.canonical.identity import entity_ids, personal_entity_ids
from heimdall_server.domain.graph import EDGE_KINDS, EDGE_SCHEMA, VERTEX_KINDS, VERTEX_SCHEMA, Tlp
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.projections.graph.extraction import Facts, look
from tests.support.random_records import TIME_NS, record

HOUR_NS = 3600 * 10**9
ADA = "[email:1" + "a" * 26 + "]"
GONE = "[email:1" + "b" * 26 + "]"


def identify(type_name: str, values: pa.StringArray) -> pa.StringArray:
    if type_name == "email":
        kept = pa.array([None if value == GONE else value for value in values.to_pylist()], pa.string())
        return personal_entity_ids(type_name, kept, lambda message: hashlib.sha256(b"key" + message).digest())
    return entity_ids(type_name, values)


def records(*rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([record(number, **row) for number, row in enumerate(rows)], schema=RECORD_SCHEMA)


def facts(*frames: tuple[int, pa.RecordBatch]) -> Facts:
    found = look(frames, instance="here").facts(identify)
    assert found.vertices.schema.equals(VERTEX_SCHEMA)
    assert found.edges.schema.equals(EDGE_SCHEMA)
    found.vertices.validate(full=True)
    found.edges.validate(full=True)
    return found


def vertices(found: Facts, kind: str) -> list[dict[str, Any]]:
    return [row for row in found.vertices.to_pylist() if VERTEX_KINDS[row["kind"]] == kind]


def joined(found: Facts) -> Counter[tuple[str, str, str]]:
    """Edges by what they are and the values they join."""
    values = {row["id"]: row["value"] for row in found.vertices.to_pylist()}
    return Counter(
        (values[row["start"]], EDGE_KINDS[row["kind"]], values[row["end"]]) for row in found.edges.to_pylist()
    )


def test_a_source_of_two_identities_has_two_provenances() -> None:
    rows = [{"source": "a", "body": "10.0.0.1", "principal": name} for name in ("ann", "", "ben", "ann")]
    found = facts((1, records(*rows)))
    told = {found.provenances[row["provenance"]].actor: row["count"] for row in vertices(found, "Entity")}
    assert told == {"ann": 2, "": 1, "ben": 1}
    assert {one.source for one in found.provenances} == {"a"}
    assert len({row["id"] for row in vertices(found, "Sighting")}) == 1


def test_values_in_logs_become_entities_and_a_sighting_for_each_source_and_day() -> None:
    found = facts(
        (
            7,
            records(
                {"source": "a", "time": TIME_NS, "body": "from 10.0.0.1 and 10.0.0.1"},
                {"source": "a", "time": TIME_NS + HOUR_NS, "body": "x", "attributes": {"client_ip": "10.0.0.1"}},
                {"source": "b", "time": TIME_NS, "body": "10.0.0.1"},
            ),
        ),
        (9, records({"source": "a", "time": TIME_NS + 25 * HOUR_NS, "body": "10.0.0.1", "tlp": "red"})),
    )
    entities = vertices(found, "Entity")
    assert {(row["type"], row["value"]) for row in entities} == {("ipv4", "10.0.0.1")}
    assert len({row["id"] for row in entities}) == 1
    assert {(found.provenances[row["provenance"]].source, row["count"]) for row in entities} == {
        ("a", 2),
        ("b", 1),
        ("a", 1),
    }
    sightings = {(row["value"], row["day"]): row for row in vertices(found, "Sighting")}
    day = TIME_NS // (24 * HOUR_NS)
    assert sightings.keys() == {("a", day), ("b", day), ("a", day + 1)}
    first = sightings["a", day]
    assert first["count"] == 2
    assert first["hours"][:3] == [1, 1, 0]
    assert (first["first_place"], first["last_place"]) == (7, 7)
    assert (first["first_ns"], first["last_ns"]) == (TIME_NS, TIME_NS + HOUR_NS)
    assert found.provenances[sightings["a", day + 1]["provenance"]].tlp is Tlp.RED
    assert joined(found) == {("a", "OF_ENTITY", "10.0.0.1"): 2, ("b", "OF_ENTITY", "10.0.0.1"): 1}


def test_tokens_are_entities_of_their_class_and_erased_ones_are_none() -> None:
    found = facts((1, records({"body": f"mail from {ADA} to {GONE}", "attributes": {"to": GONE}})))
    assert [(row["type"], row["value"]) for row in vertices(found, "Entity")] == [("email", ADA)]


def test_a_field_whose_name_says_what_it_holds_is_read_by_its_type() -> None:
    digest = "0123456789ABCDEF0123456789abcdef"
    found = facts(
        (1, records({"body": "x", "attributes": {"file.md5": digest, "trace": digest, "userAgent": "curl/8.0"}}))
    )
    assert {(row["type"], row["value"]) for row in vertices(found, "Entity")} == {
        ("md5", digest.lower()),
        ("user_agent", "curl/8.0"),
    }


def test_a_dump_has_its_fields_their_values_and_where_entities_were_seen() -> None:
    rows = [
        {"mail": ADA, "ip": "10.0.0.1", "comment": "met 10.0.0.1 twice"},
        {"mail": ADA, "ip": "10.0.0.2", "comment": "met"},
        {"mail": "none", "ip": "10.0.0.1"},
    ]
    found = facts(
        (
            5,
            records(
                *(
                    {
                        "source": "leak.csv",
                        "dump": "forum",
                        "record_number": number,
                        "attributes": row,
                        "attributes_number": {"age": 41.0},
                    }
                    for number, row in enumerate(rows, 1)
                )
            ),
        )
    )
    assert [(row["value"], row["count"], row["first_place"], row["last_place"]) for row in vertices(found, "Dump")] == [
        ("forum", 3, 1, 3)
    ]
    assert {(row["value"], row["count"]) for row in vertices(found, "Field")} == {
        ("mail", 3),
        ("ip", 3),
        ("comment", 2),
        ("age", 3),
    }
    assert {(row["value"], row["type"], row["count"]) for row in vertices(found, "FieldValue")} == {
        (ADA, "email", 2),
        ("none", "", 1),
        ("10.0.0.1", "ipv4", 2),
        ("10.0.0.2", "ipv4", 1),
        ("met 10.0.0.1 twice", "", 1),
        ("met", "", 1),
        ("41", "", 3),
    }
    edges = joined(found)
    assert edges["forum", "HAS_FIELD", "mail"] == 1
    assert edges["mail", "HAS_VALUE", ADA] == 1
    assert edges[ADA, "OF_ENTITY", ADA] == 1
    assert edges["met 10.0.0.1 twice", "OF_ENTITY", "10.0.0.1"] == 0
    assert edges["forum", "OBSERVED_IN", "comment"] == 1
    assert edges["forum", "OBSERVED_IN", "forum"] == 3
    assert {one.method for one in found.provenances} == {"dump-field"}


def test_frames_without_records_or_values_have_no_facts() -> None:
    assert len(facts().vertices) == 0
    assert len(facts((1, records())).vertices) == 0
    assert len(facts((1, records({"body": "nothing here"}))).vertices) == 0


def test_however_frames_are_grouped_the_facts_add_up_to_the_same() -> None:
    chance = random.Random(1)
    values = ["10.0.0.1", "10.0.0.2", ADA, "evil.example", "nothing"]
    frames = [
        (
            position,
            records(
                *(
                    {
                        "source": (dump or "app"),
                        "dump": dump,
                        "record_number": number if dump else 0,
                        "time": TIME_NS + chance.randrange(72) * HOUR_NS,
                        "body": chance.choice(values),
                        "attributes": {chance.choice("ab"): chance.choice(values)},
                    }
                    for number in range(1, 9)
                )
            ),
        )
        for position, dump in enumerate(["", "one", "", "two", "one"], 1)
    ]
    assert _added_up([facts(*frames)]) == _added_up([facts(frame) for frame in frames])


def _added_up(parts: list[Facts]) -> dict[Any, Any]:
    """By fact and provenance: first, last, count, places and hours of all."""
    sums: dict[Any, Any] = {}
    for part in parts:
        for row in [*part.vertices.to_pylist(), *part.edges.to_pylist()]:
            key = (
                *(row.get(name) for name in ("kind", "id", "start", "end", "type", "value", "day")),
                part.provenances[row["provenance"]],
            )
            first, last, count, first_place, last_place, hours = sums.get(key, (2**62, 0, 0, 2**62, 0, [0] * 24))
            sums[key] = (
                min(first, row["first_ns"]),
                max(last, row["last_ns"]),
                count + row["count"],
                min(first_place, row["first_place"]),
                max(last_place, row["last_place"]),
                [a + b for a, b in zip(hours, row.get("hours") or [0] * 24, strict=True)],
            )
    return sums
