"""The `heimdall` command: what an operator does at a prompt, on top of the SDK.

Nothing heavy is imported before it is used: `heimdall --help` loads neither gRPC nor Arrow.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point."""
    try:
        # Here, so that Ctrl-C while modules are loaded ends as quietly as later.
        from heimdall_client.cli.program import run

        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
