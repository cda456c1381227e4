"""The part of a query that works on records one batch at a time: filter, `where`, `extract`, `fields`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Extract, Fields, Limit, Query, Sort, Stats, Where
from heimdall_server.domain.records import HIDDEN_COLUMNS
from heimdall_server.language.lookup import BatchFields
from heimdall_server.language.predicate import Predicate, compile_predicate


class RowPipeline:
    """The stages of a query before its first `stats`, as one function of a batch. Thread-safe."""

    def __init__(self, query: Query) -> None:
        """Compile what stands before the first `stats`.

        Raises:
            InvalidArgumentError: A `sort` stands there, which has no meaning on an endless stream.
        """
        self._steps: list[Predicate | Extract] = [compile_predicate(query.filter)]
        self.fields: tuple[FieldRef, ...] | None = None
        """What `fields` keeps; None: everything."""
        self.limit: int | None = None
        """Rows after which `limit` ends the stream; the caller counts."""
        for index, stage in enumerate(query.stages):
            if isinstance(stage, Stats):
                break
            if isinstance(stage, Where):
                self._steps.append(compile_predicate(stage.expression))
            elif isinstance(stage, Extract):
                self._steps.append(stage)
            elif isinstance(stage, Fields):
                self.fields = stage.fields
            elif isinstance(stage, Limit):
                self.limit = stage.count if self.limit is None else min(self.limit, stage.count)
            elif isinstance(stage, Sort):
                rule = "a sort of records has no meaning on a stream that doesn't end"
                raise InvalidArgumentError(f"query.stages[{index}]", rule)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The records that match, in order, with the computed columns behind theirs."""
        for step in self._steps:
            if isinstance(step, Extract):
                batch = _extracted(batch, step)
                continue
            mask = step(batch)
            count = mask.true_count
            if count == 0:
                batch = batch.slice(0, 0)
            elif count < batch.num_rows:
                batch = batch.filter(mask)
        return batch

    def shown(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that `fields` keeps, under the names of the query; attributes as text.

        Without `fields` all but those that are hidden unless they are named.
        """
        if self.fields is None:
            return batch.select([name for name in batch.schema.names if name not in HIDDEN_COLUMNS])
        values = BatchFields(batch)
        columns = [batch.column(ref.name) if ref.scope is Scope.CORE else values.display(ref) for ref in self.fields]
        return pa.RecordBatch.from_arrays(columns, names=[str(ref) for ref in self.fields])


def _extracted(batch: pa.RecordBatch, stage: Extract) -> pa.RecordBatch:
    found = pc.extract_regex(BatchFields(batch).strings(stage.field), stage.pattern)
    missing = found.is_null()
    made = [pc.if_else(missing, "", found.field(name)) for name in stage.names]
    fields = [*batch.schema, *(pa.field(name, pa.string(), nullable=False) for name in stage.names)]
    return pa.RecordBatch.from_arrays([*batch.columns, *made], schema=pa.schema(fields))
