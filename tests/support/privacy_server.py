"""The privacy service in this process: real mTLS, audit log, ledger, keyring and vault; policy and stores are models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from heimdall.privacy.v1 import privacy_service_pb2_grpc
from heimdall_server.canonical.possible import why_impossible
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import ConfigurationError, FormatError, QuerySyntaxError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.operations import Operation, OperationKind
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import runs_of
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.ports.vault import Tombstone, Vault
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from heimdall_server.services.privacy.logic.audit import AuditUseCase
from heimdall_server.services.privacy.logic.delete import DeleteUseCase
from heimdall_server.services.privacy.logic.erase import CertificateUseCase, EraseUseCase
from heimdall_server.services.privacy.logic.export import ExportUseCase
from heimdall_server.services.privacy.logic.held import Part
from heimdall_server.services.privacy.logic.keys import KeysUseCase
from heimdall_server.services.privacy.logic.kinds.shredding import RESEALED
from heimdall_server.services.privacy.logic.limits import CallerRates, PrivacyLimits
from heimdall_server.services.privacy.logic.operations import OperationRunner, Progress, Wait
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.reveal import RevealUseCase
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.logic.written import WrittenValues
from heimdall_server.services.privacy.model import DataClass, DeletionPlan, Finding, PolicySample, PolicyTrial
from heimdall_server.services.privacy.servicer import AUDITS_ITSELF, PrivacyServicer, PrivacyUseCases
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from tests.support.journal_feeder import SystemClock
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.sealed_filters import FILTERS

CLASSES = ("email", "phone")
JOURNAL = "0" * 32


def personal_form(data_class: str, value: str) -> str:
    """As the canonical package would: enough for tests."""
    return value.strip().lower() if data_class == "email" else value.replace(" ", "")


@dataclass
class ModelPolicy:
    """A protector's policy."""

    version: int = 1
    rules: Sequence[PolicyRule] = (PolicyRule("keep", "phone"), PolicyRule("mask"))
    fallback_action: str = "mask"
    classes: Sequence[DataClass] = (DataClass("email", "an address", credential=False),)
    actions: Sequence[str] = ("keep", "mask")

    def check(self, rules: Sequence[PolicyRule], version: int) -> None:
        del version
        bad = [
            f"privacy.rules[{i}].action: unknown action {r.action!r}"
            for i, r in enumerate(rules)
            if r.action not in self.actions
        ]
        if bad:
            raise ConfigurationError(tuple(bad))

    async def prepare(self, rules: Sequence[PolicyRule], version: int) -> None:
        self.check(rules, version)

    async def replace(self, rules: Sequence[PolicyRule], version: int) -> None:
        self.check(rules, version)
        self.rules, self.version = tuple(rules), version

    async def test(self, sample: PolicySample) -> PolicyTrial:
        self.check(sample.rules, 1)
        if sample.format == "csv":
            raise FormatError("csv", "no header")
        return PolicyTrial(1, 0, (Finding("email", "body", "mask", 1, 1),), ('{"body":"[email]"}',))


@dataclass
class Stored:
    """Records as a store would have them, as JSON objects."""

    rows: list[str] = field(default_factory=list)

    def holding(self, names: Sequence[TokenName]) -> list[str]:
        return [row for row in self.rows if any(str(name) in row for name in names)]

    async def count(self, names: Sequence[TokenName]) -> int:
        return len(self.holding(names))

    async def search(self, names: Sequence[TokenName], time_range: TimeRange) -> AsyncGenerator[Sequence[str], None]:
        del time_range
        yield self.holding(names)

    async def plan(self, query: str, time_range: TimeRange, datasets: Sequence[str]) -> DeletionPlan:
        del time_range, datasets
        if "|" in query:
            raise QuerySyntaxError(query, query.index("|"), "pipes can't be deleted")
        return DeletionPlan(query, "…", f"~{len(query)}", sum(query in row for row in self.rows), {})


@dataclass
class Bury:
    """An erasure that only makes values inaccessible."""

    vault: Vault
    lane: str = "keys"

    def can_stop(self, operation: Operation) -> bool:
        return not operation.inaccessible_time_ns

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        names = [name for text in operation.parameters["tokens"] if (name := TokenName.parse(text)) is not None]
        block = operation.parameters["block"]
        buried = await self.vault.bury([Tombstone(name, 100, block, operation.operation_id, 1) for name in names])
        await progress.note(
            inaccessible_time_ns=operation.create_time_ns,
            # Two of others were sealed anew.
            affected_count=buried + 2,
            facts={
                "values_deleted": buried,
                "keys_destroyed": [{"data_class": "email", "generation": 1, "destroyed_time_ns": 10**18}],
            },
        )
        return None


@dataclass
class Remove:
    """A deletion of stored rows."""

    stored: Stored
    lane: str = "deletions"

    def can_stop(self, operation: Operation) -> bool:
        del operation
        return False

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        kept = [row for row in self.stored.rows if operation.query not in row]
        await progress.note(affected_count=len(self.stored.rows) - len(kept))
        self.stored.rows[:] = kept
        return None


@dataclass
class Patient:
    """A rotation of which only the destruction of the old keys is left, for which it waits for ever."""

    lane: str = "keys"

    def can_stop(self, operation: Operation) -> bool:
        del operation
        return True

    async def run(self, operation: Operation, progress: Progress) -> Wait | None:
        del operation
        await progress.checkpoint()
        return Wait(3600, f"{RESEALED}; waiting for the journal")


