"""The privacy service over mTLS: what is revealed, refused, erased, and what the audit log says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import REGISTRY

from heimdall_client import errors, status
from heimdall_client.client import AsyncClient
from heimdall_client.privacy_calls import SubjectLike
from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import runs_of
from heimdall_server.ports.audit import AuditEntry
from heimdall_server.services.privacy.logic.held import Lines, Missing, Part
from heimdall_server.services.privacy.logic.limits import PrivacyLimits
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.pki import Pki
from tests.support.privacy_server import PrivacyServer, serving_privacy
from tests.support.sdk_server import client_config

pytestmark = pytest.mark.usefixtures("postgres_clean")
ALICE, BOB = "alice@example.com", "bob@example.com"
SUBJECT: SubjectLike = [("email", "Alice@Example.com")]


@pytest.fixture
async def served(pki: Pki, tmp_path: Path, postgres_pool: PostgresPool) -> AsyncIterator[PrivacyServer]:
    async with serving_privacy(pki, tmp_path, PostgresVault(postgres_pool)) as server:
        yield server


@asynccontextmanager
async def client(pki: Pki, served: PrivacyServer, name: str = "officer") -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client_config(pki, name, address=served.address), timeout_s=5) as connected:
        yield connected


async def acts(served: PrivacyServer, action: str = "") -> list[AuditEntry]:
    return [entry async for entry in served.audit.read(action=action)]


async def test_each_token_is_answered_by_itself_and_the_act_is_written_without_a_value(
    pki: Pki, served: PrivacyServer
) -> None:
    alice, bob = await served.keep("email", ALICE, BOB)
    unknown = f"[email:0{'a' * 26}]"
    async with client(pki, served) as officer:
        answers = await officer.reveal([alice, bob.strip("[]"), unknown, ALICE], reason="alice asked, ticket 4711")
    assert [one.value for one in answers] == [ALICE, BOB, "", ""]
    assert isinstance(status.from_status(answers[2].error), errors.NotFoundError)
    assert isinstance(status.from_status(answers[3].error), errors.InvalidArgumentError)
    assert ALICE not in answers[3].error.message
    (entry,) = await acts(served)
    assert (entry.act.action, entry.act.outcome, entry.act.reason) == (
        "privacy.reveal",
        "allowed",
        "[name] asked, ticket 4711",
    )
    assert entry.act.details["revealed_count"] == "2"
    assert set(entry.act.details["tokens"].split()) == {alice, bob, unknown}
    assert ALICE not in str(entry)
    assert entry.act.request_id


async def test_a_changed_value_and_one_that_is_not_there_yet_are_told_apart(pki: Pki, served: PrivacyServer) -> None:
    (alice,) = await served.keep("email", ALICE)
    sealed = (await served.vault.get([_name(alice)]))[_name(alice)]
    other = served.keyring.words("email", [BOB])[0]
    # Bob's token over Alice's sealed bytes.
    await served.vault.apply(
        runs_of([SealedValue(TokenName("email", other), sealed.generation, sealed.sealed)]),
        [9],
        journal_id="0" * 32,
        through=9,
    )
    served.behind = True
    async with client(pki, served) as officer:
        swapped, missing = await officer.reveal([f"[email:{other}]", f"[email:0{'b' * 26}]"], reason="ticket")
    assert isinstance(status.from_status(swapped.error), errors.IntegrityFailedError)
    assert isinstance(status.from_status(missing.error), errors.StoreFailedError)


async def test_the_rate_of_a_caller_is_bounded(pki: Pki, tmp_path: Path, postgres_pool: PostgresPool) -> None:
    limits = PrivacyLimits(values_per_minute=1, values_burst=1000)
    async with (
        serving_privacy(pki, tmp_path, PostgresVault(postgres_pool), limits=limits) as served,
        client(pki, served) as officer,
    ):
        tokens = [f"[email:0{'a' * 26}]"] * 600
        await officer.reveal(tokens, reason="ticket")
        with pytest.raises(errors.BudgetExceededError) as caught:
            await officer.reveal(tokens, reason="ticket")
        assert caught.value.retry_after_s
        assert [entry.act.outcome for entry in await acts(served)] == ["allowed", "failed"]


async def test_who_may_not_is_refused_and_written_down(pki: Pki, served: PrivacyServer) -> None:
    (alice,) = await served.keep("email", ALICE)
    async with client(pki, served, "analyst") as analyst:
        with pytest.raises(errors.PermissionDeniedError):
            await analyst.reveal([alice], reason="curious")
        with pytest.raises(errors.PermissionDeniedError):
            await analyst.verify_audit_log()
        for _ in range(70):
            with pytest.raises(errors.PermissionDeniedError):
                await analyst.rotate_key("index", reason="why not")
    written = await acts(served)
    assert {entry.act.outcome for entry in written} == {"denied"}
    assert written[0].act.action == "privacy.reveal"
    # Many refusals of one caller don't fill the disk.
    assert len(written) == 60


async def test_an_audited_method_of_another_service_is_written_by_the_interceptor(
    pki: Pki, served: PrivacyServer
) -> None:
    async with client(pki, served, "admin") as admin:
        await admin.config()
    (entry,) = await acts(served)
    assert (entry.act.action, entry.act.outcome) == ("admin.config.read", "allowed")
    assert entry.act.details["method"] == "heimdall.admin.v1.AdminService/GetConfig"


async def test_an_erasure_is_counted_done_and_certified(pki: Pki, served: PrivacyServer) -> None:
    erased_before = REGISTRY.get_sample_value("heimdall_privacy_erased_values_total") or 0.0
    alice, bob = await served.keep("email", ALICE, BOB)
    served.stored.rows += [json.dumps({"body": f"login {alice}"}), json.dumps({"body": f"login {bob}"})]
    async with client(pki, served) as officer:
        planned = await officer.erase(SUBJECT, reason="art. 17", dry_run=True)
        assert not planned.HasField("operation")
        assert (planned.scope.vault_value_count, planned.scope.record_count, planned.scope.survivor_count) == (1, 1, 1)
        assert list(planned.scope.tokens) == [alice]
        begun = (await officer.erase(SUBJECT, reason="art. 17, alice", request_id="r-1")).operation
        again = (await officer.erase(SUBJECT, reason="art. 17, alice", request_id="r-1")).operation
        assert again.operation_id == begun.operation_id
        seen = [one async for one in officer.watch_operation(begun.operation_id)]
        assert seen[-1].state == seen[-1].STATE_DONE
        assert (seen[-1].reason, seen[-1].affected_count) == ("art. 17, [name]", 3)
        erased, kept = await officer.reveal([alice, bob], reason="look again")
        assert isinstance(status.from_status(erased.error), errors.ValueErasedError)
        assert kept.value == BOB
        signed = await officer.erasure_certificate(begun.operation_id)
        keys = await officer.keys()
        with pytest.raises(errors.OperationStateError):
            await officer.cancel_operation(begun.operation_id)
        with pytest.raises(errors.NotFoundError):
            await officer.operation("erase-none")
        assert [one.operation_id for one in await officer.operations()] == [begun.operation_id]
    assert signed.public_key == keys.signing_public_key
    Ed25519PublicKey.from_public_bytes(signed.public_key).verify(signed.signature, signed.certificate)
    said = json.loads(signed.certificate)
    assert (said["tokens"], said["erased_value_count"], said["shredded_time"]) == ([alice], 1, None)
    assert REGISTRY.get_sample_value("heimdall_privacy_erased_values_total") == erased_before + 1
    assert said["keys_destroyed"][0]["destroyed_time"] == "2001-09-09T01:46:40Z"
    assert signed.certificate == json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def test_a_subject_of_no_class_is_refused_with_every_problem(pki: Pki, served: PrivacyServer) -> None:
    async with client(pki, served) as officer:
        with pytest.raises(errors.InvalidArgumentError) as caught:
            await officer.erase([("nonsense", "x"), ("phone", f"[email:0{'a' * 26}]")], reason="art. 17", dry_run=True)
    assert {one.field for one in caught.value.field_violations} == {"subject[0].data_class", "subject[1].value"}


async def test_an_export_holds_what_is_held_and_reveals_only_the_subjects_own_tokens(
    pki: Pki, served: PrivacyServer
) -> None:
    alice, bob = await served.keep("email", ALICE, BOB)
    served.stored.rows += [json.dumps({"source": "s", "body": f"{alice} wrote to {bob}"}), json.dumps({"body": bob})]
    async with client(pki, served) as officer:
        plain = b"".join([piece async for piece in officer.export_subject(SUBJECT, reason="art. 15")])
        shown = b"".join(
            [piece async for piece in officer.export_subject([("email", alice)], reason="x y", reveal=True)]
        )
    assert ALICE.encode() not in plain
    lines = [json.loads(line) for line in shown.splitlines()]
    assert [line["kind"] for line in lines] == ["heimdall.subject_export", "vault", "record", "end"]
    assert lines[1]["value"] == ALICE
    assert lines[2]["record"]["body"] == f"{ALICE} wrote to {bob}"
    assert lines[3]["record_count"] == 1
    assert BOB.encode() not in shown


async def test_an_export_tells_further_parts_and_says_what_of_them_it_cannot_give(
    pki: Pki, tmp_path: Path, postgres_pool: PostgresPool
) -> None:
    async def given(names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        del time_range
        yield {"kind": "dead_letter", "dead_letter": {"text": f"of {names[0]}"}}
        yield Missing("older ones aren't here")

    async def failing(names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        del names, time_range
        yield {"kind": "graph_entity"}
        raise StoreError("postgres", "secret detail")

    parts = (Part("dead_letter", given), Part("graph", failing))
    async with (
        serving_privacy(pki, tmp_path, PostgresVault(postgres_pool), parts=parts) as served,
        client(pki, served) as officer,
    ):
        await served.keep("email", ALICE)
        pieces = [piece async for piece in officer.export_subject(SUBJECT, reason="art. 15", reveal=True)]
    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert lines[2]["dead_letter"]["text"] == f"of {ALICE}"
    assert [(line["kind"], line.get("part")) for line in lines[3:-1]] == [
        ("missing", "dead_letter"),
        ("graph_entity", None),
        ("missing", "graph"),
    ]
    assert "secret" not in lines[5]["reason"]
    assert lines[-1] == {
        "kind": "end",
        "record_count": 0,
        "dead_letter_line_count": 1,
        "graph_line_count": 1,
        "missing": ["dead_letter", "graph"],
    }


async def test_records_are_counted_then_deleted(pki: Pki, served: PrivacyServer, tmp_path: Path) -> None:
    served.stored.rows += ['{"body":"Zebra77"}', '{"body":"fine"}']
    async with client(pki, served) as officer:
        assert (await officer.delete_records("Zebra77", reason="leaked", dry_run=True)).record_count == 1
        begun = (await officer.delete_records("Zebra77", reason="leaked")).operation
        last = [one async for one in officer.watch_operation(begun.operation_id)][-1]
        with pytest.raises(errors.QueryInvalidError):
            await officer.delete_records("a | limit 1", reason="leaked")
    assert (last.affected_count, last.query) == (1, "…")
    assert served.stored.rows == ['{"body":"fine"}']
    entries = await acts(served, "privacy.delete")
    assert [entry.act.outcome for entry in entries] == ["allowed", "allowed", "failed"]
    # The filter names what was to go: it is neither in the audit log nor, in plain, in the ledger.
    assert [entry.act.details.get("query") for entry in entries] == ["…", "…", None]
    assert entries[0].act.details["query_digest"] == entries[1].act.details["query_digest"]
    written = await asyncio.to_thread(_chains, tmp_path)
    assert b"privacy.delete" in written
    assert b"sealed_query" in written
    assert b"Zebra77" not in written


async def test_policies_are_tried_set_and_listed(pki: Pki, served: PrivacyServer) -> None:
    async with client(pki, served) as officer:
        before = await officer.privacy_policy()
        assert (before.policy.version, before.policy.rules[0].data_class) == (1, "phone")
        tried = await officer.test_privacy_policy(b"alice@example.com", [{"action": "mask"}])
        assert tried.findings[0].data_class == "email"
        with pytest.raises(errors.InvalidArgumentError) as caught:
            await officer.set_privacy_policy([{"action": "x"}, {"action": "y"}], reason="because")
        assert [one.field for one in caught.value.field_violations] == ["rules[0].action", "rules[1].action"]
        policy = await officer.set_privacy_policy([{"action": "mask"}], reason="because", etag=before.policy.etag)
        assert policy.version == 2
        with pytest.raises(errors.EtagMismatchError):
            await officer.set_privacy_policy([{"action": "keep"}], reason="because", etag=before.policy.etag)
        assert [one.version for one in await officer.privacy_policy_versions()] == [2, 1]


async def test_keys_are_listed_without_secrets_and_a_kek_that_is_not_there_is_refused(
    pki: Pki, served: PrivacyServer
) -> None:
    await served.keep("email", ALICE, BOB)
    async with client(pki, served) as officer:
        keys = (await officer.keys()).keys
        data = {key.data_class: key.value_count for key in keys if key.kind == "data"}
        assert data == {"email": 2, "phone": 0}
        with pytest.raises(errors.MisconfiguredError):
            await officer.rotate_key("kek", reason="yearly")
        with pytest.raises(errors.InvalidArgumentError):
            await officer.rotate_key("dek", data_classes=["nonsense"], reason="yearly")


async def test_a_waiting_rotation_is_cancelled_at_once(pki: Pki, served: PrivacyServer) -> None:
    async with client(pki, served) as officer:
        begun = await officer.rotate_key("dek", data_classes=["email"], reason="yearly")
        assert [one.operation_id for one in await officer.operations(running_only=True)] == [begun.operation_id]
        await officer.cancel_operation(begun.operation_id)
        last = [one async for one in officer.watch_operation(begun.operation_id)][-1]
        assert last.state == last.STATE_CANCELLED
        assert await officer.operations(running_only=True) == []
        with pytest.raises(errors.NotFoundError):
            await officer.erasure_certificate(begun.operation_id)
    assert [entry.act.outcome for entry in await acts(served, "privacy.operations.cancel")] == ["allowed"]


async def test_who_watches_is_sent_away_when_the_server_drains(pki: Pki, served: PrivacyServer) -> None:
    async with client(pki, served) as officer:
        begun = await officer.rotate_key("dek", reason="yearly")
        watching = officer.watch_operation(begun.operation_id, give_up_after_s=0)
        await anext(watching)
        drained = asyncio.create_task(served.server.drain(5))
        with pytest.raises(errors.DrainingError):
            async for _ in watching:
                pass
        assert await drained


async def test_the_audit_log_is_read_in_pages_and_walked(pki: Pki, served: PrivacyServer, tmp_path: Path) -> None:
    async with client(pki, served) as officer:
        for number in range(130):
            await officer.reveal([f"[email:0{'a' * 26}]"], reason=f"ticket {number}")
        found = [entry async for entry in officer.audit_entries(action="privacy.reveal", limit=0)]
        assert [entry.sequence for entry in found] == list(range(1, 131))
        assert len([entry async for entry in officer.audit_entries(limit=7)]) == 7
        verified = await officer.verify_audit_log()
        assert (verified.entry_count, verified.last_digest) == (130, found[-1].digest)
        (path,) = (tmp_path / "audit").glob("*.chain")
        path.write_bytes(path.read_bytes().replace(b"ticket 77", b"ticket 78"))
        with pytest.raises(errors.CorruptionError, match="audit, entry 78"):
            await officer.verify_audit_log()


def _chains(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*.chain"))


def _name(token: str) -> TokenName:
    name = TokenName.parse(token)
    assert name is not None
    return name
