"""What a person sees of an ingest: bars while it runs, a line a file and a sum afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heimdall_client.cli.console import count, err, out, plural, size, span, warn
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from heimdall_client.errors import HeimdallError
    from heimdall_client.ingester import IngestSummary
    from heimdall_client.stream_ingest import IngestProgress

ROW_ERRORS_SHOWN: Final = 3
RATE_AFTER_S: Final = 0.05
"""A shorter time says nothing about a rate."""


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one input."""

    name: str
    summary: IngestSummary | None = None
    error: HeimdallError | None = None


class ProgressView:
    """Bars on standard error; nothing where that isn't a terminal, or the user wants none.

    Args:
        shown: Whether to show them at all.
    """

    def __init__(self, *, shown: bool) -> None:
        self._progress: Progress | None = _progress() if shown and err().is_terminal else None
        self._task: TaskID | None = None

    def running(self) -> AbstractContextManager[Any]:
        """While it is entered, bars are shown."""
        return self._progress if self._progress is not None else nullcontext()

    def begin(self, name: str, total_bytes: int | None) -> None:
        """The next input."""
        if self._progress is not None:
            self._task = self._progress.add_task(name, total=total_bytes, records="")

    def update(self, progress: IngestProgress) -> None:
        """How far it is."""
        if self._progress is None or self._task is None:
            return
        text = "hashing" if progress.stage == "hashing" else plural(progress.accepted_count, "record")
        if progress.rejected_count:
            text += f", {count(progress.rejected_count)} rejected"
        # What counts is what is durable; in a compressed file that is as far as the share of what was read.
        share = progress.durable_offset / progress.offset if progress.offset else 1.0
        done = progress.read_bytes * min(share, 1.0)
        self._progress.update(self._task, completed=done, total=progress.total_bytes, records=text)

    def end(self) -> None:
        """The input is done; its bar goes, its line comes with the others."""
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def retrying(self, error: HeimdallError, delay_s: float) -> None:
        """A break."""
        why = str(getattr(error, "message", "") or error).splitlines()[0]
        err().print(f"interrupted: {why}; trying again in {span(delay_s)}", style="yellow", soft_wrap=True)


def _progress() -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[records]}", markup=False),
        TimeRemainingColumn(),
        console=err(),
        transient=True,
    )


def show_results(results: Sequence[FileResult], *, elapsed_s: float) -> None:
    """A line an input, the sum, and the first records that were rejected."""
    done = [(one.name, one.summary) for one in results if one.summary is not None]
    if len(done) > 1:
        rows = [[name, summary.accepted_count, summary.rejected_count, _what(summary)] for name, summary in done]
        show_table(table(["file", "records", "rejected", ""], rows, fold="file"))
    accepted = sum(summary.accepted_count for _, summary in done)
    rejected = sum(summary.rejected_count for _, summary in done)
    if done:
        of = f" of {len(done):,} files" if len(done) > 1 else ""
        took = f"acknowledged in {span(elapsed_s)}"
        rate = f" ({count(round(accepted / elapsed_s))}/s)" if accepted and elapsed_s > RATE_AFTER_S else ""
        refused = f", {count(rejected)} rejected" if rejected else ""
        how = "" if of else f": {_what(done[0][1])}"
        out().print(f"{plural(accepted, 'record')}{of} {took}{rate}{refused}{how}", soft_wrap=True)
    for name, summary in done:
        _show_row_errors(name, summary)


def _what(summary: IngestSummary) -> str:
    """How it was read, and from where."""
    from heimdall_client.translate import format_name

    if summary.already_complete:
        return "this dump was taken in before"
    if summary.start_offset and summary.next_offset == summary.start_offset:
        return "nothing new, all of it was there already"
    name = format_name(summary.format)
    pattern = summary.format.options.get("pattern", "")
    what = f"{name} ({pattern})" if pattern else name
    unit = plural(summary.next_offset, "record") if name == "arrow" else size(summary.next_offset)
    if not summary.next_offset:
        return "empty"
    return f"{what}, {unit}" + (f", went on at {count(summary.start_offset)}" if summary.start_offset else "")


def _show_row_errors(name: str, summary: IngestSummary) -> None:
    for one in summary.row_errors[:ROW_ERRORS_SHOWN]:
        field = f"{one.field}: " if one.field else ""
        warn(f"{name}, at {count(one.offset)}: {field}{one.reason}")
    if summary.rejected_count:
        more = max(0, summary.rejected_count - ROW_ERRORS_SHOWN)
        also = f"{count(more)} more: " if more else ""
        err().print(
            f"  {also}heimdall dead-letters list --source {_quoted(summary.source)}", style="dim", soft_wrap=True
        )


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def results_json(results: Sequence[FileResult], *, elapsed_s: float) -> dict[str, Any]:
    """All of it, for programs."""
    done = [one.summary for one in results if one.summary is not None]
    return {
        "accepted_count": sum(summary.accepted_count for summary in done),
        "rejected_count": sum(summary.rejected_count for summary in done),
        "elapsed_s": round(elapsed_s, 3),
        "files": [_result_json(one) for one in results],
    }


def _result_json(one: FileResult) -> dict[str, Any]:
    from heimdall_client.cli.failures import sentence
    from heimdall_client.cli.plain import to_plain

    if one.summary is None:
        return {"file": one.name, "error": sentence(one.error) if one.error else "interrupted"}
    summary = one.summary
    return {
        "file": one.name,
        "source": summary.source,
        "accepted_count": summary.accepted_count,
        "rejected_count": summary.rejected_count,
        "start_offset": summary.start_offset,
        "next_offset": summary.next_offset,
        "already_complete": summary.already_complete,
        "format": to_plain(summary.format),
        "position": to_plain(summary.position),
        "elapsed_s": round(summary.elapsed_s, 3),
        "row_errors": [to_plain(error) for error in summary.row_errors],
        "error": None,
    }


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Until now."""
        return time.monotonic() - self._begin_s
