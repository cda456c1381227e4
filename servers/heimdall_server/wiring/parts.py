"""What stands before the services do: keys, journal, store, projections, pipeline. Built bottom up, taken down in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from heimdall_server.config import Config
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_file import load_or_mint_key, parse_key
from heimdall_server.decode.columns import CONTEXT_COLUMNS
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.jobs.retention import expire
from heimdall_server.jobs.schedule import every
from heimdall_server.ports.journal import DeadLetter, Entry, Positions, SourceKey
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.trimming import Follower, Trimming
from heimdall_server.projections.warm import RefusedRecord, WarmHooks, WarmProjection
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.texts import masking
from heimdall_server.rpc.tls_files import TlsFiles
from heimdall_server.services.ingest.logic.dead_letters import context_to_json
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.remote import RemoteEngine, ServerAddress
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.files import stored_fingerprint
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from heimdall_server.wiring.keyring import key_places, open_process_keyring
from heimdall_server.wiring.names import DUMP_GROUP_ROWS, DUMP_PIECE_BYTES, names_pass
from heimdall_server.wiring.tasks import cancel, follow

if TYPE_CHECKING:
    from heimdall_server.wiring.keys import PrivacyKeys

LOG: Final = logging.getLogger(__name__)
TRIM_S: Final = 5.0
"""How often the journal hears what may go: age takes effect then."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands before the services do."""

    clock: SystemClock
    key: RootKey
    journal: EmbeddedJournal
    store: ClickHouseLogStore
    warm: WarmProjection
    control: IngestState
    pipeline: Pipeline
    dump_pipeline: Pipeline
    """Of the dumps; where no model reads them, the same."""
    tls: TlsFiles
    admission: Admission
    keys: PrivacyKeys | None
    """None: this process doesn't run the privacy service."""
    followers: dict[str, Callable[[], Follower]]
    """Optional projections by name, for which the journal waits within its bounds; who opens one puts itself there."""
    deleted: Counter[str]
    """Records that the store deleted since the process started, by deletion."""
    warming: asyncio.Task[None]
    """Ends when the protector has what its first batch needs."""
    mask_text: Callable[[str], str]
    """Puts classes in place of personal data in what people write and call things, by the policy in force."""
    barriers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Of whoever else has something protected that isn't durable yet; who does so puts itself there."""
    deleting: list[Callable[[], bool]] = field(default_factory=list)
    """Each tells whether a deletion was asked for that the journal doesn't hold yet; who writes deletions puts itself there."""

    @property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """Each once."""
        return (self.pipeline,) if self.dump_pipeline is self.pipeline else (self.pipeline, self.dump_pipeline)

    async def barrier(self) -> int:
        """Wait until everything that was protected before is durable or dropped; the journal's head then."""
        for pipeline in self.pipelines:
            await pipeline.barrier()
        for barrier in self.barriers:
            await barrier()
        return self.journal.head().get(0, 0)


