"""Exit codes: part of the command's contract, told in `heimdall --help`."""

from __future__ import annotations

import enum
from typing import Final


class ExitCode(enum.IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    INCOMPLETE = 4
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


MEANINGS: Final = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the server, the network or a file failed",
    ExitCode.USAGE: "the command line, the query or the configuration is wrong",
    ExitCode.REJECTED: "done, but some records were rejected (see: heimdall dead-letters list)",
    ExitCode.INCOMPLETE: "answered, but a part of the answer is missing",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
    ExitCode.PIPE_CLOSED: "the reader of the output went away",
    ExitCode.TERMINATED: "ended by SIGTERM",
}
