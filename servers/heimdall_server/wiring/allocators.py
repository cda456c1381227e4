"""What the engine's allocator must find in the environment before the engine is loaded. Imports nothing heavy.

chDB brings jemalloc, which gives freed pages back to the system, and the next insert needs as many again: the kernel
then clears each anew. Kept half a minute they are used again, for more resident memory (`adr/0005`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Final

VARIABLE: Final = "JE_MALLOC_CONF"
"""As chDB's jemalloc is prefixed; it doesn't read `MALLOC_CONF`."""
SETTINGS: Final = "dirty_decay_ms:30000,muzzy_decay_ms:30000"


def prepare(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what the engine's allocator reads when it is loaded; a value that is there already stays.

    Args:
        environment: Where to set it; none: this process's.

    Raises:
        RuntimeError: The engine is loaded already, without the variable: it is too late.
    """
    target = os.environ if environment is None else environment
    if "chdb" in sys.modules and VARIABLE not in target:
        msg = "wiring.allocators.prepare() must run before chdb is imported"
        raise RuntimeError(msg)
    target.setdefault(VARIABLE, SETTINGS)
