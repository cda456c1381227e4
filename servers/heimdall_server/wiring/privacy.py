"""The privacy service of a process that runs it: keyring, vault, audit log, ledger, operations.

All of this is opened only where `services` names `privacy`; a process without it masks, and has none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall.privacy.v1 import privacy_service_pb2_grpc
from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.config import Config
from heimdall_server.crypto.key_encryption.opening import rotate_kek
from heimdall_server.domain.errors import InvalidArgumentError, QuerySyntaxError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Aggregate, Expression, Function, Or, Query, Stats, TimeRange, Words
from heimdall_server.domain.operations import OperationKind
from heimdall_server.domain.personal import TokenName
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.ports.keys import KeyEncryption
from heimdall_server.ports.log_store import Limits, Order, StoreQuery
from heimdall_server.ports.vault import Tombstone
from heimdall_server.projections.trimming import Follower
from heimdall_server.projections.vault import VaultHooks, VaultProjection
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.texts import masked_text
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.privacy.logic.audit import AuditUseCase
from heimdall_server.services.privacy.logic.delete import DeleteUseCase
from heimdall_server.services.privacy.logic.erase import CertificateUseCase, EraseUseCase
from heimdall_server.services.privacy.logic.export import ExportUseCase
from heimdall_server.services.privacy.logic.keys import KeysUseCase
from heimdall_server.services.privacy.logic.kinds.deletion import RecordDeletion
from heimdall_server.services.privacy.logic.kinds.erasure import Erasure, erased_by
from heimdall_server.services.privacy.logic.kinds.model import SHARD, PrivacyPorts
from heimdall_server.services.privacy.logic.kinds.rotation import DekRotation, IndexRotation, KekRotation
from heimdall_server.services.privacy.logic.limits import CallerRates, PrivacyLimits
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.reveal import RevealUseCase
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import DeletionPlan
from heimdall_server.services.privacy.servicer import AUDITS_ITSELF, PrivacyServicer, PrivacyUseCases
from heimdall_server.services.query.translate.json_rows import json_rows
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from heimdall_server.storage.postgres.opening import Postgres, open_postgres
from heimdall_server.storage.postgres.vault import PostgresVault
from heimdall_server.wiring.keys import PrivacyKeys
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.policy_control import ProtectorPolicy

LOG: Final = logging.getLogger(__name__)
SERVICE: Final = "heimdall.privacy.v1.PrivacyService"
_COUNT: Final = "record_count"
_TAIL_S: Final = 5.0
_NUDGE_S: Final = 600.0
"""At most; a journal whose frames are to go sooner is looked at, and nudged, more often."""
_BODY: Final = FieldRef(Scope.CORE, "body")
_TOKENS: Final = FieldRef(Scope.CORE, "tokens")


@dataclass(frozen=True, slots=True)
class PrivacyParts:
    """What follows the journal for the vault."""

    keys: PrivacyKeys
    postgres: Postgres
    vault: PostgresVault
    follower: VaultProjection
    audit: FileAuditLog
    ledger: FileLedger


async def open_privacy(
    config: Config, keys: PrivacyKeys, parts: Parts, stack: contextlib.AsyncExitStack
) -> PrivacyParts:
    """Open the vault's PostgreSQL, the audit log and the ledger, and begin to follow the journal.

    Raises:
        ConfigurationError, CorruptionError, StoreError: One of them can't be used.
    """
    audit = await FileAuditLog.open(config.data_dir / "audit", clock=parts.clock, mask_text=masked_text)
    stack.push_async_callback(audit.close)
    ledger = await FileLedger.open(config.data_dir / "privacy", clock=parts.clock)
    stack.push_async_callback(ledger.close)
    postgres = await open_postgres(config.postgres, data_dir=config.data_dir, keys_dir=keys.file_path, stack=stack)
    vault = PostgresVault(postgres.pool)

    async def tombstones() -> list[Tombstone]:
        return [one for operation in await ledger.operations.load() for one in erased_by(operation)]

    follower = VaultProjection(parts.journal, vault, parts.clock, hooks=VaultHooks(tombstones=tombstones))

    def follows() -> Follower:
        progress = follower.progress
        return Follower("vault", {SHARD: progress.noted}, progress.lag_s)

    parts.followers.append(follows)
    task = asyncio.create_task(_follow(follower), name="vault")
    stack.push_async_callback(_end, task)
    return PrivacyParts(keys, postgres, vault, follower, audit, ledger)


async def add_privacy_service(
    privacy: PrivacyParts, parts: Parts, server: RpcServer, stack: contextlib.AsyncExitStack
) -> None:
    """Make the service, resume its operations, hand it to the server."""
    keyring, vault, clock, journal = privacy.keys.opened.keyring, privacy.vault, parts.clock, parts.journal
    trail, rates = AuditTrail(privacy.audit), CallerRates(PrivacyLimits(), clock)
    runner = OperationRunner(privacy.ledger.operations, clock, mask_text=masked_text)
    records = _Records(parts)
    age_s = parts.journal_age_s
    tail_s, nudge_s = min(_TAIL_S, age_s / 4), min(_NUDGE_S, age_s / 12)
    ports = PrivacyPorts(
        keyring,
        keyring,
        vault,
        privacy.follower,
        privacy.keys.lately,
        journal,
        parts.barrier,
        clock,
        tail_s=tail_s,
        nudge_s=nudge_s,
    )

    async def stored(position: int, timeout_s: float) -> bool:
        return await parts.warm.wait_through({SHARD: position}, timeout_s)

    async def epochs_changed() -> None:
        return

    async def next_kek() -> KeyEncryption:
        privacy.keys.opened = await rotate_kek(privacy.keys.opened, privacy.keys.kek, privacy.keys.places)
        return privacy.keys.opened.kek

    async def adopt() -> None:
        return

    async def check_next_kek() -> None:
        return

    async def caught_up() -> bool:
        head = journal.head().get(SHARD, 0)
        return await privacy.follower.wait_applied(head, PrivacyLimits().vault_wait_s)

    runner.register(OperationKind.ERASE, lambda: Erasure(ports))
    runner.register(OperationKind.ROTATE_DEK, lambda: DekRotation(ports))
    runner.register(OperationKind.ROTATE_INDEX, lambda: IndexRotation(ports, epochs_changed=epochs_changed))
    runner.register(OperationKind.ROTATE_KEK, lambda: KekRotation(ports, next_kek=next_kek, adopt=adopt))
    deletion = RecordDeletion(
        journal,
        clock,
        barrier=parts.barrier,
        wait_stored=stored,
        deleted_count=lambda name: privacy.keys.deleted.get(name, 0),
        tail_s=tail_s,
        nudge_s=nudge_s,
    )
    runner.register(OperationKind.DELETE, lambda: deletion)
    await runner.start()
    stack.push_async_callback(runner.close)
    policy = PolicyUseCase(
        control=ProtectorPolicy(privacy.keys.protector, clock),
        log=privacy.ledger.policies,
        trail=trail,
        clock=clock,
        mask_text=masked_text,
    )
    await policy.restore()
    subjects = SubjectNames(
        tokeniser=keyring, sealer=keyring, vault=vault, classes=CLASSES, personal_form=_personal_form
    )
    use_cases = PrivacyUseCases(
        policy=policy,
        reveal=RevealUseCase(vault=vault, sealer=keyring, trail=trail, rates=rates, vault_caught_up=caught_up),
        export=ExportUseCase(
            subjects=subjects,
            vault=vault,
            sealer=keyring,
            search=records.search,
            trail=trail,
            rates=rates,
            clock=clock,
            instance_id=journal.journal_id,
        ),
        erase=EraseUseCase(
            subjects=subjects,
            vault=vault,
            sealer=keyring,
            runner=runner,
            trail=trail,
            rates=rates,
            count_records=records.count,
        ),
        certificate=CertificateUseCase(runner=runner, signer=keyring, instance_id=journal.journal_id),
        delete=DeleteUseCase(planner=records, runner=runner, trail=trail),
        keys=KeysUseCase(
            keys=keyring,
            signer=keyring,
            vault=vault,
            classes=CLASSES,
            runner=runner,
            trail=trail,
            check_next_kek=check_next_kek,
        ),
        audit=AuditUseCase(privacy.audit, clock),
        runner=runner,
        trail=trail,
    )
    server.add(
        SERVICE,
        privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server,
        PrivacyServicer(use_cases, server.drain_signal),
        audits_itself=AUDITS_ITSELF,
    )


def _personal_form(data_class: str, value: str) -> str:
    return str(personal_form(data_class, pa.array([value], pa.string()))[0].as_py())


class _Records:
    """The stored records, as deletions, erasures and exports ask for them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def plan(self, query: str, time_range: TimeRange, datasets: Sequence[str]) -> DeletionPlan:
        """See `DeletionPlanner`."""
        parsed = parse(query, now_ns=self._parts.clock.now_ns())
        if parsed.stages:
            at = query.index("|") if "|" in query else 0
            raise QuerySyntaxError(query, at, "a deletion takes a filter without pipes")
        unknown = sorted(set(datasets) - set(self._parts.datasets))
        if unknown:
            raise InvalidArgumentError("datasets", f"no dataset named {', '.join(unknown)}")
        parameters = {
            "start_time_ns": time_range.start_ns_inclusive,
            "end_time_ns": time_range.end_ns_exclusive,
            "datasets": list(datasets),
        }
        count = await self._count(parsed.filter, time_range, datasets)
        return DeletionPlan(format_query(Query(parsed.filter)), count, parameters)

    async def count(self, names: Sequence[TokenName]) -> int:
        """Records that name one of some tokens."""
        return await self._count(_naming(names), TimeRange(), ()) if names else 0

    async def search(self, names: Sequence[TokenName], time_range: TimeRange) -> AsyncGenerator[Sequence[str], None]:
        """See `RecordSearch`."""
        if not names:
            return
        through = await self._through()
        asked = StoreQuery(
            Query(_naming(names)), time_range, through, order=Order.OLDEST_FIRST, limits=Limits(time_s=300.0)
        )
        async with self._parts.store.query(asked) as result:
            async for batch in result.batches():
                yield (await asyncio.to_thread(json_rows, batch)).to_pylist()

    async def _count(self, filter_: Expression, time_range: TimeRange, datasets: Sequence[str]) -> int:
        through = await self._through()
        stage = Stats((Aggregate(Function.COUNT, None, _COUNT),))
        async with self._parts.store.query(
            StoreQuery(Query(filter_, (stage,)), time_range, through, datasets=datasets)
        ) as result:
            counts = [
                int(value) for batch in [b async for b in result.batches()] for value in batch.column(0).to_pylist()
            ]
        return sum(counts)

    async def _through(self) -> dict[int, int]:
        await self._parts.warm.wait_through(self._parts.journal.head(), 5.0)
        return self._parts.warm.visible_through


def _naming(names: Sequence[TokenName]) -> Expression:
    return Or(tuple(Words(ref, (name.word,)) for name in names for ref in (_BODY, _TOKENS)))


async def _follow(follower: VaultProjection) -> None:
    """Run the projection; if it can't go on, say so: nothing that is acknowledged waits for it."""
    try:
        await follower.run()
    except Exception:
        LOG.exception("the vault's projection stopped; new personal values can't be revealed")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
