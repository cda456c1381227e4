"""How many connections the process has file descriptors for. What an unfinished or a silent connection costs is a descriptor."""

from __future__ import annotations

import logging
import resource
from typing import Final

_LOG: Final = logging.getLogger(__name__)
RESERVE: Final = 1024
"""Descriptors for everything else: the store's parts, the journal's segments, the other edges."""
_CONNECTIONS_MIN: Final = 64


def affordable_connections(wanted: int, *, port_count: int) -> int:
    """Raise the process's soft limit as far as it is needed and may be, and say how many connections that allows.

    Without descriptors left, `accept` fails, and so does the journal's next segment: connections must be refused sooner.

    Args:
        wanted: Connections that each port should take.
        port_count: Ports; each counts for itself.

    Returns:
        Connections a port, `wanted` or fewer; fewer is logged.
    """
    needed = wanted * port_count + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed and soft != hard:
        soft = needed if hard == unlimited else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # the kernel's own bound may be lower than what it says
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == unlimited or soft >= needed:
        return wanted
    allowed = max(_CONNECTIONS_MIN, (soft - min(RESERVE, soft // 2)) // port_count)
    _LOG.warning(
        "fewer connections than configured: raise the limit of open files (ulimit -n, LimitNOFILE)",
        extra={"connections_max": wanted, "allowed": allowed, "open_files_max": soft, "open_files_needed": needed},
    )
    return min(wanted, allowed)
