"""Real tools that `deploy/testbed` fetches. A test that can't have one skips with the reason, unless it must not.

`HEIMDALL_TESTBED=required` (as in CI) turns a missing tool into a failure.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "deploy" / "testbed"
FETCH_S = 300.0


def tool(name: str, *, fetch_s: float = FETCH_S) -> Path:
    """The path of a tool, fetched if need be.

    Args:
        name: Of its script in `deploy/testbed`, without `.sh`.
        fetch_s: How long that may take.
    """
    try:
        done = subprocess.run([SCRIPTS / f"{name}.sh"], capture_output=True, text=True, timeout=fetch_s, check=False)
        problem = done.stderr.strip()[-500:] if done.returncode else ""
        path = Path(done.stdout.strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        problem, path = str(error), Path()
    if not problem and path.is_file():
        return path
    reason = f"{name} can't be had: {problem or 'its script names no file'}"
    if os.environ.get("HEIMDALL_TESTBED") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The real grpcurl."""
    return tool("grpcurl")


@pytest.fixture(scope="session")
def otelcol() -> Path:
    """The real OpenTelemetry Collector. Building it takes minutes the first time."""
    return tool("collector", fetch_s=1_200)