async def build(config: Config, stack: contextlib.AsyncExitStack) -> Parts:
    """Make the parts; what was started is stopped by the stack, also if a later one fails."""
    clock = SystemClock()
    tls = TlsFiles(config.tls)
    names = names_pass(config.privacy_names)
    keys: PrivacyKeys | None = None
    if "privacy" in config.services:
        # Loaded where it is wanted: drivers and canonical forms cost a second of CPU.
        from heimdall_server.wiring.keys import open_keys

        keys = await open_keys(config, stack, names)
    key = await _root_key(config, stack) if keys is None else keys.keyring.root
    journal = await EmbeddedJournal.open(config.journal, key=key, clock=clock)
    stack.push_async_callback(journal.close)
    control = IngestState(source_count_max=config.ingest.source_count_max)
    await journal.maintain(control)
    engine = _engine(config, key)
    datasets = tuple(config.datasets.values())
    warm_config = ClickHouseConfig(
        config.warm.database, datasets, config.warm.query_connections, text_index=config.warm.text_index
    )
    store = ClickHouseLogStore(engine, warm_config)
    stack.push_async_callback(store.close)
    await store.open()

    async def keep_refused(records: Sequence[RefusedRecord]) -> None:
        await journal.append([Entry(None, dead_letters=[_letter(record, clock) for record in records])])

    followers: dict[str, Callable[[], Follower]] = {}
    if keys is not None:
        # Until a projection is there it has passed nothing: the journal must not run ahead of it at the start.
        followers["vault"] = lambda: Follower("vault", {}, 0.0)
        if "graph" in config.services:
            followers["graph"] = lambda: Follower("graph", {}, 0.0)
    trimming = Trimming(bytes_max=config.journal.bytes_max, age_max_s=config.journal.age_max_s)

    async def trim(through: Positions) -> None:
        decided = trimming.decide(through, [follower() for follower in followers.values()], journal.state())
        if decided.left_behind:
            LOG.error("the journal goes on without a projection", extra={"projections": list(decided.left_behind)})
            if keys is not None:
                # What was sealed in frames that go unread must ride again with the next record that names it.
                keys.lately.clear()
        await journal.trim(decided.through)
        control.forget_before(journal.tail().get(0, 1))

    deleted: Counter[str] = Counter()

    def note_deleted(deletion_id: str, count: int) -> None:
        deleted[deletion_id] += count

    warm = WarmProjection(
        journal,
        store,
        CheckpointFile(config.data_dir / "checkpoints" / "warm.json"),
        clock,
        limits=config.warm.read,
        hooks=WarmHooks(on_refused=keep_refused, on_advanced=trim, on_deleted=note_deleted),
    )
    tasks = [
        asyncio.create_task(follow(warm.run, "queries no longer see what is new"), name="warm"),
        asyncio.create_task(every(TRIM_S, "trim", lambda: trim(warm.visible_through)), name="trim"),
        asyncio.create_task(
            every(config.retention.check_s, "retention", lambda: expire(store, datasets, clock)), name="retention"
        ),
    ]
    stack.push_async_callback(cancel, tasks)
    protector = PolicyProtector(config.privacy, names=names) if keys is None else keys.protector
    # Beside what else there is to wait for at the start, so that the first batch isn't what waits for it.
    warming = asyncio.create_task(asyncio.to_thread(protector.warm_up), name="warm-up")
    stack.push_async_callback(cancel, [warming])
    pipeline = Pipeline(journal=journal, protector=protector, clock=clock, limits=config.ingest.pipeline)
    pipeline.start()
    stack.push_async_callback(pipeline.close)
    dump_pipeline = pipeline
    if names is not None:
        # Its own, so that logs never wait for the model; in small groups, so that an answer is never long in coming.
        limits = replace(config.ingest.pipeline, group_rows_max=DUMP_GROUP_ROWS)
        dump_pipeline = Pipeline(
            journal=journal,
            protector=protector,
            clock=clock,
            limits=limits,
            piece_bytes_max=DUMP_PIECE_BYTES,
            interrupt=names.stop,
        )
        dump_pipeline.start()
        stack.push_async_callback(dump_pipeline.close)
    return Parts(
        clock,
        key,
        journal,
        store,
        warm,
        control,
        pipeline,
        dump_pipeline,
        tls,
        Admission(config.admission),
        keys,
        followers,
        deleted,
        warming,
        masking(lambda: protector.policy),
    )


async def _root_key(config: Config, stack: contextlib.AsyncExitStack) -> RootKey:
    """The journal's root of a process without the privacy service: in the keyring where there is one, else the key itself."""
    kek = config.keys.in_use
    if key_places(config).keyring.exists() or kek.kind in {"aws_kms", "vault_transit"}:
        return (await open_process_keyring(config, stack)).keyring.root
    expected = stored_fingerprint(config.journal.path)
    if kek.kind == "file":
        file = kek.file or config.key_file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return load_or_mint_key(file, expected_fingerprint=expected)
    key = parse_key("" if kek.value is None else kek.value.get_secret_value(), where="the key of the environment")
    if expected is not None and key.fingerprint != expected:
        raise KeyMismatchError(expected, key.fingerprint)
    return key


def _engine(config: Config, key: RootKey) -> Engine:
    warm = config.warm
    if warm.engine == "chdb":
        part_key = key.derive("warm parts") if warm.encrypted else None
        return ChdbEngine(config.data_dir / "warm", memory_bytes_max=warm.memory_bytes_max, key=part_key)
    password = ""
    if warm.password_file is not None:
        try:
            password = warm.password_file.read_text().strip()
        except OSError as error:
            raise ConfigurationError((f"warm.password_file: {warm.password_file}: {error.strerror}",)) from error
    return RemoteEngine(
        ServerAddress(warm.host, warm.port, warm.username, password, secure=warm.secure, ca_file=warm.ca_file)
    )


def _letter(record: RefusedRecord, clock: SystemClock) -> DeadLetter:
    """A record that the store refuses, protected as it is, as an Arrow stream of one row."""
    sink = pa.BufferOutputStream()
    row = record.record.select(RECORD_SCHEMA.names)
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    said = row.select([*CONTEXT_COLUMNS, "record_number"]).to_pylist()[0]
    now_ns = clock.now_ns()
    context = DecodeContext(observed_time_ns=now_ns, first_record_number=said.pop("record_number"), **said)
    return DeadLetter(
        key=SourceKey(context.principal, context.source),
        offset=record.position,
        row=record.row,
        reason=f"the warm store refuses it: {record.reason}",
        time_ns=now_ns,
        raw=sink.getvalue().to_pybytes(),
        format='{"kind":"arrow","options":{}}',
        context=context_to_json(context),
        protected=True,
    )