@dataclass
class PrivacyServer:
    """What a test needs of it."""

    server: RpcServer
    keyring: Keyring
    vault: Vault
    stored: Stored
    audit: FileAuditLog
    behind: bool = False
    position: int = 0

    @property
    def address(self) -> str:
        return self.server.mesh_address

    async def keep(self, data_class: str, *values: str) -> list[str]:
        """Seal values into the vault; their tokens."""
        words = self.keyring.words(data_class, values)
        sealed: list[SealedValue] = self.keyring.seal(data_class, words, values)
        self.position += 1
        runs = runs_of(sealed)
        await self.vault.apply(runs, [self.position] * len(runs), journal_id=JOURNAL, through=self.position)
        return [str(one.name) for one in sealed]

    async def caught_up(self) -> bool:
        return not self.behind


class _Admin(admin_service_pb2_grpc.AdminServiceServicer):
    """One method that is audited and doesn't do so itself."""

    async def GetConfig(self, request: object, context: object) -> admin_service_pb2.GetConfigResponse:  # noqa: ARG002, N802
        return admin_service_pb2.GetConfigResponse(version=1)


@asynccontextmanager
async def serving_privacy(
    pki: Pki, folder: Path, vault: Vault, *, limits: PrivacyLimits | None = None, parts: Sequence[Part] = ()
) -> AsyncIterator[PrivacyServer]:
    """A running server. `client/officer` may all of it, `client/analyst` may match, others only read records."""
    clock = SystemClock()
    limits = limits or PrivacyLimits()
    access = AccessPolicy(
        {
            f"spiffe://{TRUST_DOMAIN}/client/officer": ("privacy_officer",),
            f"spiffe://{TRUST_DOMAIN}/client/analyst": ("analyst",),
            f"spiffe://{TRUST_DOMAIN}/client/admin": ("admin",),
        }
    )
    async with AsyncExitStack() as stack:
        keys = folder / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        keyring = await Keyring.load(keys / "keyring.json", LocalKeyEncryption(RootKey(b"k" * 32)), classes=CLASSES)
        audit = await FileAuditLog.open(folder / "audit", clock=clock, mask_text=lambda t: t.replace("alice", "[name]"))
        stack.push_async_callback(audit.close)
        ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
        stack.push_async_callback(ledger.close)
        runner = OperationRunner(ledger.operations, clock, mask_text=lambda text: text.replace("alice", "[name]"))
        stored = Stored()
        runner.register(OperationKind.ERASE, lambda: Bury(vault))
        runner.register(OperationKind.DELETE, lambda: Remove(stored))
        runner.register(OperationKind.ROTATE_INDEX, lambda: Remove(stored))
        runner.register(OperationKind.ROTATE_DEK, Patient)
        stack.push_async_callback(runner.close)
        await runner.start()
        server = RpcServer(ListenConfig("127.0.0.1:0", ""), pki.tls_files(), access, audit=audit)
        made = PrivacyServer(server, keyring, vault, stored, audit)
        trail, rates = AuditTrail(audit), CallerRates(limits, clock)
        subjects = SubjectNames(
            tokeniser=keyring,
            sealer=keyring,
            vault=vault,
            classes=CLASSES,
            personal_form=personal_form,
            why_impossible=why_impossible,
        )
        policy = PolicyUseCase(control=ModelPolicy(), log=ledger.policies, trail=trail, clock=clock, mask_text=str)
        await policy.restore()

        def no_next_kek() -> None:
            raise ConfigurationError(("keys.next: isn't configured",))

        use_cases = PrivacyUseCases(
            policy=policy,
            reveal=RevealUseCase(
                vault=vault,
                sealer=keyring,
                trail=trail,
                rates=rates,
                vault_caught_up=made.caught_up,
                written=WrittenValues(cipher=DataKeyFieldCipher(keyring), preserver=Ff1Preserver(keyring.identity_key)),
            ),
            export=ExportUseCase(
                subjects=subjects,
                vault=vault,
                sealer=keyring,
                search=stored.search,
                parts=parts,
                trail=trail,
                rates=rates,
                clock=clock,
                instance_id="i-1",
            ),
            erase=EraseUseCase(
                subjects=subjects,
                vault=vault,
                sealer=keyring,
                runner=runner,
                trail=trail,
                rates=rates,
                count_records=stored.count,
            ),
            certificate=CertificateUseCase(runner=runner, signer=keyring, instance_id="i-1"),
            delete=DeleteUseCase(planner=stored, runner=runner, trail=trail),
            keys=KeysUseCase(
                keys=keyring,
                signer=keyring,
                vault=vault,
                classes=CLASSES,
                runner=runner,
                trail=trail,
                check_next_kek=no_next_kek,
            ),
            audit=AuditUseCase(audit, clock),
            runner=runner,
            trail=trail,
        )
        server.add(
            "heimdall.privacy.v1.PrivacyService",
            privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server,
            PrivacyServicer(use_cases, server.drain_signal),
            audits_itself=AUDITS_ITSELF,
        )
        server.add(
            "heimdall.admin.v1.AdminService",
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
            cast("Any", _Admin)(),
        )
        await server.start()
        stack.push_async_callback(server.stop)
        yield made
