"""A disk without room under the journal: callers are refused, told to come back, and served when there is room.

That these tests see a journal that gets it wrong is itself tested: on journals that are broken on purpose.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_server.domain.errors import JournalFullError
from heimdall_server.ports.journal import Entry
from heimdall_server.storage.journal import writer
from heimdall_server.storage.journal.disk import Data, OsDisk
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.journal.writer import JournalWriter
from tests.support.ingest_server import IngestServer, ingest_server, reason_of, reason_of_call, retry_after_s
from tests.support.pki import Pki

SEGMENT_BYTES = 1 << 20
LARGE = b'{"msg":"' + b"y" * 100_000 + b'"}\n'
EXPORTED = 100
"""Records of an export."""
EXPORTS_MAX = 200
"""Far more than a disk without room takes, whatever it had left."""


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


def export_request(name: str) -> logs_service_pb2.ExportLogsServiceRequest:
    records = [
        logs_pb2.LogRecord(body=common_pb2.AnyValue(string_value=f"{name} {number} " + "x" * 200))
        for number in range(EXPORTED)
    ]
    return logs_service_pb2.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=records)])]
    )


async def assert_refused_then_served(server: IngestServer, full: contextlib.AbstractContextManager[None]) -> None:
    """Both ways in, before, while and after the disk is full; and in the end all that was acknowledged, and nothing else."""
    exported: list[str] = []
    before = (await server.send("before", b'{"msg":"before"}\n')).finished
    assert before.accepted_count == 1
    with full:
        for attempt in range(3):
            refusal = await fill(server, f"attempt {attempt}", exported)
            assert refusal is not None, "a disk without room takes everything"
            assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of_call(refusal) == "JOURNAL_FULL"
            assert (retry_after_s(refusal) or 0) > 0, "nobody is told when to come back"
        (nack,) = (await server.send("refused", LARGE)).of("nack")
        assert nack.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert reason_of(nack.status) == "JOURNAL_FULL"
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in nack.status.details)
        assert server.journal.state().refusing
    after = await server.send("refused", LARGE)
    assert not after.of("nack"), "there is room, and it is refused"
    assert after.finished.accepted_count == 1
    await export(server, "after", exported)
    assert not server.journal.state().refusing
    expected = Counter(f"{name} {number}" for name in exported for number in range(EXPORTED))
    expected.update(["before", "y" * 100_000])
    found = Counter(body.partition(" x")[0] for body in await server.bodies())
    assert found == expected, "what was refused is kept, or what was accepted isn't there once"


async def export(server: IngestServer, name: str, exported: list[str]) -> None:
    await server.otlp.Export(export_request(name), timeout=20)
    exported.append(name)


async def fill(server: IngestServer, name: str, exported: list[str]) -> grpc.aio.AioRpcError | None:
    """Export until there is no room; a segment that is begun still takes what it has blocks for."""
    for number in range(EXPORTS_MAX):
        try:
            await export(server, f"{name} {number}", exported)
        except grpc.aio.AioRpcError as error:
            return error
    return None


@contextlib.contextmanager
def while_full(disk: QuotaDisk) -> Iterator[None]:
    disk.full = True
    yield
    disk.full = False


@pytest.mark.parametrize("writes", [True, False])
async def test_a_full_disk_refuses_with_a_reason_and_a_delay_and_recovers_by_itself(
    pki: Pki, tmp_path: Path, writes: bool
) -> None:
    await refuse_and_serve(pki, tmp_path, writes=writes)


async def refuse_and_serve(pki: Pki, folder: Path, *, writes: bool) -> None:
    disk = QuotaDisk(writes=writes)
    limits = {"segment_bytes": SEGMENT_BYTES, "disk_reserve_bytes": 4096, "disk_check_s": 0.0}
    async with ingest_server(pki, folder, journal=limits, disk=disk) as server:
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


append = EmbeddedJournal.append
disk_is_low = JournalWriter._is_disk_low


def acknowledges_what_it_did_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believe(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
        try:
            return await append(self, entries)
        except JournalFullError:
            head = self.head()[0]
            return range(head + 1, head + 1 + len(entries))

    monkeypatch.setattr(EmbeddedJournal, "append", believe)


def writes_later_what_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Entry] = []

    async def keep(self: EmbeddedJournal, entries: Sequence[Entry]) -> Sequence[int]:
        try:
            positions = await append(self, entries)
        except JournalFullError:
            refused.extend(entries)
            raise
        if refused:
            await append(self, refused)
            refused.clear()
        return positions

    monkeypatch.setattr(EmbeddedJournal, "append", keep)


def takes_it_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_NO_SPACE", frozenset())


def does_not_say_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_refused", "_no_room"):
        monkeypatch.setattr(JournalWriter, name, lambda _self: JournalFullError(0.0, "the end of the disk"))


def never_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: JournalWriter) -> None:
        if self._broken is not None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalWriter, "_mend", refuse)


def never_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalWriter, "_is_disk_low", lambda self: self._disk_low or disk_is_low(self))


@pytest.mark.parametrize(
    ("spoil", "writes", "verdict"),
    [
        (acknowledges_what_it_did_not_write, True, "takes everything"),
        (acknowledges_what_it_did_not_write, False, "takes everything"),
        (writes_later_what_it_refused, True, "what was refused is kept"),
        (takes_it_for_a_failure, True, "RESOURCE_EXHAUSTED"),
        (does_not_say_when_to_come_back, True, "nobody is told"),
        (does_not_say_when_to_come_back, False, "nobody is told"),
        (never_mends, True, "RESOURCE_EXHAUSTED|is refused"),
        (never_looks_again, False, "there is room, and it is refused"),
    ],
)
async def test_a_journal_is_found_out_that(
    pki: Pki,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    writes: bool,
    verdict: str,
) -> None:
    spoil(monkeypatch)
    with pytest.raises(AssertionError, match=verdict):
        await refuse_and_serve(pki, tmp_path, writes=writes)
