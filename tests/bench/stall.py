"""How long a trivial call takes meanwhile, asked by a process of its own so that the load's client doesn't count."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.bench.instance import Instance

EVERY_S: Final = 0.02
CALL_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Stalls:
    """Of health checks, 50 a second."""

    count: int
    p99_s: float
    max_s: float


@dataclass
class Watching:
    """Has a result once the block has ended."""

    process: subprocess.Popen[str]
    found: list[Stalls] = field(default_factory=list)

    def result(self) -> Stalls:
        """What was found."""
        return self.found[0]


@contextmanager
def watch_stalls(instance: Instance) -> Iterator[Watching]:
    """Ask the server for its health again and again until the block ends."""
    command = [sys.executable, "-m", "tests.bench.stall", str(instance.folder), instance.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watching = Watching(process)
        try:
            yield watching
        finally:
            output, _ = process.communicate(timeout=CALL_TIMEOUT_S * 2)
        watching.found.append(Stalls(**json.loads(output)))


def main() -> None:
    """Ask until standard input ends."""
    folder, address = Path(sys.argv[1]), sys.argv[2]
    certs = folder / ".heimdall" / "certs"
    credentials = grpc.ssl_channel_credentials(
        *((certs / name).read_bytes() for name in ("ca.pem", "client-key.pem", "client.pem"))
    )
    times: list[float] = []
    with grpc.secure_channel(address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not select.select([sys.stdin], [], [], 0)[0]:
            started = time.monotonic()
            stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
            times.append(time.monotonic() - started)
            time.sleep(EVERY_S)
    times.sort()
    sys.stdout.write(json.dumps({"count": len(times), "p99_s": times[int(len(times) * 0.99)], "max_s": times[-1]}))


if __name__ == "__main__":
    main()
