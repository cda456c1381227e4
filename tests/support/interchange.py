"""Imports and exports of the graph over real components: journal, keys, protector, vault and PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import SIDECAR, decode
from heimdall_server.ports.audit import Act
from heimdall_server.projections.graph.imports import ErasesInTurn, ImportProjection
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.texts import masked_text
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.interchange.drafts import Defaults
from heimdall_server.services.graph.logic.interchange.exporting import (
    Exported,
    ExportOptions,
    ExportPorts,
    GraphExporting,
)
from heimdall_server.services.graph.logic.interchange.importing import (
    GraphImporting,
    ImportCounts,
    ImportOptions,
    ImportPorts,
)
from heimdall_server.services.graph.logic.interchange.misp_reader import MispImport
from heimdall_server.services.graph.logic.interchange.stix_import import StixImport
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.model import Ceiling, Curator, Named
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.import_log import PostgresImportLog
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.journal import KEY, ManualClock, opened, small_config

CAROL = Curator("spiffe://test/client/carol", "r-1", "heimdall.graph.v1.InterchangeService/Any", Tlp.RED)
TIME = "2026-03-01T10:00:00.000Z"
LATER = "2026-03-02T11:30:00.000Z"


class NoOwners:
    """Knows no token."""

    async def learn(self, tokens: object, *, through: int) -> dict[str, str]:  # noqa: ARG002 - the port's
        return {}


def stix(type_: str, **said: Any) -> dict[str, Any]:
    """An object of STIX 2.1 that isn't an observable; its id follows from what it says."""
    id_ = f"{type_}--{uuid.UUID(bytes=hashlib.md5(json.dumps([type_, said], sort_keys=True).encode()).digest(), version=4)}"  # noqa: S324 - no secret
    return {"type": type_, "spec_version": "2.1", "id": id_, "created": TIME, "modified": TIME, **said}


def observable(type_: str, **said: Any) -> dict[str, Any]:
    """An observable object; its id follows from what it says."""
    id_ = f"{type_}--{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([type_, said], sort_keys=True))}"
    return {"type": type_, "spec_version": "2.1", "id": id_, **said}


def bundle(*objects: Mapping[str, Any]) -> bytes:
    """They as a bundle."""
    return json.dumps({"type": "bundle", "id": f"bundle--{uuid.uuid4()}", "objects": list(objects)}).encode()


@dataclass
class Interchange:
    """The use cases and what they act on."""

    importing: GraphImporting
    exporting: GraphExporting
    journal: EmbeddedJournal
    keyring: Keyring
    protector: PolicyProtector
    log: PostgresImportLog
    imports: ImportProjection
    writer: PostgresGraphWriter
    reader: PostgresGraphReader
    finder: VertexFinder
    curation: PostgresGraphCuration
    eraser: ErasesInTurn
    audit: FileAuditLog
    clock: ManualClock
    revealed: list[TokenName] = field(default_factory=list)

    async def take(
        self,
        data: bytes,
        *,
        source: str = "partner",
        format_: str = "stix",
        piece: int = 1 << 16,
        who: Curator = CAROL,
        tlp: Tlp = Tlp.AMBER,
        dry_run: bool = False,
    ) -> ImportCounts:
        """Import something."""
        options = ImportOptions(source, Defaults(tlp, 70), dry_run, "a test")
        make = partial(StixImport, mask_text=masked_text) if format_ == "stix" else MispImport

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), piece):
                yield data[start : start + piece]

        last = ImportCounts()
        async for counts in self.importing.run(who, options, make, chunks()):
            last = counts
        assert last.done
        return last

    async def give(
        self, *starts: Named | str, depth: int = 2, who: Curator = CAROL, reveal: bool = False, **further: Any
    ) -> tuple[dict[str, Any], Exported]:
        """Export something."""
        named = [
            Named(type=one.partition(":")[0], value=one.partition(":")[2]) if isinstance(one, str) else one
            for one in starts
        ]
        options = ExportOptions(named, depth, 1_000, reveal, "a test", **further)
        data, told = b"", Exported()
        async for piece in self.exporting.run(who, options, Ceiling(who.ceiling)):
            if isinstance(piece, Exported):
                told = piece
            else:
                data += piece
        return json.loads(data), told

    async def sealed(self) -> dict[TokenName, SealedValue]:
        """Values that were sealed in the journal, by token."""
        found: dict[TokenName, SealedValue] = {}
        head = self.journal.head()[0]
        async for frame in self.journal.read(0, after=0, through=head):
            if SIDECAR in frame.entry.sidecars:
                found |= {value.name: value for value in decode(frame.entry.sidecars[SIDECAR])}
        return found

    async def acts(self) -> list[Act]:
        """What the audit log holds."""
        return [entry.act async for entry in self.audit.read()]


@asynccontextmanager
async def interchange(
    pool: PostgresPool, folder: Path, *, rules: Sequence[PrivacyRule] = DEFAULT_KEYED_RULES
) -> AsyncIterator[Interchange]:
    """Everything that imports and exports need.

    Args:
        pool: Of a database that is migrated.
        folder: For journal, keys and audit log.
        rules: Of the privacy policy.
    """
    clock = ManualClock()
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    keyring = await Keyring.load(keys / "keyring", LocalKeyEncryption(KEY), classes=CLASSES)
    key = keyring.identity_key("personal entities")
    protector = PolicyProtector(PrivacyPolicy(1, tuple(rules)), keyed_actions(keyring, keyring))
    audit = await FileAuditLog.open(folder / "audit", clock=clock, mask_text=masked_text)
    log, writer, reader = PostgresImportLog(pool), PostgresGraphWriter(pool), PostgresGraphReader(pool)
    curation, imports = (
        PostgresGraphCuration(pool),
        ImportProjection(PostgresImportLog(pool), PostgresGraphWriter(pool)),
    )

    def mac(message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha256)

    async def match(data_class: str, value: str) -> None:
        """Everybody may ask by a personal value here."""

    names = VertexNames(
        classes=frozenset(CLASSES),
        may_tokenise=lambda one: one in CLASSES and not one.startswith("ip"),
        mac=mac,
        owners=NoOwners(),
        match=match,
    )
    finder = VertexFinder(reader, names, lambda label, tlp_max: curation.labelled(label, tlp_max=tlp_max))
    async with opened(small_config(folder / "journal")) as journal:
        importing = GraphImporting(
            ImportPorts(log, journal, protector, imports.catch_up, audit, clock, mac, frozenset(CLASSES))
        )
        made: Interchange

        async def reveal(_: Curator, tokens: Sequence[TokenName]) -> dict[TokenName, str]:
            made.revealed += tokens
            sealed = await made.sealed()
            return {name: keyring.open(sealed[name]) for name in tokens if name in sealed}

        exporting = GraphExporting(ExportPorts(reader, log, finder, audit, reveal))
        eraser = ErasesInTurn(PostgresGraphEraser(pool), imports)
        made = Interchange(
            importing,
            exporting,
            journal,
            keyring,
            protector,
            log,
            imports,
            writer,
            reader,
            finder,
            curation,
            eraser,
            audit,
            clock,
        )
        yield made
    await audit.close()


def below(ceiling: Tlp) -> Curator:
    """Who may see less."""
    return replace(CAROL, ceiling=ceiling)


async def emptied(graph: Interchange) -> None:
    """An empty graph, of which nobody was told anything."""
    async with graph.log._pool.connection() as connection:
        await connection.execute(b"TRUNCATE graph_import, graph_import_head, graph_label")
    await graph.writer.forget()
