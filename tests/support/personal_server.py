"""The query service of a process that has keys: records are tokenised by the real rules, questions rewritten by the real keyring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.personal import TokenName
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.planner.personal_terms import PersonalTerms
from heimdall_server.ports.audit import Act
from heimdall_server.ports.vault import Tombstone
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.value_terms import ValueTerms
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.services.query.logic.matching import MatchGuard, MatchLimiter, MatchLimits, PersonalSearch
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.wiring.clock import SystemClock
from tests.support.journal import KEY
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.query_client import Answer, Watching
from tests.support.query_server import QueryServer, query_server, records

ALICE, BOB = "alice.lovelace@example.com", "bob.babbage@example.org"
EVERYTHING = (PrivacyRule("tokenise"),)
"""Addresses of machines, too."""


@dataclass
class PersonalServer:
    """A server and clients of it, by name: `analyst`, `reader`, `admin`."""

    query: QueryServer
    keyring: Keyring
    protector: PolicyProtector
    audit: FileAuditLog
    audit_folder: Path
    erased: ErasedValues
    stubs: dict[str, Any] = field(default_factory=dict)

    def protect(self, bodies: Sequence[str], **columns: Any) -> pa.RecordBatch:
        """Records as ingest would write them."""
        return self.protector.protect(records(bodies, **columns)).batch

    async def put(self, bodies: Sequence[str], *, visible: bool = True, **columns: Any) -> None:
        """Store records as ingest would."""
        await self.query.put(self.protect(bodies, **columns), visible=visible)

    async def search(self, text: str, *, who: str = "analyst", **fields: Any) -> Answer:
        """Everything that a search says."""
        call = self.stubs[who].Search(self.query.request(text, **fields), timeout=20)
        return Answer([message async for message in call])

    async def numbers(self, text: str, **fields: Any) -> list[int]:
        """The numbers of the records that are found, ascending."""
        return sorted((await self.search(text, **fields)).column("record_number"))

    async def explain(self, text: str, *, who: str = "analyst", **fields: Any) -> pb.ExplainResponse:
        """How a query would be answered."""
        asked = pb.ExplainRequest(question=pb.Question(text=text), **fields)
        response = await self.stubs[who].Explain(asked, timeout=20)
        assert isinstance(response, pb.ExplainResponse)
        return response

    def watching(self, who: str = "analyst") -> Watching:
        """A new watch stream."""
        return Watching(self.stubs[who])

    def token(self, data_class: str, value: str) -> str:
        """The newest word of a canonical value."""
        return self.keyring.words(data_class, [value])[0]

    def erase(self, value: str, *, through: int, blocked: bool = False) -> None:
        """What an erasure of a mail address tells searches."""
        names = [TokenName("email", word) for word in self.keyring.words_of_all_epochs("email", value)]
        self.erased.add([Tombstone(name, through, blocked, "erasure", 0) for name in names])

    async def acts(self) -> list[Act]:
        """What the audit log holds."""
        return [entry.act async for entry in self.audit.read()]


@asynccontextmanager
async def personal_server(
    pki: Pki,
    folder: Path,
    engine: Engine,
    *,
    rules: Sequence[PrivacyRule] = EVERYTHING,
    match_limits: MatchLimits | None = None,
    **options: Any,
) -> AsyncIterator[PersonalServer]:
    """A running server.

    Args:
        pki: Whose certificates it has.
        folder: For journal, keys and audit log.
        engine: The process's one.
        rules: Of the policy.
        match_limits: How much one caller may search for.
        options: Of `query_server`.
    """
    clock = SystemClock()
    names = {"analyst": ("analyst",), "reader": ("reader",), "admin": ("admin",)}
    access = AccessPolicy({f"spiffe://{TRUST_DOMAIN}/client/{name}": roles for name, roles in names.items()})
    async with AsyncExitStack() as stack:
        keys = folder / "keys"
        keys.mkdir(mode=0o700)
        keyring = await Keyring.load(keys / "keyring", LocalKeyEncryption(KEY), classes=CLASSES)
        audit = await FileAuditLog.open(folder / "audit", clock=clock, mask_text=str)
        stack.push_async_callback(audit.close)
        protector = PolicyProtector(PrivacyPolicy(1, tuple(rules)), keyed_actions(keyring, keyring))
        values = ValueTerms(lambda: protector.policy)
        terms = PersonalTerms(
            classes=values.classes,
            tokeniser=keyring,
            policy=values,
            find_personal=values.find_personal,
            class_of_field=values.class_of_field,
            personal_form=personal_form,
            find_in_name=values.find_in_name,
            erased=(erased := ErasedValues()),
        )
        guard = MatchGuard(audit, MatchLimiter(match_limits or MatchLimits(), clock), clock)
        query = await stack.enter_async_context(
            query_server(
                pki,
                folder,
                engine,
                access=access,
                personal=PersonalSearch(terms, guard, lambda: protector.policy_version),
                **options,
            )
        )
        made = PersonalServer(query, keyring, protector, audit, folder / "audit", erased)
        for name in names:
            channel = await stack.enter_async_context(pki.channel(query.rpc.mesh_address, pki.leaf(name)))
            made.stubs[name] = query_service_pb2_grpc.QueryServiceStub(channel)
        yield made
