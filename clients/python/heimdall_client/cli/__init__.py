"""The `heimdall` command: what an operator does at a prompt, on top of the SDK.

Nothing heavy is imported before it is used: `heimdall --help` loads neither gRPC nor Arrow.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point."""
    # gRPC reads it once, when it is loaded: its own lines would stand between the command's sentences.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        # Here, so that Ctrl-C while modules are loaded ends as quietly as later.
        from heimdall_client.cli.program import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
