"""Runs a job again and again; a job that fails is logged and tried again next time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from heimdall_server.domain.errors import HeimdallError

LOG: Final = logging.getLogger(__name__)


async def every(interval_s: float, name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a job, wait, run it again; until cancelled.

    Args:
        interval_s: From the end of one run to the start of the next.
        name: For the log.
        job: What to run.
    """
    while True:
        try:
            await job()
        except HeimdallError as error:
            LOG.warning("job failed", extra={"job": name, "problem": str(error)})
        except Exception:
            LOG.exception("job failed", extra={"job": name})
        await asyncio.sleep(interval_s)
