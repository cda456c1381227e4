"""Key-encryption keys that live in a service: AWS KMS (moto's server) and Vault's transit engine (its API, with real AES-GCM)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto.server import ThreadedMotoServer

from heimdall_server.crypto.key_encryption.aws_kms import AwsKmsKeyEncryption
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.vault_transit import VaultTransitKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import KeyMismatchError, StoreError
from heimdall_server.ports.keys import KeyEncryption

TOKEN = "s.secret-of-the-test"  # noqa: S105 - of the server below


class Transit(BaseHTTPRequestHandler):
    """`encrypt` and `decrypt` of one key with versions, as Vault answers."""

    keys: list[bytes]
    failures: int

    def do_POST(self) -> None:
        server = type(self)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("X-Vault-Token") != TOKEN:
            return self._answer(403, {"errors": ["permission denied"]})
        if server.failures:
            server.failures -= 1
            return self._answer(503, {"errors": ["Vault is sealed"]})
        associated = base64.b64decode(body["associated_data"])
        if self.path == "/v1/transit/encrypt/heimdall":
            nonce = os.urandom(12)
            sealed = nonce + AESGCM(server.keys[-1]).encrypt(nonce, base64.b64decode(body["plaintext"]), associated)
            text = f"vault:v{len(server.keys)}:{base64.b64encode(sealed).decode()}"
            return self._answer(200, {"data": {"ciphertext": text, "key_version": len(server.keys)}})
        if self.path == "/v1/transit/decrypt/heimdall":
            _, version, encoded = body["ciphertext"].split(":", 2)
            sealed = base64.b64decode(encoded)
            try:
                plain = AESGCM(server.keys[int(version[1:]) - 1]).decrypt(sealed[:12], sealed[12:], associated)
            except InvalidTag:
                return self._answer(400, {"errors": ["cipher: message authentication failed"]})
            return self._answer(200, {"data": {"plaintext": base64.b64encode(plain).decode()}})
        return self._answer(404, {"errors": []})

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[tuple[KekConfig, type[Transit]]]:
    handler = type("Handler", (Transit,), {"keys": [os.urandom(32)], "failures": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    config = KekConfig(
        "vault_transit",
        vault_address=f"http://127.0.0.1:{server.server_port}",
        vault_key="heimdall",
        vault_token_file=token,
    )
    yield config, handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def kms() -> Iterator[tuple[str, str]]:
    """Address and key id."""
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=address)
    yield address, client.create_key()["KeyMetadata"]["KeyId"]
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def kms_config(kms: tuple[str, str]) -> KekConfig:
    return KekConfig("aws_kms", aws_key_id=kms[1], aws_region="eu-central-1", aws_endpoint_url=kms[0])


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
