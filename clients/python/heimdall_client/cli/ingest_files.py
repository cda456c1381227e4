"""Files and pipes, each to its end."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import uuid
from pathlib import Path
from typing import BinaryIO, Final

from heimdall_client import errors
from heimdall_client.append_driver import IngestOptions
from heimdall_client.cli.console import note
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.failures import exit_code, report
from heimdall_client.cli.file_sources import locate
from heimdall_client.cli.ingest_view import FileResult, ProgressView, Stopwatch, results_json, show_results
from heimdall_client.cli.options import Link, TextOutput
from heimdall_client.client import AsyncClient
from heimdall_client.ingest_calls import SourceOptions, file_source_id
from heimdall_client.ingester import IngestSummary

STDIN: Final = "-"
GIVE_UP_S: Final = 60.0
"""A person waits; a server that is away for longer ends it. The same command goes on from there."""

_OF_ONE_FILE: Final = (
    errors.InputError,
    errors.FormatInvalidError,
    errors.OffsetConflictError,
    errors.RecordTooLargeError,
    errors.SourceFencedError,
    errors.SourceMovedError,
)
"""What goes wrong with one file doesn't keep the others from being taken in."""


class IngestJob:
    """Takes inputs in, one after the other.

    Args:
        link: The server.
        files: Paths, or `-`.
        source: How they are read, and what holds for their records.
        source_id: Of the only file; empty: each has its own.
        output: How the results are shown.
    """

    def __init__(self, link: Link, files: list[str], source: SourceOptions, source_id: str, output: TextOutput) -> None:
        self._link = link
        self._files = files
        self._source = source
        self._source_id = source_id
        self._output = output
        self._results: list[FileResult] = []
        self._view = ProgressView(shown=output is TextOutput.TABLE)
        self._watch = Stopwatch()

    async def run(self) -> ExitCode:
        """Take all of them in, and show what became of them.

        Raises:
            ConfigError: The connection's configuration can't be used.
        """
        async with self._link.async_client() as client:
            with self._view.running():
                for name in self._files:
                    result = await self._ingest(client, name)
                    self._results.append(result)
                    if result.error is not None and not isinstance(result.error, _OF_ONE_FILE):
                        break
        self.show()
        for one in self._results:
            if one.error is not None:
                named = not isinstance(one.error, errors.InputError) and len(self._files) > 1
                report(one.error, verbose=self._link.verbose, what=one.name if named else "")
        if len(self._results) < len(self._files):
            note(f"{len(self._files) - len(self._results):,} more files weren't tried")
        return self._code()

    def show(self) -> None:
        """What became of the inputs so far."""
        if self._output is TextOutput.JSON:
            from heimdall_client.cli.plain import print_json

            print_json(results_json(self._results, elapsed_s=self._watch.elapsed_s))
        else:
            show_results(self._results, elapsed_s=self._watch.elapsed_s)

    def _code(self) -> ExitCode:
        failed = [one.error for one in self._results if one.error is not None]
        if failed:
            return exit_code(failed[0])
        rejected = any(one.summary is not None and one.summary.rejected_count for one in self._results)
        return ExitCode.REJECTED if rejected else ExitCode.OK

    async def _ingest(self, client: AsyncClient, name: str) -> FileResult:
        try:
            if name == STDIN:
                if sys.stdin.isatty():
                    note("reading from the terminal: Ctrl-D ends it")
                return FileResult("stdin", await self._pipe(client, sys.stdin.buffer, "stdin"))
            return FileResult(name, await self._path(client, Path(name)))
        except errors.HeimdallError as error:
            return FileResult(name, error=error)
        finally:
            self._view.end()

    async def _path(self, client: AsyncClient, path: Path) -> IngestSummary:
        try:
            stream = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise errors.InputError(str(path), "it doesn't exist") from None
        except IsADirectoryError:
            raise errors.InputError(str(path), f"it is a directory: name its files, as {path}/*.log") from None
        except OSError as error:
            raise errors.InputError(str(path), error.strerror or str(error)) from error
        with stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                return await self._pipe(client, stream, str(path))
            if self._source_id or "dump" in self._source:
                source_id = self._source_id or f"dump:{self._source.get('dump')}:{file_source_id(path)}"[:512]
                await client.get_source(source_id)  # fails at once where there is no server; `open` would wait for one
            else:
                place = await locate(client, path, stream, grows=False)
                source_id = place.source_id if place else ""
        self._view.begin(path.name, facts.st_size)
        options: SourceOptions = {**self._source}
        return await client.ingest_file(
            path,
            source_id,
            options=IngestOptions(give_up_after_s=GIVE_UP_S),
            on_progress=self._view.update,
            on_retry=self._view.retrying,
            **options,
        )

    async def _pipe(self, client: AsyncClient, stream: BinaryIO, name: str) -> IngestSummary:
        # Whoever pipes twice means two sources; a name says that it is the same one.
        source_id = self._source_id or f"{name}:{uuid.uuid4()}"
        await client.get_source(source_id)
        self._view.begin(name, None)
        options: SourceOptions = {**self._source}
        return await client.ingest_stream(
            stream,
            source_id,
            name=name,
            options=IngestOptions(give_up_after_s=GIVE_UP_S),
            on_progress=self._view.update,
            on_retry=self._view.retrying,
            **options,
        )
