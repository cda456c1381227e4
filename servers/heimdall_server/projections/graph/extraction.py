"""Frames of the journal → facts of the graph, in two steps: look what is there, then, knowing whose the tokens are, say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.canonical.observables import TOKEN_TYPE
from heimdall_server.domain.graph import EDGE_SCHEMA, UNLABELLED, VERTEX_SCHEMA, Provenance, Tlp
from heimdall_server.domain.graph_batches import ProfilePart, RecordMarks
from heimdall_server.projections.graph.dump_facts import FIELDS, dump_facts, fields_of
from heimdall_server.projections.graph.facts import Identify, Records, entity_facts, identified, sightings
from heimdall_server.projections.graph.observations import OBSERVATIONS
from heimdall_server.projections.graph.wanted import Wanted, observe_wanted

DUMP_METHOD: Final = "dump-field"
LOG_METHOD: Final = "log-observable"
METHOD_VERSION: Final = "1"
_WHO: Final = ("principal", "source", "dump", "tlp")
_DESCRIBED: Final = {
    "row": pl.UInt32,
    "provenance": pl.UInt16,
    "time_ns": pl.Int64,
    "place": pl.Int64,
    "day": pl.Int32,
    "hour": pl.UInt8,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of some records."""

    vertices: pa.RecordBatch
    """`VERTEX_SCHEMA`."""
    edges: pa.RecordBatch
    """`EDGE_SCHEMA`."""
    provenances: tuple[Provenance, ...]
    profiles: tuple[ProfilePart, ...] = ()
    """Of the dumps among the records, and of their fields."""
    records: tuple[RecordMarks, ...] = ()
    """What the dumps' records are known by."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What some records hold."""

    described: pl.DataFrame
    """Of `Records.frame`."""
    observations: pl.DataFrame
    fields: pl.DataFrame
    """What records of dumps say field by field."""
    provenances: tuple[Provenance, ...]
    cut_count: int = 0
    """Values that were left out of records that hold too many."""
    unread_count: int = 0
    """Records of dumps that hold more than a record's attributes may be: what stands in `overflow` isn't looked at."""

    def tokens(self) -> list[str]:
        """The tokens among it, `class:word`, each once."""
        return self.observations.filter(pl.col("type") == TOKEN_TYPE)["value"].unique().to_list()

    def facts(self, identify: Identify) -> Facts:
        """Say it.

        Args:
            identify: Says which entity a value is.

        Returns:
            The same for the same records, however they are grouped, but for how rows are added up.
        """
        seen = identified(self.observations, identify).join(self.described, on="row")
        once = seen.unique(["row", "id"], keep="first", maintain_order=True)
        sighted = sightings(once, self.provenances)
        vertices, edges = entity_facts(once, sighted)
        profiles: tuple[ProfilePart, ...] = ()
        if any(one.dump for one in self.provenances):
            of_dumps = dump_facts(self.described, seen, sighted, self.fields, self.provenances)
            vertices += of_dumps.vertices
            edges += of_dumps.edges
            profiles = tuple(of_dumps.profiles)
        return Facts(_one_batch(vertices, VERTEX_SCHEMA), _one_batch(edges, EDGE_SCHEMA), self.provenances, profiles)


def look(frames: Sequence[tuple[int, pa.RecordBatch]], *, instance: str, wanted: Wanted | None = None) -> Looked:
    """Look what frames hold.

    Args:
        frames: Position in the journal, and records.
        instance: Who took them in.
        wanted: What to look for; None: what is usual.

    Cost: 2 to 6 µs a record, depending on how much there is in it.
    """
    frames = [(position, batch) for position, batch in frames if len(batch)]
    if not frames:
        nothing = pl.DataFrame(schema=_DESCRIBED)
        return Looked(nothing, pl.DataFrame(schema=dict(OBSERVATIONS)), pl.DataFrame(schema=dict(FIELDS)), ())
    records = pa.Table.from_batches([batch for _, batch in frames]).combine_chunks().to_batches()[0]
    positions = pl.concat([pl.repeat(position, len(batch), dtype=pl.Int64, eager=True) for position, batch in frames])
    codes, provenances = who_says(records, instance)
    numbers = pl.Series(records.column("record_number")).cast(pl.Int64)
    described = Records(
        provenance=codes,
        time_ns=pl.Series(records.column("time").cast(pa.int64())),
        place=numbers.zip_with(numbers > 0, positions),
    ).frame()
    observed = observe_wanted(records, wanted or Wanted())
    unread = pc.and_(pc.not_equal(records.column("dump"), ""), pc.not_equal(records.column("overflow"), ""))
    return Looked(
        described,
        observed.observations,
        fields_of(records),
        tuple(provenances),
        cut_count=observed.cut_count,
        unread_count=unread.true_count,
    )


def who_says(records: pa.RecordBatch, instance: str) -> tuple[pl.Series, list[Provenance]]:
    """The provenance of each row, as an index of those that there are."""
    who = pl.DataFrame({name: pl.Series(records.column(name), dtype=pl.String) for name in _WHO})
    distinct = who.unique(maintain_order=True).with_row_index("code")
    codes = who.join(distinct, on=list(_WHO), how="left", maintain_order="left")["code"].cast(pl.UInt16)
    return codes, [
        Provenance(
            instance=instance,
            source=source,
            dump=dump,
            method=DUMP_METHOD if dump else LOG_METHOD,
            method_version=METHOD_VERSION,
            actor=principal,
            tlp=Tlp.of(tlp, unlabelled=UNLABELLED),
        )
        for principal, source, dump, tlp in distinct.select(_WHO).iter_rows()
    ]


def _one_batch(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    batches = pa.concat_tables(tables).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
