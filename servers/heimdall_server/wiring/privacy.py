"""The privacy service of a process that runs it: keyring, vault, audit log, ledger, operations.

All of this is opened only where `services` names `privacy`; a process without it masks, and has none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall.privacy.v1 import privacy_service_pb2_grpc
from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.canonical.possible import why_impossible
from heimdall_server.config import Config
from heimdall_server.crypto.field_cipher import key_class
from heimdall_server.crypto.text_sealing import TextSealer
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Aggregate, Expression, Function, Or, Query, Stats, TimeRange, Words
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.domain.personal import TokenName
from heimdall_server.language.format import normalise
from heimdall_server.language.parser import parse
from heimdall_server.language.shapes import shape_text
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.planner.graph_terms import graph_terms
from heimdall_server.planner.personal_terms import PersonalTerms
from heimdall_server.ports.journal import DeletedSlice
from heimdall_server.ports.keys import Tokeniser
from heimdall_server.ports.log_store import Limits, Order, StoreQuery
from heimdall_server.projections.graph.reach import reach_of
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.trimming import Follower
from heimdall_server.projections.vault import VaultProjection
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.privacy.logic.audit import AuditUseCase
from heimdall_server.services.privacy.logic.delete import DeleteUseCase
from heimdall_server.services.privacy.logic.erase import CertificateUseCase, EraseUseCase
from heimdall_server.services.privacy.logic.export import ExportUseCase
from heimdall_server.services.privacy.logic.keys import KeysUseCase
from heimdall_server.services.privacy.logic.kinds.deletion import RecordDeletion
from heimdall_server.services.privacy.logic.kinds.erasure import Erasure, blocked_by, erased_by
from heimdall_server.services.privacy.logic.kinds.model import SHARD, PrivacyPorts
from heimdall_server.services.privacy.logic.kinds.rotation import DekRotation, IndexRotation, KekRotation
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.restored import DeletionsAfterRestore
from heimdall_server.services.privacy.logic.reveal import RevealUseCase
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.logic.written import WrittenValues
from heimdall_server.services.privacy.model import DeletionPlan
from heimdall_server.services.privacy.servicer import AUDITS_ITSELF, PrivacyServicer, PrivacyUseCases
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.services.query.logic.question import check_datasets, check_time_range, with_tokens
from heimdall_server.services.query.translate.json_rows import json_rows
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
from heimdall_server.wiring.tasks import cancel, follow

DELETION_FILTER: Final = "deletion_filter"
"""What the ledger's sealed texts are, and the domain of the digests by which they are told apart."""
_COUNT: Final = "record_count"
_EXPORT_TIME_S: Final = 300.0
_VISIBLE_WAIT_S: Final = 5.0
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
    for operation in await ledger.operations.load():
        keys.blocklist.block(*blocked_by(operation))
        erased.add(erased_by(operation))

    known = KnownErasures(ledger.operations)
    follower = VaultProjection(parts.journal, vault, parts.clock, hooks=known.hooks())

    def follows() -> Follower:
        progress = follower.progress
        return Follower("vault", {SHARD: progress.noted}, progress.lag_s)

    parts.followers["vault"] = follows
    task = asyncio.create_task(follow(follower.run, "new personal values can't be revealed"), name="vault")
    stack.push_async_callback(cancel, [task])
    personal = await make_personal_search(config, keys, audit, parts.clock, ledger.policies, erased)
    progress: dict[str, Callable[[], Progress]] = {"vault": lambda: follower.progress}
    return PrivacyParts(keys, postgres, vault, follower, audit, ledger, personal, erased, known, progress)


async def add_privacy_service(
    config: Config,
    privacy: PrivacyParts,
    parts: Parts,
    server: RpcServer,
    stack: contextlib.AsyncExitStack,
    graph: GraphRemoval,
) -> None:
    """Make the service, resume its operations, hand it to the server. `graph` is told of erasures."""
    keyring, vault, clock, journal = privacy.keys.keyring, privacy.vault, parts.clock, parts.journal
    trail, rates = AuditTrail(privacy.audit), CallerRates(config.privacy_limits, clock)
    runner = _runner(config, privacy, parts, graph)
    deletions = DeletionsAfterRestore(privacy.ledger.operations, journal.journal_id, journal.head().get(SHARD, 0))
    await deletions.rewind(clock.now_ns())
    await runner.start()
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
    records = _Records(config, parts, privacy.personal.terms, keyring)

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


