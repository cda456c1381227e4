"""Data keys that encrypt values where they stand: nothing seals those anew, so no rotation takes their keys unless it names them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.field_cipher import KEY_CLASS_PREFIX, key_class
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.services.privacy.logic.kinds.model import ENCRYPTED_IN_RECORDS, data_classes
from heimdall_server.wiring.keys import prepare


async def made(folder: Path) -> Keyring:
    return await Keyring.load(folder / "keyring", LocalKeyEncryption(RootKey(b"k" * 32)), classes=("email", "phone"))


async def test_only_what_a_policy_encrypts_gets_keys_and_gets_them_once(tmp_path: Path) -> None:
    ring = await made(tmp_path)
    policy = PrivacyPolicy(rules=(PrivacyRule("encrypt", "card"), PrivacyRule("encrypt", "i*"), PrivacyRule("mask")))
    for _ in range(2):
        await prepare(ring, policy)
    keys = [key.data_class for key in ring.list() if key.kind == "data"]
    assert sorted(keys) == ["email", "enc_card", "enc_iban", "enc_ipv4", "enc_ipv6", "phone"]


async def test_a_rotation_takes_them_only_by_name(tmp_path: Path) -> None:
    assert ENCRYPTED_IN_RECORDS == KEY_CLASS_PREFIX
    ring = await made(tmp_path)
    await ring.add_classes([key_class("email")])
    ports = cast("Any", SimpleNamespace(keys=ring))
    assert data_classes(ports, []) == ["email", "phone"]
    assert data_classes(ports, ["email"]) == ["email"]
    assert data_classes(ports, ["enc_email", "phone"]) == ["enc_email", "phone"]
