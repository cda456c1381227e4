"""The privacy service of a process that runs it: keyring, vault, audit log, ledger, operations.

All of this is opened only where `services` names `privacy`; a process without it masks, and has none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from heimdall.privacy.v1 import privacy_service_pb2_grpc
from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.canonical.possible import why_impossible
from heimdall_server.config import Config
from heimdall_server.crypto.field_cipher import key_class
from heimdall_server.crypto.text_sealing import TextSealer
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.language.parser import parse
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.ports.journal import DeletedSlice
from heimdall_server.ports.log_store import Limits
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.reach import reach_of
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.trimming import Follower
from heimdall_server.projections.vault import VaultHooks, VaultProjection
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.privacy.logic.audit import AuditUseCase
from heimdall_server.services.privacy.logic.delete import DeleteUseCase
from heimdall_server.services.privacy.logic.erase import CertificateUseCase, EraseUseCase
from heimdall_server.services.privacy.logic.export import ExportUseCase
from heimdall_server.services.privacy.logic.keys import KeysUseCase
from heimdall_server.services.privacy.logic.kinds.deletion import RecordDeletion, is_written
from heimdall_server.services.privacy.logic.kinds.erasure import Erasure, blocked_by, erased_by
from heimdall_server.services.privacy.logic.kinds.model import SHARD, PrivacyPorts
from heimdall_server.services.privacy.logic.kinds.rotation import DekRotation, IndexRotation, KekRotation
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.restored import DeletionsAfterRestore, ErasuresAfterRestore
from heimdall_server.services.privacy.logic.reveal import RevealUseCase
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.logic.written import WrittenValues
from heimdall_server.services.privacy.servicer import AUDITS_ITSELF, PrivacyServicer, PrivacyUseCases
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from heimdall_server.storage.postgres.opening import Postgres, open_postgres
from heimdall_server.storage.postgres.vault import PostgresVault
from heimdall_server.wiring.epochs import retire_epochs
from heimdall_server.wiring.erasures import KnownErasures
from heimdall_server.wiring.instance import Progress
from heimdall_server.wiring.keys import PrivacyKeys
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.policy_control import ProtectorPolicy
from heimdall_server.wiring.searching import make_personal_search
from heimdall_server.wiring.stored_records import DELETION_FILTER, StoredRecords
from heimdall_server.wiring.subject_parts import subject_parts
from heimdall_server.wiring.tasks import cancel, follow

_EXPORT_TIME_S: Final = 300.0
_TAIL_S: Final = 5.0
_LOG: Final = logging.getLogger(__name__)
_NUDGE_S: Final = 600.0
"""At most; a journal whose frames are to go sooner is looked at, and nudged, more often."""


@dataclass(frozen=True, slots=True)
class PrivacyParts:
    """What follows the journal for the vault."""

    keys: PrivacyKeys
    postgres: Postgres
    vault: PostgresVault
    follower: VaultProjection
    audit: FileAuditLog
    ledger: FileLedger
    personal: PersonalSearch
    """For questions that name personal values."""
    erased: ErasedValues
    """What these leave out."""
    known: KnownErasures
    progress: dict[str, Callable[[], Progress]]
    """Of projections that may be left behind, by name."""


async def open_privacy(
    config: Config, keys: PrivacyKeys, parts: Parts, stack: contextlib.AsyncExitStack
) -> PrivacyParts:
    """Open the vault's PostgreSQL, the audit log and the ledger, and begin to follow the journal.

    Raises:
        ConfigurationError, CorruptionError, StoreError: One of them can't be used.
    """
    audit = await FileAuditLog.open(config.data_dir / "audit", clock=parts.clock, mask_text=parts.mask_text)
    stack.push_async_callback(audit.close)
    filters = TextSealer(keys.keyring.root, DELETION_FILTER)
    ledger = await FileLedger.open(config.data_dir / "privacy", clock=parts.clock, filters=filters)
    stack.push_async_callback(ledger.close)
    postgres = await open_postgres(
        config.postgres,
        data_dir=config.data_dir,
        keys_dir=keys.ring.places.keyring.parent,
        stack=stack,
        serves_graph="graph" in config.services,
    )
    vault = PostgresVault(postgres.pool.used_by("vault"))
    erased = ErasedValues(keys.blocklist.of)
    await ErasuresAfterRestore(ledger.operations, parts.journal).cut(parts.clock.now_ns())
    for operation in await ledger.operations.load():
        keys.blocklist.block(*blocked_by(operation))
        erased.add(erased_by(operation))

    known = KnownErasures(ledger.operations)
    follower = VaultProjection(parts.journal, vault, parts.clock, hooks=_vault_hooks(known, keys))

    def follows() -> Follower:
        progress = follower.progress
        return Follower("vault", {SHARD: progress.noted}, progress.lag_s)

    parts.followers["vault"] = follows
    task = asyncio.create_task(follow(follower.run, "new personal values can't be revealed"), name="vault")
    stack.push_async_callback(cancel, [task])
    personal = await make_personal_search(config, keys, audit, parts.clock, ledger.policies, erased)
    progress: dict[str, Callable[[], Progress]] = {"vault": lambda: follower.progress}
    return PrivacyParts(keys, postgres, vault, follower, audit, ledger, personal, erased, known, progress)


def _vault_hooks(known: KnownErasures, keys: PrivacyKeys) -> VaultHooks:
    """What the vault is told at each start, and who hears what came back with it."""

    def destroyed() -> dict[str, set[int]]:
        gone: dict[str, set[int]] = {}
        for key in keys.keyring.list():
            if key.kind == "data" and key.state == "destroyed":
                gone.setdefault(key.data_class, set()).add(key.number)
        return gone

    def discarded(count: int) -> None:
        # What was sealed lately may be among them: it is sealed anew when it comes in again.
        keys.lately.clear()
        _LOG.warning(
            "PostgreSQL came back from a backup with values whose keys are gone: they are taken out, and each can be "
            "revealed again once it has come in again",
            extra={"count": count},
        )

    return replace(known.hooks(), destroyed=destroyed, on_discarded=discarded)


async def add_privacy_service(
    config: Config,
    privacy: PrivacyParts,
    parts: Parts,
    server: RpcServer,
    stack: contextlib.AsyncExitStack,
    graph: GraphRemoval,
    projection: GraphProjection | None,
) -> None:
    """Make the service, resume its operations, hand it to the server. `graph` is told of erasures; `projection` brings it up to date."""
    keyring, vault, clock, journal = privacy.keys.keyring, privacy.vault, parts.clock, parts.journal
    trail, rates = AuditTrail(privacy.audit), CallerRates(config.privacy_limits, clock)
    runner = _runner(config, privacy, parts, graph)
    deletions = DeletionsAfterRestore(privacy.ledger.operations, journal.journal_id, journal.head().get(SHARD, 0))
    await deletions.rewind(clock.now_ns())
    await runner.start()
    parts.deleting.append(lambda: any(not is_written(one) for one in runner.running(OperationKind.DELETE)))
    stack.push_async_callback(runner.close)
    await deletions.repeat(runner, trail)
    privacy.known.guard(graph, journal, stack)
    retire_epochs(config, privacy, parts, runner.list, stack)
    policy = PolicyUseCase(
        control=ProtectorPolicy(privacy.keys.protector, clock, privacy.keys.prepare),
        log=privacy.ledger.policies,
        trail=trail,
        clock=clock,
        mask_text=parts.mask_text,
    )
    await policy.restore()
    subjects = SubjectNames(
        tokeniser=keyring,
        sealer=keyring,
        vault=vault,
        classes=CLASSES,
        personal_form=_personal_form,
        why_impossible=why_impossible,
    )
    records = _records(config, parts, privacy)

    async def caught_up() -> bool:
        head = journal.head().get(SHARD, 0)
        return await privacy.follower.wait_applied(head, config.privacy_limits.vault_wait_s)

    use_cases = PrivacyUseCases(
        policy=policy,
        reveal=RevealUseCase(
            vault=vault,
            sealer=keyring,
            trail=trail,
            rates=rates,
            vault_caught_up=caught_up,
            written=WrittenValues(cipher=privacy.keys.cipher, preserver=privacy.keys.preserver),
        ),
        export=ExportUseCase(
            subjects=subjects,
            vault=vault,
            sealer=keyring,
            search=records.search,
            parts=subject_parts(parts, privacy.postgres.pool.used_by("subject_export", at_most=1), projection),
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
            classes=(*CLASSES, *map(key_class, CLASSES)),
            runner=runner,
            trail=trail,
            check_next_kek=privacy.keys.ring.check_rotation,
        ),
        audit=AuditUseCase(privacy.audit, clock),
        runner=runner,
        trail=trail,
    )
    server.add(
        "heimdall.privacy.v1.PrivacyService",
        privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server,
        PrivacyServicer(use_cases, server.drain_signal),
        audits_itself=AUDITS_ITSELF,
    )


def _runner(config: Config, privacy: PrivacyParts, parts: Parts, graph: GraphRemoval) -> OperationRunner:
    """What does long work, with every kind of it."""
    keys, age_s = privacy.keys, config.journal.age_max_s
    tail_s, nudge_s = min(_TAIL_S, age_s / 4), min(_NUDGE_S, age_s / 12)
    ports = PrivacyPorts(
        keys.keyring,
        keys.keyring,
        keys.keyring,
        privacy.vault,
        privacy.follower,
        keys.lately,
        keys.blocklist,
        privacy.erased,
        graph,
        parts.journal,
        parts.barrier,
        parts.clock,
        age_max_s=age_s,
        tail_s=tail_s,
        nudge_s=nudge_s,
    )

    async def stored(position: int, timeout_s: float) -> bool:
        return await parts.warm.wait_through({SHARD: position}, timeout_s)

    async def reach(operation: Operation, through: int) -> tuple[DeletedSlice, ...] | None:
        asked = operation.parameters
        time_range = TimeRange(asked.get("start_time_ns"), asked.get("end_time_ns"))
        filter_ = parse(operation.query, now_ns=0).filter
        datasets = tuple(asked.get("datasets", ()))
        async with parts.admission.admit_history():
            return await reach_of(parts.store, filter_, time_range, datasets, through=through)

    deletion = RecordDeletion(
        parts.journal,
        parts.clock,
        barrier=parts.barrier,
        wait_stored=stored,
        deleted_count=lambda deletion_id: parts.deleted[deletion_id],
        live_epochs=lambda: privacy.personal.terms.epochs,
        reach=reach,
        take_out=graph.delete,
        tail_s=tail_s,
        nudge_s=nudge_s,
    )
    runner = OperationRunner(privacy.ledger.operations, parts.clock, mask_text=parts.mask_text)
    runner.register(OperationKind.ERASE, lambda: Erasure(ports))
    runner.register(OperationKind.ROTATE_DEK, lambda: DekRotation(ports))
    runner.register(OperationKind.ROTATE_INDEX, lambda: IndexRotation(ports))
    runner.register(OperationKind.ROTATE_KEK, lambda: KekRotation(ports, rotate=keys.ring.rotate))
    runner.register(OperationKind.DELETE, lambda: deletion)
    return runner


def _personal_form(data_class: str, value: str) -> str:
    return str(personal_form(data_class, pa.array([value], pa.string()))[0].as_py())


def _records(config: Config, parts: Parts, privacy: PrivacyParts) -> StoredRecords:
    """The stored records, for what is asked of all of them at once."""
    limits = Limits(
        time_s=_EXPORT_TIME_S,
        memory_bytes=config.limits.query_memory_bytes_max,
        scan_rows=config.limits.query_scan_rows_max,
        result_rows=config.limits.query_rows_max,
        threads=1,
        background=True,
    )
    return StoredRecords(
        store=parts.store,
        visibility=parts.warm,
        head=parts.journal.head,
        admission=parts.admission,
        clock=parts.clock,
        terms=privacy.personal.terms,
        tokeniser=privacy.keys.keyring,
        datasets=config.datasets,
        limits=limits,
    )
