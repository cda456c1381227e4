from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pyarrow as pa

from heimdall_client.rows import rows_of

NANOSECONDS = (1_700_000_000_123_456_789, -1, None)


def test_times_are_cut_to_aware_datetimes() -> None:
    batch = pa.record_batch({"time": pa.array(NANOSECONDS, pa.int64()).cast(pa.timestamp("ns", tz="UTC"))})
    assert rows_of(batch) == [
        {"time": dt.datetime(2023, 11, 14, 22, 13, 20, 123456, dt.UTC)},
        {"time": dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC)},
        {"time": None},
    ]


def test_rows_are_made_without_loading_pandas() -> None:
    # It takes a second, which a person at the prompt would wait for with each query.
    program = """
import sys
import pyarrow as pa
from heimdall_client.rows import rows_of
data = pa.py_buffer(bytes(8))
time = pa.Array.from_buffers(pa.timestamp("ns", tz="UTC"), 1, [None, data])
rows_of(pa.RecordBatch.from_arrays([time], ["time"]))
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
