"""Revealing what a policy encrypted where it stands, or turned into a value of the same form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from heimdall_client import errors, status
from heimdall_client.client import AsyncClient
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.storage.postgres.vault import PostgresVault
from tests.support.pki import Pki
from tests.support.privacy_server import PrivacyServer, serving_privacy
from tests.support.sdk_server import client_config

pytestmark = pytest.mark.usefixtures("postgres_clean")
ALICE, NUMBER = "Alice@Example.com", "4915112345678"


@pytest.fixture
async def served(pki: Pki, tmp_path: Path, postgres_pool: PostgresPool) -> AsyncIterator[PrivacyServer]:
    async with serving_privacy(pki, tmp_path, PostgresVault(postgres_pool)) as server:
        await server.keyring.add_classes([key_class("email")])
        yield server


@asynccontextmanager
async def client(pki: Pki, served: PrivacyServer, name: str = "officer") -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client_config(pki, name, address=served.address), timeout_s=5) as connected:
        yield connected


def encrypted(served: PrivacyServer, *fields: str) -> list[str]:
    texts = DataKeyFieldCipher(served.keyring).encrypt("email", [ALICE] * len(fields), fields, range(len(fields)))
    return [f"[enc:email:{text}]" for text in texts]


async def test_an_encrypted_value_is_revealed_in_its_field_and_audited(pki: Pki, served: PrivacyServer) -> None:
    of_user, of_body, of_key, of_letter = encrypted(served, "attributes.user", "body", "attributes", "dead_letter")
    changed = of_body[:-3] + ("A" if of_body[-3] != "A" else "B") + of_body[-2:]
    written = [
        {"text": of_user, "field": "attributes.user"},
        {"text": of_body},
        {"text": of_key, "field": "attributes.bob"},
        {"text": of_letter, "field": "body"},
        {"text": of_user, "field": "attributes.other"},
        {"text": of_user},
        {"text": changed},
        {"text": of_body.replace(":email:", ":phone:")},
    ]
    async with client(pki, served) as officer:
        answers = await officer.reveal([], reason="ticket 4711", written=written)
    assert [one.value for one in answers] == [ALICE] * 4 + [""] * 4
    for one in answers[4:]:
        assert isinstance(status.from_status(one.error), errors.IntegrityFailedError)
        assert "alice" not in str(one).lower()
    (entry,) = [entry async for entry in served.audit.read(action="privacy.reveal")]
    assert (entry.act.details["written_count"], entry.act.details["revealed_count"]) == ("8", "4")
    assert entry.act.details["classes"] == "email"
    assert ALICE not in str(entry)


async def test_a_value_that_kept_its_form_is_revealed_by_its_class(pki: Pki, served: PrivacyServer) -> None:
    (other,) = Ff1Preserver(served.keyring.identity_key).encrypt("phone", [NUMBER])
    assert other is not None
    async with client(pki, served) as officer:
        answers = await officer.reveal(
            [],
            reason="ticket",
            written=[{"text": other, "data_class": "phone"}, {"text": other}, {"text": "x", "data_class": "phone"}],
        )
    assert answers[0].value == NUMBER
    for one in answers[1:]:
        assert isinstance(status.from_status(one.error), errors.InvalidArgumentError)


async def test_what_was_encrypted_is_gone_with_its_generation_and_what_came_later_stays(
    pki: Pki, served: PrivacyServer
) -> None:
    (before,) = encrypted(served, "body")
    await served.keyring.new_generation(key_class("email"))
    (after,) = encrypted(served, "body")
    async with client(pki, served) as officer:
        asked = [{"text": before}, {"text": after}]
        assert [one.value for one in await officer.reveal([], reason="ticket", written=asked)] == [ALICE, ALICE]
        await served.keyring.destroy_generation(key_class("email"), 1)
        gone, left = await officer.reveal([], reason="ticket", written=asked)
    assert left.value == ALICE
    assert status.from_status(gone.error).reason == "VALUE_ERASED"


async def test_nothing_and_too_much_at_once_are_refused_and_so_is_who_may_not(pki: Pki, served: PrivacyServer) -> None:
    (text,) = encrypted(served, "body")
    async with client(pki, served) as officer:
        assert await officer.reveal([], reason="ticket") == []
        token = f"[email:0{'a' * 26}]"
        many = await officer.reveal([token] * 950, reason="ticket", written=[{"text": text}] * 150)
        assert len(many) == 1_100
        assert many[-1].value == ALICE
    async with client(pki, served, "analyst") as analyst:
        with pytest.raises(errors.PermissionDeniedError):
            await analyst.reveal([], reason="curious", written=[{"text": text}])
