"""The client's methods that take records in and ask about sources."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypedDict, Unpack

from heimdall.ingest.v1 import ingest_service_pb2, source_pb2
from heimdall_client import translate
from heimdall_client.append_driver import IngestOptions, OnRetry
from heimdall_client.connection import Connection
from heimdall_client.errors import InputError
from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.input_files import Input
from heimdall_client.records import AsyncRecordIngester
from heimdall_client.stream_ingest import OnIngestProgress, feed, hash_content, is_arrow
from heimdall_client.translate import FormatLike, TimeLike

SOURCE_ID_BYTES_MAX: Final = 512
PAGE_SIZE: Final = 1000


class SourceOptions(TypedDict, total=False):
    """How a source is read, and what holds for records that don't say it themselves. All may be left out."""

    format: FormatLike | None
    """`ndjson`, `json`, `csv`, `arrow`, `otlp`, `syslog`, `text`; None: told from the first bytes."""
    format_options: Mapping[str, str]
    """By kind, see `heimdall.ingest.v1.Format`: `delimiter`, `pattern`, `regex`, …"""
    service: str
    host: str
    time_zone: str
    """IANA name, for stamps without a zone; empty: UTC."""
    reference_time: TimeLike | None
    """A stamp without a year takes the latest one that isn't after this; None: now (a file: its modification)."""
    dataset: str
    """Empty: `logs`, or `dumps` for a dump."""
    tlp: str
    """`clear`, `green`, `amber`, `amber+strict`, `red`; empty: none."""
    dump: str | source_pb2.Dump
    """Makes it a dump. A name is enough where a file is ingested, which is hashed first."""
    file_name: str
    """Helps to tell the format."""


def file_source_id(path: Path) -> str:
    """The source id of a file: this machine and the absolute path, which stay the same over restarts.

    Example:
        >>> from pathlib import Path
        >>> from heimdall_client import file_source_id
        >>> file_source_id(Path("/var/log/app.log")).endswith(":/var/log/app.log")
        True
    """
    source_id = f"file:{platform.node()}:{path.absolute()}"
    raw = source_id.encode("utf-8", "backslashreplace")
    if len(raw) <= SOURCE_ID_BYTES_MAX:
        return raw.decode()
    return f"file:{platform.node()}:sha256:{hashlib.sha256(raw).hexdigest()}"


class IngestCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    def ingester(
        self,
        source_id: str,
        *,
        options: IngestOptions | None = None,
        on_retry: OnRetry | None = None,
        on_ack: Callable[[], None] | None = None,
        **source: Unpack[SourceOptions],
    ) -> AsyncIngester:
        """Feed a source with bytes (`write`) or Arrow (`append_arrow`, with `format="arrow"`).

        Args:
            source_id: Unique among this certificate's sources. Opening it again goes on where it ended, and ends any
                older stream that feeds it.
            options: Sizes and deadlines.
            on_retry: Told of each break: why, and in how many seconds the next try is.
            on_ack: Called after each message of the server.
            source: See `SourceOptions`. A `dump` needs its `content_sha256` here.

        Returns:
            A context manager; entering it opens the source.
        """
        return AsyncIngester(
            self._ingest,
            _open_message(source_id, source),
            options=options or IngestOptions(),
            address=self._address,
            on_retry=on_retry,
            on_ack=on_ack,
        )

    def record_ingester(
        self,
        source_id: str,
        *,
        options: IngestOptions | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> AsyncRecordIngester:
        """Send a program's own log records, one call a record.

        Args:
            source_id: As in `ingester`. Two processes need two ids.
            options: Sizes and deadlines.
            on_retry: Told of each break.
            source: See `SourceOptions`; the format is NDJSON.
        """
        source["format"] = "ndjson"
        return AsyncRecordIngester(self.ingester(source_id, options=options, on_retry=on_retry, **source))

    async def ingest_stream(
        self,
        stream: BinaryIO,
        source_id: str,
        *,
        name: str = "",
        total_bytes: int | None = None,
        finish: bool = True,
        options: IngestOptions | None = None,
        on_progress: OnIngestProgress | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> IngestSummary:
        """Ingest what a binary file or pipe holds, from where the source goes on.

        gzip and zstd are told by their first bytes. Arrow IPC (stream or file) goes by its records. Bytes that the
        source already has are sought or skipped over.

        Args:
            stream: At the source's beginning. It isn't closed.
            source_id: As in `ingester`.
            name: For messages and the format; empty: the stream's own.
            total_bytes: Size of the file, for progress.
            finish: Say that the source ends here; False: more will come later (a log that grows).
            options: Sizes and deadlines.
            on_progress: Called about once a block, from the event loop.
            on_retry: Told of each break.
            source: See `SourceOptions`.

        Raises:
            InputError: It can't be read; what came before is kept, and a corrected input goes on from there.
            HeimdallError: The source has failed.
        """
        name = name or str(getattr(stream, "name", "") or "stream")
        source.setdefault("file_name", Path(name).name)
        dump = source.get("dump")
        if isinstance(dump, str):
            digest = await hash_content(stream, name=name, total_bytes=total_bytes, on_progress=on_progress)
            source["dump"] = source_pb2.Dump(name=dump, content_sha256=digest, file_name=source["file_name"])
        content = Input(stream, name=name)
        try:
            await asyncio.to_thread(content.begin)
            format_ = translate.to_format(source.get("format"), source.get("format_options"))
            if is_arrow(content.head, "" if content.compression else name, format_):
                source["format"] = "arrow"
            elif format_ is not None and format_.kind == source_pb2.Format.KIND_OTLP:
                problem = "OTLP isn't a file format here; point an OpenTelemetry exporter at the server"
                raise InputError(name, problem)
            async with self.ingester(source_id, options=options, on_retry=on_retry, **source) as ingester:
                return await feed(ingester, content, total_bytes=total_bytes, finish=finish, on_progress=on_progress)
        finally:
            content.stop()

    async def ingest_file(
        self,
        path: str | os.PathLike[str],
        source_id: str = "",
        *,
        finish: bool = True,
        options: IngestOptions | None = None,
        on_progress: OnIngestProgress | None = None,
        on_retry: OnRetry | None = None,
        **source: Unpack[SourceOptions],
    ) -> IngestSummary:
        """Ingest a file; see `ingest_stream`.

        Args:
            path: The file.
            source_id: Empty: `file_source_id(path)`.
            finish: As in `ingest_stream`.
            options: Sizes and deadlines.
            on_progress: As in `ingest_stream`.
            on_retry: Told of each break.
            source: See `SourceOptions`. The reference time is the file's modification unless given.
        """
        file = Path(path)
        try:
            stream = await asyncio.to_thread(file.open, "rb")
        except OSError as error:
            raise InputError(str(path), error.strerror or str(error)) from error
        with stream:
            facts = os.fstat(stream.fileno())
            source.setdefault("reference_time", facts.st_mtime_ns)
            return await self.ingest_stream(
                stream,
                source_id or file_source_id(file),
                name=str(path),
                total_bytes=facts.st_size or None,
                finish=finish,
                options=options,
                on_progress=on_progress,
                on_retry=on_retry,
                **source,
            )

    async def get_source(self, source_id: str, *, dump_content_sha256: bytes = b"") -> source_pb2.Source:
        """What the server knows of a source; one never seen is at offset 0.

        Args:
            source_id: The source.
            dump_content_sha256: Which of its dumps is meant; empty: what is no dump, if there is any, else its newest dump.
        """
        request = ingest_service_pb2.GetSourceRequest(source_id=source_id, dump_content_sha256=dump_content_sha256)
        return (await self._unary(self._ingest.GetSource, request)).source

    async def list_dead_letters(
        self, *, source_id: str = "", limit: int = 100
    ) -> ingest_service_pb2.ListDeadLettersResponse:
        """What couldn't be decoded, newest first.

        Args:
            source_id: Only of this source; empty: of all.
            limit: At most so many; pages are fetched as needed.
        """
        answer = ingest_service_pb2.ListDeadLettersResponse()
        while True:
            request = ingest_service_pb2.ListDeadLettersRequest(
                source_id=source_id,
                page_size=min(PAGE_SIZE, max(1, limit - len(answer.dead_letters))),
                page_token=answer.next_page_token,
            )
            page = await self._unary(self._ingest.ListDeadLetters, request)
            answer.dead_letters.extend(page.dead_letters)
            answer.next_page_token, answer.total_count = page.next_page_token, page.total_count
            if not page.next_page_token or len(answer.dead_letters) >= limit:
                return answer

    async def retry_dead_letters(
        self,
        dead_letter_ids: Sequence[str],
        *,
        read_as: FormatLike | None = None,
        format_options: Mapping[str, str] | None = None,
    ) -> ingest_service_pb2.RetryDeadLettersResponse:
        """Decode dead letters again.

        Args:
            dead_letter_ids: Up to 1,000.
            read_as: The format to read them as; None: as before.
            format_options: As in `SourceOptions`.
        """
        request = ingest_service_pb2.RetryDeadLettersRequest(
            dead_letter_ids=dead_letter_ids,
            format=translate.to_format(read_as, format_options),
            request_id=str(uuid.uuid4()),
        )
        return await self._unary(self._ingest.RetryDeadLetters, request)

    async def delete_dead_letters(self, dead_letter_ids: Sequence[str]) -> ingest_service_pb2.DeleteDeadLettersResponse:
        """Delete dead letters: nobody can list or decode them again. Their bytes go with the journal's segment that holds them.

        Args:
            dead_letter_ids: Up to 1,000.
        """
        request = ingest_service_pb2.DeleteDeadLettersRequest(dead_letter_ids=dead_letter_ids)
        return await self._unary(self._ingest.DeleteDeadLetters, request)


def _open_message(source_id: str, source: SourceOptions) -> ingest_service_pb2.AppendRequest.Open:
    dump = source.get("dump")
    if isinstance(dump, str):
        msg = "a dump needs its content's hash here: pass a heimdall.ingest.v1.Dump, or use ingest_file"
        raise TypeError(msg)
    return ingest_service_pb2.AppendRequest.Open(
        source_id=source_id,
        format=translate.to_format(source.get("format"), source.get("format_options")),
        defaults=translate.to_defaults(
            service=source.get("service", ""),
            host=source.get("host", ""),
            time_zone=source.get("time_zone", ""),
            reference_time=source.get("reference_time"),
            dataset=source.get("dataset", ""),
            tlp=source.get("tlp", ""),
        ),
        dump=dump,
        file_name=source.get("file_name", ""),
    )
