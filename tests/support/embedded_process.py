"""A process that runs an embedded PostgreSQL as a server would, and says how to reach it; it ends only when it is killed or told to.

Arguments: data folder, keys folder, folder for places. On standard output: the postmaster's pid and its data folder. A line on standard input
ends it cleanly.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from heimdall_server.domain.errors import HeimdallError
from heimdall_server.storage.postgres.embedded import EmbeddedPostgres
from tests.support.postgres import small_postgres


async def main() -> None:
    data_dir, keys_dir, places = (Path(name) for name in sys.argv[1:4])
    try:
        embedded = await EmbeddedPostgres.start(
            small_postgres(), data_dir=data_dir, keys_dir=keys_dir, places=places, durable=False
        )
        await embedded.wait_ready(30)
    except HeimdallError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{embedded.state.pid} {embedded.data}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    await embedded.stop()


if __name__ == "__main__":
    asyncio.run(main())
