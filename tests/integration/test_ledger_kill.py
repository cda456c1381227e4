"""An audit log and an operation under kill -9: what was acknowledged is there, and the chain holds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from heimdall_server.storage.ledger.files import ChainFiles

WRITER: Final = """
import asyncio, sys
from pathlib import Path
from heimdall_server.ports.audit import Act
from heimdall_server.storage.ledger.audit import FileAuditLog
from tests.support.journal_feeder import SystemClock

async def main():
    log = await FileAuditLog.open(Path(sys.argv[1]), clock=SystemClock(), mask_text=str, segment_bytes_max=20_000)
    async def caller(name):
        while True:
            entry = await log.append(Act(name, "privacy.reveal", "allowed", "x" * 50))
            print(entry.sequence, entry.digest.hex(), flush=True)
    await asyncio.gather(*(caller(f"c{n}") for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after_lines", [1, 40, 400])
def test_what_was_acknowledged_before_kill_9_is_in_the_log(tmp_path: Path, after_lines: int) -> None:
    told: list[str] = []
    for round_ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "audit")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told += [process.stdout.readline() for _ in range(after_lines)]
        # Somewhere within a group: the callers go on meanwhile.
        time.sleep(0.003 * round_)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
        process.stdout.close()
        process.wait()
    files = ChainFiles(tmp_path / "audit", "audit")
    last = files.verify()
    kept = {entry.sequence: entry.digest.hex() for some in files.entries(0, files.head) for entry in some}
    files.close()
    # The pipe may have cut the last line of each process.
    acknowledged = [line.split() for line in told if line.endswith("\n")]
    assert len(acknowledged) >= 2 * after_lines
    assert all(kept[int(sequence)] == digest for sequence, digest in acknowledged)
    assert last is not None
    assert last.sequence == len(kept)
