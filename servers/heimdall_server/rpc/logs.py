"""Structured logs: one JSON object a line on stderr. Fields, never values of records.

Code logs through the standard library: a constant sentence as message, everything else in `extra`. The request id
and the principal of the call being served come by themselves.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, TextIO

from heimdall_server.domain.errors import HeimdallError, InvalidInputError
from heimdall_server.rpc.calls import find_call

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FRAMES_MAX: Final = 12
_TEXT_CHARACTERS_MAX: Final = 4096
_SPEAKING: Final = (OSError, ImportError, NameError, AttributeError, TypeError, NotImplementedError)
"""Foreign errors whose text names code or files. That of others (ValueError, an engine's) may quote a record."""


def failure_fields(error: BaseException) -> dict[str, Any]:
    """Describe an error for a log line: its type, where it was raised, and its text where that can't quote a record."""
    fields: dict[str, Any] = {"type": type(error).__qualname__}
    ours = isinstance(error, HeimdallError) and not isinstance(error, InvalidInputError)
    if ours or isinstance(error, _SPEAKING):
        fields["text"] = str(error)[:_TEXT_CHARACTERS_MAX]
    if isinstance(error, BaseExceptionGroup):
        fields["members"] = [failure_fields(member) for member in error.exceptions[:4]]
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
    fields["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    if error.__cause__ is not None:
        fields["cause"] = failure_fields(error.__cause__)
    return fields


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        event: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        call = find_call()
        if call is not None:
            event["request_id"] = call.request_id
            event["principal"] = call.principal.uri
        event.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1] is not None:
            event["failure"] = failure_fields(record.exc_info[1])
        return json.dumps(event, default=str, ensure_ascii=False, separators=(",", ":"))


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None, loggers: Mapping[str, str] = {}) -> None:
    """Send every log record of the process to one stream as JSON.

    Args:
        level: Lowest level that is written.
        stream: Where to; none: stderr.
        loggers: Levels of single loggers.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name, own in {"asyncio": "WARNING", **loggers}.items():
        logging.getLogger(name).setLevel(own)