class _Records:
    """The stored records, as deletions, erasures and exports ask for them."""

    def __init__(self, config: Config, parts: Parts, terms: PersonalTerms, tokeniser: Tokeniser) -> None:
        self._parts = parts
        self._terms = terms
        self._tokeniser = tokeniser
        self._datasets = config.datasets
        self._limits = Limits(
            time_s=_EXPORT_TIME_S,
            memory_bytes=config.limits.query_memory_bytes_max,
            scan_rows=config.limits.query_scan_rows_max,
            result_rows=config.limits.query_rows_max,
            threads=1,
            background=True,
        )

    async def plan(self, query: str, time_range: TimeRange, datasets: Sequence[str]) -> DeletionPlan:
        """See `DeletionPlanner`."""
        parsed = parse(query, now_ns=self._parts.clock.now_ns())
        if parsed.stages:
            raise QuerySyntaxError(query, max(query.find("|"), 0), "a deletion takes a filter without pipes")
        if hidden := self._terms.never_stored(query):
            # The filter is kept for as long as the journal: such a value would come to rest nowhere but in it.
            problem = f"this holds a value of class {hidden[0].data_class}, of which records have none"
            raise QuerySyntaxError("…", 0, problem, "say by other words which records are meant")
        if asked := graph_terms(parsed):
            # What is deleted is kept as it was asked, and applied again by every store: a set that grows would delete more each time.
            problem = f"a deletion can't ask the graph, as {asked[0].name} does: what it tells changes"
            raise QuerySyntaxError(
                query, 0, problem, "search with it, and delete by the values or tokens that are meant"
            )
        # Who may delete may name what he deletes by its value: the operation and the audit log know it by its tokens.
        epochs = list(self._terms.epochs)
        understood = await asyncio.to_thread(with_tokens, Query(parsed.filter), self._terms)
        filter_, text = understood.query.filter, understood.canonical_text
        if not _can_be_kept(filter_, text):
            # It is read again from the journal, and a projection must not stumble over it there.
            raise QuerySyntaxError(query, 0, "this filter can't be kept as text; write it in another way")
        if datasets:
            check_datasets(datasets, self._datasets)
        time_range = check_time_range(time_range)
        parameters: dict[str, object] = {
            "start_time_ns": time_range.start_ns_inclusive,
            "end_time_ns": time_range.end_ns_exclusive,
            "datasets": list(datasets),
        }
        identity = ""
        if understood.binding is not None:
            parameters["epochs"] = epochs
            identity = repr(understood.binding)
        count = await self._count(filter_, time_range, datasets)
        (digest,) = self._tokeniser.digests(DELETION_FILTER, [identity or text])
        return DeletionPlan(text, shape_text(filter_), digest, count, parameters, len(understood.matched))

    async def count(self, names: Sequence[TokenName]) -> int:
        """Records that name one of some tokens."""
        return await self._count(_naming(names), TimeRange(), ()) if names else 0

    async def search(self, names: Sequence[TokenName], time_range: TimeRange) -> AsyncGenerator[Sequence[str], None]:
        """See `RecordSearch`."""
        if not names:
            return
        asked = StoreQuery(
            Query(_naming(names)),
            check_time_range(time_range),
            await self._through(),
            order=Order.OLDEST_FIRST,
            limits=self._limits,
        )
        async with self._parts.admission.admit_history(), self._parts.store.query(asked) as result:
            async for batch in result.batches():
                yield (await asyncio.to_thread(json_rows, batch)).to_pylist()

    async def _count(self, filter_: Expression, time_range: TimeRange, datasets: Sequence[str]) -> int:
        stage = Stats((Aggregate(Function.COUNT, None, _COUNT),))
        asked = StoreQuery(
            Query(filter_, (stage,)), time_range, await self._through(), datasets=datasets, limits=self._limits
        )
        async with self._parts.admission.admit_history(), self._parts.store.query(asked) as result:
            return sum([sum(batch.column(0).to_pylist()) async for batch in result.batches()])

    async def _through(self) -> dict[int, int]:
        await self._parts.warm.wait_through(self._parts.journal.head(), _VISIBLE_WAIT_S)
        return self._parts.warm.visible_through


def _can_be_kept(filter_: Expression, text: str) -> bool:
    """Whether the text of a filter is read as that filter again."""
    try:
        return normalise(parse(text, now_ns=0).filter) == normalise(filter_)
    except QuerySyntaxError:
        return False


def _naming(names: Sequence[TokenName]) -> Expression:
    return Or(tuple(Words(ref, (name.word,)) for name in names for ref in (_BODY, _TOKENS)))
