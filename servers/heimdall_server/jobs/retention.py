"""Forgets what is old or too much: whole partitions, oldest first."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from heimdall_server.domain.datasets import Dataset
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.log_store import LogStore

LOG: Final = logging.getLogger(__name__)
_DAY_NS: Final = 86_400 * 1_000_000_000


async def expire(store: LogStore, datasets: Iterable[Dataset], clock: Clock) -> None:
    """Apply every dataset's retention.

    Raises:
        StoreError: The store failed; what was dropped before stays dropped.
    """
    now_ns = clock.now_ns()
    for dataset in datasets:
        if not dataset.retention_days and not dataset.retention_bytes:
            continue
        before_ns = now_ns - dataset.retention_days * _DAY_NS if dataset.retention_days else None
        gone = await store.expire(dataset.name, before_ns=before_ns, size_bytes_max=dataset.retention_bytes or None)
        for partition, rows in gone.items():
            LOG.info("partition expired", extra={"dataset": dataset.name, "partition": partition, "rows": rows})
