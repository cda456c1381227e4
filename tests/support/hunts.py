"""Facts of logs and dumps as a projection makes them, for tests of hunts."""

from __future__ import annotations

from collections.abc import Sequence

from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_batches import GraphBatch
from heimdall_server.domain.graph_ids import dump_id, sighting_id
from tests.support.graphs import DAY_NS, NOON_NS, Facts, make_id

DAY = NOON_NS // DAY_NS


def entity(value: str) -> bytes:
    """The id of an entity of these facts."""
    return make_id(f"{VertexKind.ENTITY}/{value}")


def log_provenance(source: str, tlp: Tlp = Tlp.GREEN) -> Provenance:
    """Of a source of logs."""
    return Provenance(instance="here", source=source, method="log-observable", tlp=tlp)


def dump_provenance(name: str, tlp: Tlp = Tlp.GREEN, *, confidence: int = 50) -> Provenance:
    """Of a dump."""
    return Provenance(instance="here", source="osint", dump=name, method="dump-field", tlp=tlp, confidence=confidence)


def seen(
    provenance: Provenance,
    values: Sequence[str],
    position: int,
    *,
    day: int = DAY,
    count: int = 1,
    type_: str = "domain",
) -> GraphBatch:
    """A batch in which one source or dump says on one day that it saw entities."""
    facts = Facts([provenance])
    at_ns = day * DAY_NS
    name = provenance.dump or provenance.source
    dump = facts.vertex(name, VertexKind.DUMP, id=dump_id(name), at_ns=at_ns) if provenance.dump else b""
    for value in values:
        id_ = facts.vertex(value, type=type_, at_ns=at_ns, count=count)
        sighting = facts.vertex(
            name,
            VertexKind.SIGHTING,
            id=sighting_id(id_, name, day),
            type="dump" if provenance.dump else "log",
            day=day,
            at_ns=at_ns,
            hours=[count] + [0] * 23,
            count=count,
        )
        facts.edge(sighting, id_, EdgeKind.OF_ENTITY, "", at_ns=at_ns)
        if dump:
            facts.edge(sighting, dump, EdgeKind.OBSERVED_IN, "", at_ns=at_ns)
    return facts.batch(position)
