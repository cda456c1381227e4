"""`heimdall ingest --follow`: followers, signals, and what a person sees of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from heimdall_client.append_driver import IngestOptions
from heimdall_client.cli.console import err, plural, size, span
from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.follow import Follower
from heimdall_client.cli.ingest_view import Stopwatch
from heimdall_client.cli.options import Link, TextOutput
from heimdall_client.errors import HeimdallError
from heimdall_client.ingest_calls import SourceOptions

if TYPE_CHECKING:
    from rich.live import Live

STOP_S: Final = 5.0
"""After a signal, what was read gets this long to be acknowledged; the rest is sent at the next start."""
REFRESH_S: Final = 0.5


async def run(link: Link, paths: Sequence[Path], source: SourceOptions, output: TextOutput) -> ExitCode:
    """Follow files until a signal.

    Returns:
        INTERRUPTED or TERMINATED, by signal.

    Raises:
        HeimdallError: One of them can't be followed any more.
    """
    watch = Stopwatch()
    stopped: asyncio.Queue[int] = asyncio.Queue()
    options = IngestOptions(first_open_s=15.0, give_up_after_s=math.inf)
    async with link.async_client() as client:
        followers = [Follower(client, path, source, options, tell=_tell, retrying=_retrying) for path in paths]
        with _signals(stopped), _live(output) as live:
            code, problem = await _until_stopped(followers, stopped, live)
    _show(followers, output, watch.elapsed_s)
    if problem is not None:
        raise problem
    return code


async def _until_stopped(
    followers: Sequence[Follower], stopped: asyncio.Queue[int], live: Live | None
) -> tuple[ExitCode, HeimdallError | None]:
    tasks = [asyncio.create_task(follower.run(), name=f"follow {follower.path}") for follower in followers]
    signalled = asyncio.create_task(stopped.get())
    while not signalled.done() and not any(task.done() for task in tasks):
        await asyncio.wait([signalled, *tasks], timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
        if live is not None:
            live.update(_state(followers), refresh=True)
    for follower in followers:
        follower.stop()
    second = asyncio.create_task(stopped.get()) if signalled.done() else asyncio.create_task(asyncio.sleep(STOP_S))
    await asyncio.wait([asyncio.gather(*tasks, return_exceptions=True), second], timeout=STOP_S,
                       return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
    for task in [*tasks, signalled, second]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    problem = next((found for one in ended if (found := _problem(one)) is not None), None)
    terminated = signalled.done() and not signalled.cancelled() and signalled.result() == signal.SIGTERM
    return (ExitCode.TERMINATED if terminated else ExitCode.INTERRUPTED), problem


def _problem(ended: Any) -> HeimdallError | None:  # noqa: ANN401 - whatever a task gave
    """Why a follower ended, if it is a reason to tell.

    Raises:
        BaseException: It is a bug.
    """
    if isinstance(ended, HeimdallError):
        return ended
    if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
        raise ended
    return None


@contextlib.contextmanager
def _signals(stopped: asyncio.Queue[int]) -> Any:  # noqa: ANN401 - a context manager
    """While it is entered, SIGINT and SIGTERM end in the queue."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stopped.put_nowait, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _live(output: TextOutput) -> Any:  # noqa: ANN401 - a context manager
    if output is not TextOutput.TABLE or not err().is_terminal:
        return contextlib.nullcontext(None)
    from rich.live import Live

    return Live(console=err(), auto_refresh=False, transient=True)


def _state(followers: Sequence[Follower]) -> str:
    lines = []
    for follower in followers:
        accepted = sum(one.accepted_count for one in follower.generations)
        rejected = sum(one.rejected_count for one in follower.generations)
        behind = sum(one.behind_bytes for one in follower.generations)
        state = f"{size(behind)} behind" if behind else "up to date"
        refused = f", {rejected:,} rejected" if rejected else ""
        lines.append(f"{follower.path}   {plural(accepted, 'record')}{refused}   {state}")
    return "\n".join(lines)


def _show(followers: Sequence[Follower], output: TextOutput, elapsed_s: float) -> None:
    if output is TextOutput.TABLE:
        for line in _state(followers).splitlines():
            err().print(line, soft_wrap=True)
        return
    from heimdall_client.cli.plain import print_json

    generations = [one for follower in followers for one in follower.generations]
    print_json(
        {
            "accepted_count": sum(one.accepted_count for one in generations),
            "rejected_count": sum(one.rejected_count for one in generations),
            "elapsed_s": round(elapsed_s, 3),
            "files": [
                {
                    "file": str(one.path),
                    "source": one.place.source_id,
                    "accepted_count": one.accepted_count,
                    "rejected_count": one.rejected_count,
                    "start_offset": one.place.next_offset,
                    "next_offset": one.offset,
                }
                for one in generations
            ],
        }
    )


def _tell(text: str) -> None:
    err().print(text, style="dim", soft_wrap=True)


def _retrying(error: HeimdallError, delay_s: float) -> None:
    why = str(getattr(error, "message", "") or error).splitlines()[0]
    err().print(f"interrupted: {why}; trying again in {span(delay_s)}", style="yellow", soft_wrap=True)
