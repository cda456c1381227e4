"""A disk without room under the journal: callers are refused, told to come back, and served when there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_server.storage.journal.disk import Data, OsDisk
from tests.support.ingest_server import IngestServer, ingest_server, reason_of, reason_of_call, retry_after_s
from tests.support.pki import Pki

SEGMENT_BYTES = 1 << 20
LARGE = b'{"msg":"' + b"y" * 100_000 + b'"}\n'


class QuotaDisk(OsDisk):
    """The real disk with a bound on what may be written."""

    def __init__(self, *, writes: bool) -> None:
        self.full = False
        self._writes = writes

    def allocate(self, descriptor: int, size: int) -> None:
        self._check()
        super().allocate(descriptor, size)

    def pwrite(self, descriptor: int, data: Data, offset: int) -> int:
        if self._writes and len(data) > 4096:
            self._check()
        return super().pwrite(descriptor, data, offset)

    def free_bytes(self, directory: Path) -> int:
        return 0 if self.full and not self._writes else super().free_bytes(directory)

    def _check(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")


def export_request(name: str, count: int = 100) -> logs_service_pb2.ExportLogsServiceRequest:
    records = [
        logs_pb2.LogRecord(body=common_pb2.AnyValue(string_value=f"{name} {number} " + "x" * 200))
        for number in range(count)
    ]
    return logs_service_pb2.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=records)])]
    )


async def assert_refused_then_served(server: IngestServer, full: contextlib.AbstractContextManager[None]) -> None:
    """Both ways in, before, while and after the disk is full."""
    before = (await server.send("before", b'{"msg":"before"}\n')).finished
    assert before.accepted_count == 1
    with full:
        for attempt in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fill(server, f"refused {attempt}")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of_call(caught.value) == "JOURNAL_FULL"
            assert (retry_after_s(caught.value) or 0) > 0
        (nack,) = (await server.send("refused", LARGE)).of("nack")
        assert nack.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert reason_of(nack.status) == "JOURNAL_FULL"
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in nack.status.details)
        assert server.journal.state().refusing
    after = (await server.send("refused", LARGE)).finished
    assert after.accepted_count == 1
    await server.otlp.Export(export_request("after"), timeout=20)
    assert not server.journal.state().refusing
    bodies = await server.bodies()
    assert len(bodies) == len(set(bodies)), "nothing refused was kept, nothing accepted is there twice"
    assert {body.partition(" x")[0] for body in bodies} >= {"before", "after 0", "after 99"}


async def fill(server: IngestServer, name: str) -> None:
    """Export until there is no room; a segment that is begun still takes what it has blocks for."""
    for number in range(200):
        await server.otlp.Export(export_request(f"{name} {number}"), timeout=20)


@contextlib.contextmanager
def while_full(disk: QuotaDisk) -> Iterator[None]:
    disk.full = True
    yield
    disk.full = False


@pytest.mark.parametrize("writes", [True, False])
async def test_a_full_disk_refuses_with_a_reason_and_a_delay_and_recovers_by_itself(
    pki: Pki, tmp_path: Path, writes: bool
) -> None:
    disk = QuotaDisk(writes=writes)
    limits = {"segment_bytes": SEGMENT_BYTES, "disk_reserve_bytes": 4096, "disk_check_s": 0.0}
    async with ingest_server(pki, tmp_path, journal=limits, disk=disk) as server:
        await assert_refused_then_served(server, while_full(disk))


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this account may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def ballast(folder: Path) -> Iterator[None]:
    """Take all the room there is."""
    path = folder / "ballast"
    with path.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(65536))
    yield
    path.unlink()


@pytest.mark.parametrize("reserve_bytes", [0, 2 << 20])
async def test_a_real_file_system_that_is_full_refuses_and_recovers(
    pki: Pki, small_file_system: Path, reserve_bytes: int
) -> None:
    limits = {"segment_bytes": SEGMENT_BYTES, "disk_reserve_bytes": reserve_bytes, "disk_check_s": 0.0}
    async with ingest_server(pki, small_file_system, journal=limits) as server:
        await assert_refused_then_served(server, ballast(small_file_system))
