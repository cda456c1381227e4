"""A server's process does without a library that others would load."""

from __future__ import annotations

import subprocess
import sys


def test_an_array_of_pythons_objects_loads_no_pandas() -> None:
    program = (
        "from heimdall_server.wiring import lean_imports; lean_imports.prepare(); "
        "import sys, pyarrow as pa; print(pa.array(['a', None]).null_count, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "False"]
