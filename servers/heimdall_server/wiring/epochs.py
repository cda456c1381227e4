"""Looks from time to time whether an epoch of the index key may go (`services/privacy/logic/epochs`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from heimdall_server.config import Config
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    Compare,
    Function,
    Operator,
    Query,
    Stats,
    TimeLiteral,
    TimeRange,
)
from heimdall_server.domain.operations import Operation
from heimdall_server.jobs.schedule import every
from heimdall_server.ports.log_store import Limits, LogStore, Path, StoreQuery
from heimdall_server.services.privacy.logic.epochs import EpochRetirement
from heimdall_server.services.privacy.logic.kinds.model import SHARD
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.tasks import cancel

if TYPE_CHECKING:
    from heimdall_server.wiring.privacy import PrivacyParts

_COUNT: Final = "record_count"
_OBSERVED: Final = FieldRef(Scope.CORE, "observed_time")
_COUNT_TIME_S: Final = 300.0


async def holds_records(store: LogStore, through: int, observed_before_ns: int, limits: Limits) -> bool:
    """Whether any dataset of a store holds a record at or before a position, or one that was observed before a time.

    Raises:
        StoreError, QueryTimeoutError, QueryCostError: As `LogStore.query`.
    """
    early = Compare(_OBSERVED, Operator.LT, TimeLiteral(observed_before_ns))
    counting = Stats((Aggregate(Function.COUNT, None, _COUNT),))
    for filter_, positions in ((All(), {SHARD: through}), (early, {})):
        # By the records themselves: rollups have no positions.
        asked = StoreQuery(Query(filter_, (counting,)), TimeRange(), positions, limits=limits, path=Path.SCAN)
        async with store.query(asked) as result:
            if any([any(batch.column(0).to_pylist()) async for batch in result.batches()]):
                return True
    return False


def retire_epochs(
    config: Config,
    privacy: PrivacyParts,
    parts: Parts,
    rotations: Callable[[], Sequence[Operation]],
    stack: contextlib.AsyncExitStack,
) -> None:
    """Begin to look, as often as retention does.

    Args:
        config: Of the process.
        privacy: Keys, vault, audit log.
        parts: Journal and store.
        rotations: The operations that are known.
        stack: Ends it.
    """
    # One column is read, of few parts once retention has passed; it must not fail because the store is large.
    limits = Limits(
        time_s=_COUNT_TIME_S,
        memory_bytes=config.limits.query_memory_bytes_max,
        scan_rows=2**62,
        threads=1,
        background=True,
    )

    async def hold_records(through: int, observed_before_ns: int) -> bool:
        async with parts.admission.admit_history():
            return await holds_records(parts.store, through, observed_before_ns, limits)

    epochs = EpochRetirement(
        keys=privacy.keys.keyring,
        vault=privacy.vault,
        follower=privacy.follower,
        journal=parts.journal,
        datasets=tuple(config.datasets.values()),
        rotations=rotations,
        journal_age_s=config.journal.age_max_s,
        holds_records=hold_records,
        audit=privacy.audit,
        clock=parts.clock,
    )

    async def look() -> None:
        await epochs.run()

    task = asyncio.create_task(every(config.retention.check_s, "epochs of the index key", look), name="epochs")
    stack.push_async_callback(cancel, [task])
