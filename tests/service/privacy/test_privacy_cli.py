"""The command's groups on personal data, against a real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from heimdall_client.cli.exits import ExitCode
from heimdall_client.cli.privacy_reveal import in_row
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import TokenName
from heimdall_server.services.privacy.logic.held import Lines, Missing, Part
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support import cli
from tests.support.pki import Pki
from tests.support.privacy_server import PrivacyServer, serving_privacy
from tests.support.sdk_server import client_config

pytestmark = pytest.mark.usefixtures("postgres_clean")
ALICE, BOB = "alice@example.com", "bob@example.com"
Run = Callable[..., Coroutine[Any, Any, cli.Outcome]]


@pytest.fixture
async def served(pki: Pki, tmp_path: Path, postgres_pool: PostgresPool) -> AsyncIterator[PrivacyServer]:
    async def graph(names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        del time_range
        for name in names[:1]:
            yield {"kind": "graph_entity", "entity_id": str(name)}
        if any(name.data_class == "phone" for name in names):
            yield Missing("the graph is behind")

    async with serving_privacy(pki, tmp_path, PostgresVault(postgres_pool), parts=(Part("graph", graph),)) as server:
        yield server


@pytest.fixture
def run(pki: Pki, served: PrivacyServer) -> Run:
    """Run a command as the privacy officer, beside the server."""
    config = client_config(pki, "officer", address=served.address)
    assert config.cert_file is not None
    link = ["--address", served.address, "--ca-file", str(config.ca_file), "--cert-file", str(config.cert_file)]
    link += ["--key-file", str(config.key_file)]

    async def run(*arguments: str | Path, stdin: bytes = b"") -> cli.Outcome:
        return await asyncio.to_thread(cli.invoke, *link, *arguments, stdin=stdin)

    return run


async def test_tokens_are_revealed_from_arguments_and_from_text(run: Run, served: PrivacyServer) -> None:
    alice, bob = await served.keep("email", ALICE, BOB)
    named = await run("privacy", "reveal", alice, "--reason", "ticket 4711")
    assert (named.code, named.lines()[1].split()) == (ExitCode.OK, [alice, ALICE])
    text = f"12:00 login of {alice}, then {bob} and {alice}".encode()
    piped = await run("privacy", "reveal", "-", "--reason", "ticket 4711", "-o", "json", stdin=text)
    assert [(row["token"], row["value"]) for row in piped.rows()] == [(alice, ALICE), (bob, BOB)]
    unknown = await run("privacy", "reveal", f"[email:0{'a' * 26}]", "--reason", "ticket 4711")
    assert unknown.code == ExitCode.INCOMPLETE
    assert "no token named" in unknown.err
    assert (await run("privacy", "reveal", alice)).code == ExitCode.USAGE
    assert (await run("privacy", "reveal", "--reason", "ticket")).code == ExitCode.USAGE
    both = await run("privacy", "reveal", f"[email:0{'a' * 26}]", "--from-query", "x", "--reason", "ticket")
    assert both.code == ExitCode.USAGE
    assert "not both" in both.err


async def test_what_was_encrypted_or_kept_its_form_is_revealed_from_arguments_and_from_text(
    run: Run, served: PrivacyServer
) -> None:
    await served.keyring.add_classes([key_class("email")])
    cipher = DataKeyFieldCipher(served.keyring)
    encrypted = [f"[enc:email:{cipher.encrypt('email', [ALICE], [name], [0])[0]}]" for name in ("body", "attributes.x")]
    (token,) = await served.keep("email", BOB)
    text = f"login of {encrypted[0]} and {token}".encode()
    piped = await run("privacy", "reveal", "-", "--reason", "ticket 4711", "-o", "json", stdin=text)
    assert [(row["token"], row["value"]) for row in piped.rows()] == [(token, BOB), (encrypted[0], ALICE)]
    named = await run("privacy", "reveal", encrypted[1], "--field", "attributes.x", "--reason", "ticket 4711")
    assert (named.code, named.lines()[1].split()[-1]) == (ExitCode.OK, ALICE)
    elsewhere = await run("privacy", "reveal", encrypted[1], "--reason", "ticket 4711")
    assert elsewhere.code == ExitCode.INCOMPLETE
    assert "name the field in which it stands in its record, as in --field attributes.user" in elsewhere.err
    wrong = await run("privacy", "reveal", encrypted[1], "--field", "attributes.y", "--reason", "ticket 4711")
    assert wrong.code == ExitCode.INCOMPLETE
    assert "see whether the right one is named" in wrong.err
    (number,) = Ff1Preserver(served.keyring.identity_key).encrypt("phone", ["4915112345678"])
    assert number is not None
    kept = await run("privacy", "reveal", number, "--class", "phone", "--reason", "ticket 4711", "-o", "json")
    assert kept.json()["value"] == "4915112345678"
    listed = await run("privacy", "reveal", "-", "--class", "phone", "--reason", "ticket", stdin=number.encode())
    assert listed.lines()[1].split() == [number, "4915112345678"]


async def test_help_shows_an_encrypted_value_as_it_is_written(run: Run) -> None:
    assert "'[enc:email:AgAA…]' --field" in (await run("privacy", "reveal", "--help")).out


def test_encrypted_values_of_a_record_are_found_with_their_fields() -> None:
    token, first, second = f"[email:0{'a' * 26}]", "[enc:email:AgAA_-]", "[enc:card:AgAB]"
    row = {"body": f"{token} {first}", "attributes": {"user": second, first: 1.5}, "severity": 9, "tokens": ""}
    assert list(in_row(row)) == [
        (token, "", ""),
        (first, "body", ""),
        (second, "attributes.user", ""),
        (first, "attributes", ""),
    ]


async def test_an_erasure_is_shown_first_and_its_certificate_can_be_checked(
    run: Run, served: PrivacyServer, tmp_path: Path
) -> None:
    await served.keep("email", ALICE, BOB)
    given = ("privacy", "erase", "--subject", "-", "--reason", "art. 17 request")
    stdin = f"email:{ALICE}\n".encode()
    dry = await run(*given, "--dry-run", "-o", "json", stdin=stdin)
    assert (dry.json()["vault_value_count"], dry.json()["survivor_count"]) == (1, 1)
    asked = await run(*given, stdin=stdin)
    assert asked.code == ExitCode.USAGE
    assert "--yes" in asked.err
    done = await run(*given, "--yes", "-o", "json", stdin=stdin)
    assert done.code == ExitCode.OK, done.err
    assert "1 value in the vault" in done.err
    assert done.json()["inaccessible_time"]
    assert ALICE not in done.out + done.err
    operation_id = done.json()["operation_id"]
    certificate = tmp_path / "certificate.json"
    certificate.write_text((await run("privacy", "certificate", operation_id)).out)
    key = (await run("keys", "list", "-o", "json")).json()["signing_public_key"]
    checked = await run("privacy", "certificate", "--verify", certificate, "--public-key", key)
    assert (checked.code, checked.json()["operation_id"]) == (ExitCode.OK, operation_id)
    certificate.write_text(certificate.read_text().replace("art. 17", "art. 18"))
    forged = await run("privacy", "certificate", "--verify", certificate, "--public-key", key)
    assert forged.code == ExitCode.FAILED
    without = await run("privacy", "certificate", "--verify", certificate)
    assert without.code == ExitCode.USAGE
    assert "heimdall keys list" in without.err
    nonsense = await run("privacy", "certificate", "--verify", certificate, "--public-key", "zz")
    assert nonsense.code == ExitCode.USAGE
    assert "isn't a public key" in nonsense.err
    listed = await run("privacy", "operations", "list")
    assert operation_id in listed.out
    assert (await run("privacy", "operations", "show", operation_id, "-o", "json")).json()["state"] == "done"
    assert (await run("privacy", "operations", "watch", operation_id)).code == ExitCode.OK
    stopped = await run("privacy", "operations", "cancel", operation_id)
    assert stopped.code == ExitCode.FAILED
    assert "has ended" in stopped.err


async def test_a_subject_that_is_not_one_is_refused_without_repeating_it(run: Run) -> None:
    outcome = await run("privacy", "erase", "--subject", ALICE, "--reason", "art. 17", "--dry-run")
    assert outcome.code == ExitCode.USAGE
    assert "class:value" in outcome.err
    assert "alice@" not in outcome.err.replace("email:alice@example.com", "")


async def test_what_no_value_can_be_is_neither_erased_nor_exported(run: Run) -> None:
    for command in ("erase", "export"):
        outcome = await run("privacy", command, "--subject", "email:polly,molly", "--reason", "art. 17")
        assert outcome.code == ExitCode.USAGE
        assert "around an @; and the vault holds no such value" in " ".join(outcome.err.split())
        assert "molly" not in outcome.err


async def test_an_export_is_ndjson(run: Run, served: PrivacyServer) -> None:
    (alice,) = await served.keep("email", ALICE)
    served.stored.rows.append(json.dumps({"source": "s", "body": f"login {alice}"}))
    outcome = await run("privacy", "export", "--subject", f"email:{ALICE}", "--reason", "art. 15", "--reveal")
    kinds = ["heimdall.subject_export", "vault", "record", "graph_entity", "end"]
    assert [row["kind"] for row in outcome.rows()] == kinds
    assert outcome.rows()[2]["record"]["body"] == f"login {ALICE}"
    assert outcome.code == ExitCode.OK


async def test_an_export_of_which_a_part_is_missing_says_so(run: Run) -> None:
    outcome = await run("privacy", "export", "--subject", "phone:+4930123456", "--reason", "art. 15")
    assert (outcome.code, outcome.rows()[-1]["missing"]) == (ExitCode.INCOMPLETE, ["graph"])
    assert "not whole: graph" in outcome.err


async def test_a_policy_is_shown_tried_and_set(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\naction = "keep"\nclass = "ip*"\n\n[[rules]]\naction = "mask"\n')
    sample = tmp_path / "app.log"
    sample.write_text("a b c")
    tried = await run("privacy", "policy", "test", file, "--sample", sample)
    assert tried.lines()[1].split() == ["email", "body", "mask", "1", "1"]
    done = await run("privacy", "policy", "set", file, "--reason", "hosts are personal")
    assert done.out == "policy version 2 is in force\n"
    shown = await run("privacy", "policy", "show", "-o", "json")
    assert [rule["data_class"] for rule in shown.json()["policy"]["rules"]] == ["ip*", "*"]
    versions = await run("privacy", "policy", "show", "--versions")
    assert len(versions.lines()) == 3
    piped = await run("privacy", "policy", "set", "-", "--reason", "all of it", stdin=b'[[rules]]\naction = "mask"\n')
    assert piped.out == "policy version 3 is in force\n"
    twice = await run("privacy", "policy", "test", "-", "--sample", "-", stdin=b"x")
    assert twice.code == ExitCode.USAGE
    file.write_text('fallback = "keep"\n[[rules]]\nactoin = "keep"\nclass = 3\n')
    wrong = await run("privacy", "policy", "set", file, "--reason", "hosts are personal")
    assert wrong.code == ExitCode.USAGE
    assert all(problem in wrong.err for problem in ("'fallback'", "'actoin'", "class must be", "has no action"))


async def test_records_are_counted_before_they_are_deleted(run: Run, served: PrivacyServer) -> None:
    served.stored.rows += ['{"body":"leak"}', '{"body":"fine"}']
    dry = await run("delete", "leak", "--reason", "a leaked key", "--dry-run")
    assert dry.out == "1 record would be deleted\n"
    assert len(served.stored.rows) == 2
    asked = await run("delete", "leak", "--reason", "a leaked key")
    assert asked.code == ExitCode.USAGE
    done = await run("delete", "-", "--reason", "a leaked key", "--yes", "-o", "json", stdin=b"leak\n")
    assert (done.code, done.json()["affected_count"]) == (ExitCode.OK, 1)
    listed = await run("privacy", "operations", "list", "-o", "json")
    assert [row["query"] for row in listed.rows()] == ["…"]
    assert served.stored.rows == ['{"body":"fine"}']


async def test_keys_are_listed_and_rotated(run: Run) -> None:
    listed = await run("keys", "list")
    assert {line.split()[0] for line in listed.lines()[1:]} >= {"data", "index", "identity", "signing"}
    done = await run("keys", "rotate", "index", "--reason", "yearly", "-o", "json")
    assert (done.code, done.json()["kind"]) == (ExitCode.OK, "rotate_index")
    assert "rotate_index" in (await run("keys", "status")).out
    resealed = await run("keys", "rotate", "dek", "--reason", "yearly")
    assert resealed.code == ExitCode.OK
    assert "sealed anew; waiting for the journal" in resealed.err
    assert "follow it: heimdall privacy operations watch rotate-dek-" in resealed.err
    assert (await run("keys", "rotate", "index", "--reason", "no")).code == ExitCode.USAGE
    assert (await run("keys", "rotate", "index")).code == ExitCode.USAGE
    refused = await run("keys", "rotate", "kek", "--reason", "yearly")
    assert refused.code == ExitCode.FAILED


async def test_the_audit_log_is_listed_and_walked(run: Run) -> None:
    await run("privacy", "reveal", f"[email:0{'a' * 26}]", "--reason", "alice asked")
    listed = await run("audit", "list", "--action", "privacy.")
    assert "[name] asked" in listed.out
    assert (await run("audit", "list", "-o", "json")).rows()[0]["outcome"] == "allowed"
    walked = await run("audit", "verify")
    assert walked.lines()[0] == "the chain of 1 entry holds"
