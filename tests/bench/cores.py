"""What decoding and protecting cost without a server around them, against the bare decoder in the same minute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import polars as pl

from heimdall_server.decode.dispatch import decode
from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind
from heimdall_server.protect.protector import PolicyProtector

GROUP_BYTES: Final = 16 << 20
"""As the pipeline makes them when it is busy."""
ROUNDS: Final = 5


@dataclass(frozen=True)
class CoreFigure:
    """Rows a core-second, each the best of some rounds."""

    bare_rows_per_core_s: float
    """`polars.read_ndjson` with the schema known beforehand: it drops every other key, and checks nothing."""
    decoded_rows_per_core_s: float
    protected_rows_per_core_s: float
    """Decoded and protected."""

    @property
    def ratio(self) -> float:
        """Of decoded and protected to bare."""
        return self.protected_rows_per_core_s / self.bare_rows_per_core_s


def measure_cores(ndjson: bytes) -> CoreFigure:
    """Decode one group as the pipeline does, with what the policy does to it, and with the bare decoder."""
    chunk = ndjson[: ndjson.rfind(b"\n", 0, GROUP_BYTES) + 1]
    schema = pl.read_ndjson(chunk[: chunk.rfind(b"\n", 0, 1 << 20) + 1]).schema
    form = Format(FormatKind.NDJSON)
    context = DecodeContext(source="bench", dataset="logs", observed_time_ns=time.time_ns())
    protector = PolicyProtector()
    bare = decoded = protected = 0.0
    for _ in range(ROUNDS):
        started_s = time.process_time()
        frame = pl.read_ndjson(chunk, schema=schema)
        bare = max(bare, frame.height / (time.process_time() - started_s))
        started_s = time.process_time()
        batch = decode(chunk, form, context, at_start=True).batch
        decoded_s = time.process_time()
        protector.protect(batch)
        ended_s = time.process_time()
        decoded = max(decoded, batch.num_rows / (decoded_s - started_s))
        protected = max(protected, batch.num_rows / (ended_s - started_s))
    return CoreFigure(bare, decoded, protected)
