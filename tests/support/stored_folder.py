"""Makes a data folder as this version leaves it, for later versions to open: `python -m tests.support.stored_folder FILE`.

Run once for each version whose format differs, from that version's tree; the file goes to `tests/wire/stored/`. Its
root key protects nothing but these made-up records.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

SOURCE = "stored/lines"
COUNT = 20
PARTS = ("checkpoints", "journal", "keys", "warm")


def line(number: int) -> bytes:
    """One of the records."""
    return b'{"msg":"record %d of alice@example.com","n":%d,"level":"error"}\n' % (number, number)


def make(file: Path) -> None:
    """Run a server, give it records, pack what it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), environment={"HEIMDALL_JOURNAL__SEGMENT_BYTES": str(64 * 1024)})
        with server, Client(server.client_config()) as client:
            with client.ingester(SOURCE, format="ndjson") as ingester:
                ingester.write(b"".join(map(line, range(COUNT))))
                ingester.flush(timeout_s=30)
            found = client.search("* | fields n", consistent=True).to_arrow().num_rows
            assert found == COUNT
        with tarfile.open(file, "w:gz") as packed:
            for part in PARTS:
                packed.add(server.data_dir / part, part)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
