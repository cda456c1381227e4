"""`heimdall-server`: one process with the services it is told to run."""

from __future__ import annotations

from heimdall_server.rpc import early
from heimdall_server.wiring import allocators, lean_imports

early.prepare()
allocators.prepare()
lean_imports.prepare()

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from heimdall_server import config as configuration
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.rpc.logs import configure_logging
from heimdall_server.rpc.native_logs import NativeLogs
from heimdall_server.wiring.process import run

EXIT_CANNOT_START = 2
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter while others wait for it: at Python's 5 ms the event loop, and each of the many
short calls of a decoder or a watch, wait that long behind one another (`adr/0005`)."""


def serve(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file.  [default: heimdall.toml in the data folder]")
    ] = None,
    services: Annotated[
        str | None,
        typer.Option(help="Services to run, by comma: ingest, query, admin.  [default: all]", show_default=False),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.  [default: .heimdall]")] = None,
) -> None:
    """Run a Heimdall server until SIGTERM; a second one ends it at once.

    Every setting is a key of the TOML file and a variable: HEIMDALL_JOURNAL__BYTES_MAX is journal.bytes_max.
    `heimdall config check` tells what is wrong with a configuration.

    Example: heimdall-server --config /etc/heimdall/heimdall.toml --services ingest,query,admin
    """
    try:
        overrides = {"services": tuple(services.split(",")) if services else None, "data_dir": data_dir}
        config, files = configuration.load(config_file, **overrides)
        # gRPC tells only on descriptor 2 why it refused a handshake: that belongs into the log, too.
        configure_logging(config.log_level, stream=NativeLogs().start())
        # Frozen start-up objects are never collected: fewer and shorter pauses of the collector.
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        asyncio.run(run(config, files))
    except HeimdallError as error:
        for line in str(error).splitlines():
            print(f"heimdall-server: {line}", file=sys.stderr)  # noqa: T201 - the logs may not be set up
        # chDB's threads don't survive a normal interpreter exit while a folder is open.
        sys.stderr.flush()
        os._exit(EXIT_CANNOT_START)


def main() -> None:
    """Entry point."""
    typer.run(serve)


if __name__ == "__main__":
    main()
