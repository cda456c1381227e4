"""A watcher in a process of its own, to be stopped and killed: `python -m tests.support.stuck_watcher ADDRESS CA CERT`.

Says `created` once its watch runs, and reads from then on.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.crypto.certificate_files import key_path
from tests.support.pki import Pki

WAIT_S = 30.0


@asynccontextmanager
async def stuck_watcher(pki: Pki, address: str) -> AsyncIterator[Process]:
    """A watch of everything in another process; that process is stopped, so its connection is there and dead."""
    leaf = pki.write("stuck-watcher", pki.leaf("admin"))
    command = (sys.executable, "-m", "tests.support.stuck_watcher", address, str(pki.ca_file), str(leaf))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            assert (await process.stdout.readline()).strip() == b"created"
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(address: str, ca_file: str, certificate_file: str) -> None:
    """Watch until killed."""
    leaf = Path(certificate_file)
    credentials = grpc.ssl_channel_credentials(
        Path(ca_file).read_bytes(), key_path(leaf).read_bytes(), leaf.read_bytes()
    )

    def requests() -> Iterator[pb.WatchRequest]:
        create = pb.WatchRequest.Create(watch_id="w", question=pb.Question(text="*"))
        yield pb.WatchRequest(create=create)
        signal.pause()

    with grpc.secure_channel(address, credentials) as channel:
        for message in query_service_pb2_grpc.QueryServiceStub(channel).Watch(requests()):
            if message.HasField("created"):
                sys.stdout.write("created\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
