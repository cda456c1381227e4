"""A record that the store refused, retried: it is the one that it was."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import dispatch
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.projections.warm import RefusedRecord
from heimdall_server.services.ingest.logic.dead_letters import context_of
from heimdall_server.services.ingest.logic.format_text import format_from_json
from heimdall_server.wiring.clock import SystemClock
from heimdall_server.wiring.parts import _letter
from tests.support.random_records import batch_of, record

ANN = "spiffe://test/client/ann"


@pytest.mark.parametrize(
    "told",
    [{"source": "app", "tlp": "red"}, {"source": "leak", "dump": "forum", "dataset": "dumps", "record_number": 7}],
)
def test_a_record_that_the_store_refused_is_read_again_as_it_was(told: dict[str, Any]) -> None:
    batch = batch_of([record(3, body="b", attributes={"k": "v"}, principal=ANN, severity=9, position=8, **told)])
    letter = _letter(RefusedRecord(0, 8, 3, "it is too large", batch), SystemClock())
    assert letter.key.principal == ANN
    format_, _ = format_from_json(letter.format)
    (again,) = dispatch.decode(letter.raw, format_, context_of(letter), at_start=True).batch.to_pylist()
    (before,) = pa.Table.from_batches([batch]).select(RECORD_SCHEMA.names).to_pylist()
    assert {name for name in RECORD_SCHEMA.names if again[name] != before[name]} <= {"time_flags"}
