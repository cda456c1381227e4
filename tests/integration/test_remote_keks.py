"""Key-encryption keys that live in a service: AWS KMS (moto's server) and Vault's transit engine (its API, with real AES-GCM)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from heimdall_server.crypto.key_encryption.aws_kms import AwsKmsKeyEncryption
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, open_keyring, rotate_kek
from heimdall_server.crypto.key_encryption.vault_transit import VaultTransitKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import KeyMismatchError, StoreError
from heimdall_server.ports.keys import KeyEncryption
from tests.support.remote_keks import TOKEN, Transit, kms_config, kms_server, transit_server


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[tuple[KekConfig, type[Transit]]]:
    with transit_server(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def kms() -> Iterator[tuple[str, str]]:
    with kms_server() as found:
        yield found


async def holds(kek: KeyEncryption, folder: Path) -> None:
    """What both promise: a keyring opens again, and a wrap belongs to its context."""
    ring = await Keyring.load(folder / "keyring", kek, classes=("email",))
    (word,) = ring.words("email", ["a@example.com"])
    (one,) = ring.seal("email", [word], ["a@example.com"])
    again = await Keyring.load(folder / "keyring", kek, classes=("email",))
    assert again.open(one) == "a@example.com"
    wrapped = await kek.wrap(b"p" * 32, context=b"one")
    assert await kek.unwrap(wrapped, context=b"one") == b"p" * 32
    assert b"p" * 16 not in wrapped
    with pytest.raises(KeyMismatchError):
        await kek.unwrap(wrapped, context=b"another")


async def test_a_keyring_lives_under_vaults_transit_engine(
    tmp_path: Path, transit: tuple[KekConfig, type[Transit]]
) -> None:
    config, vault = transit
    kek = VaultTransitKeyEncryption(config)
    try:
        await holds(kek, tmp_path)
        old = await kek.wrap(b"p" * 32, context=b"c")
        vault.keys.append(os.urandom(32))
        assert (await kek.wrap(b"p" * 32, context=b"c")).startswith(b"vault:v2:")
        assert await kek.unwrap(old, context=b"c") == b"p" * 32
        vault.failures = 2
        assert await kek.unwrap(old, context=b"c") == b"p" * 32, "a sealed Vault is waited for"
    finally:
        await kek.close()


async def test_a_wrong_token_and_a_vault_that_is_away_are_told_without_secrets(
    tmp_path: Path, transit: tuple[KekConfig, type[Transit]]
) -> None:
    config, _ = transit
    wrong = tmp_path / "wrong"
    wrong.write_text("s.wrong")
    away = replace(config, vault_address="http://127.0.0.1:1", deadline_s=0.5)
    for problem, settings in (("permission denied", replace(config, vault_token_file=wrong)), ("vault transit", away)):
        kek = VaultTransitKeyEncryption(settings)
        with pytest.raises(StoreError, match=problem) as told:
            await kek.wrap(b"p" * 32, context=b"c")
        await kek.close()
        assert "s.wrong" not in str(told.value)
        assert TOKEN not in str(told.value)


async def test_a_service_that_is_too_slow_for_a_whole_ring_ends_the_start_with_a_sentence(
    tmp_path: Path, transit: tuple[KekConfig, type[Transit]]
) -> None:
    config, vault = transit
    vault.wait_s = 0.3
    places = KeyPlaces(tmp_path / "keys" / "keyring", tmp_path / "keys" / "root.key", tmp_path / "marker", None)
    classes = [f"class{number}" for number in range(20)]
    with pytest.raises(StoreError, match=r"vault-transit:transit/heimdall.* didn't open the keyring within 0\.2 s"):
        await open_keyring(replace(config, open_s=0.2), places, classes=classes)
    vault.wait_s = 0.0
    opened = await open_keyring(config, places, classes=classes)
    assert len(opened.keyring.list()) > 20
    await opened.close()


async def test_a_ring_goes_from_a_file_to_kms_to_vault_and_back_to_a_file(
    tmp_path: Path, transit: tuple[KekConfig, type[Transit]], kms: tuple[str, str]
) -> None:
    places = KeyPlaces(tmp_path / "keys" / "keyring", tmp_path / "keys" / "root.key", tmp_path / "marker", None)
    config = KekConfig()
    opened = await open_keyring(config, places, classes=("email",))
    (word,) = opened.keyring.words("email", ["a@example.com"])
    (one,) = opened.keyring.seal("email", [word], ["a@example.com"])
    for next_config in (kms_config(kms), transit[0], KekConfig("file", file=tmp_path / "keys" / "other.key")):
        opened = await rotate_kek(opened, places, next_config)
        assert opened.config == next_config
        await opened.close()
        for settings in ({"config": config, "next_config": next_config}, {"config": next_config}):
            again = await open_keyring(places=places, classes=("email",), **settings)
            assert again.config == next_config
            assert again.keyring.open(one) == "a@example.com"
            await again.close()
        with pytest.raises(KeyMismatchError):
            await open_keyring(config, places, classes=("email",))
        opened, config = await open_keyring(next_config, places, classes=("email",)), next_config
    await opened.close()


async def test_a_keyring_lives_under_aws_kms(tmp_path: Path, kms: tuple[str, str]) -> None:
    kek = AwsKmsKeyEncryption(kms_config(kms))
    try:
        await holds(kek, tmp_path)
    finally:
        await kek.close()
    missing = AwsKmsKeyEncryption(replace(kms_config(kms), aws_key_id="00000000-0000-0000-0000-000000000000"))
    try:
        with pytest.raises(StoreError, match="NotFound"):
            await asyncio.wait_for(missing.wrap(b"p" * 32, context=b"c"), 20)
    finally:
        await missing.close()
