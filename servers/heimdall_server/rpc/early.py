"""What must be in the environment before gRPC is loaded. Imports nothing, so that it can come first.

gRPC for Python has no switch for the lowest TLS version. With ECDSA leaves and only an RSA cipher suite allowed,
a TLS 1.2 hello finds no shared cipher; the suites of TLS 1.3 aren't touched by the variable. `rpc/tls.py` refuses
other leaves, and `rpc/probe.py` proves it at each start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Final

CIPHER_SUITES_VARIABLE: Final = "GRPC_SSL_CIPHER_SUITES"
CIPHER_SUITES: Final = "ECDHE-RSA-AES128-GCM-SHA256"


def prepare(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what gRPC reads when it is loaded. The server's first act; the SDK never does this.

    Args:
        environment: Where to set it; none: this process's.

    Raises:
        RuntimeError: gRPC is loaded already, without the variable: it is too late.
    """
    target = os.environ if environment is None else environment
    if "grpc" in sys.modules and target.get(CIPHER_SUITES_VARIABLE) != CIPHER_SUITES:
        msg = "rpc.early.prepare() must run before grpc is imported"
        raise RuntimeError(msg)
    target[CIPHER_SUITES_VARIABLE] = CIPHER_SUITES
    # We never fork a process that serves, and the handlers for it cost at each subprocess.
    target.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
