"""Services that keep a key-encryption key: AWS KMS (moto's server) and Vault's transit engine (its API, with real AES-GCM)."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from moto.server import ThreadedMotoServer

from heimdall_server.crypto.key_encryption.config import KekConfig

AWS_VARIABLES = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
TOKEN = "s.secret-of-the-test"  # noqa: S105 - of the server below


class Transit(BaseHTTPRequestHandler):
    """`encrypt` and `decrypt` of one key with versions, as Vault answers."""

    keys: list[bytes]
    failures: int
    wait_s: float

    def do_POST(self) -> None:
        server = type(self)
        time.sleep(server.wait_s)
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


@contextlib.contextmanager
def transit_server(folder: Path) -> Iterator[tuple[KekConfig, type[Transit]]]:
    """A server with one key, and how it is reached; the token lies in the folder."""
    handler = type("Handler", (Transit,), {"keys": [os.urandom(32)], "failures": 0, "wait_s": 0.0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    config = KekConfig(
        "vault_transit",
        vault_address=f"http://127.0.0.1:{server.server_port}",
        vault_key="heimdall",
        vault_token_file=token,
    )
    try:
        yield config, handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def kms_server() -> Iterator[tuple[str, str]]:
    """A service with one key: address and key id. Meanwhile the environment holds credentials."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS_VARIABLES.items():
            patch.setenv(name, value)
        server.start()
        address = "http://{}:{}".format(*server.get_host_and_port())
        try:
            yield address, new_kms_key(address)
        finally:
            server.stop()


def new_kms_key(address: str) -> str:
    """Make a key; its id."""
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=address)
    try:
        return str(client.create_key()["KeyMetadata"]["KeyId"])
    finally:
        client.close()


def kms_config(kms: tuple[str, str]) -> KekConfig:
    """How a key is reached."""
    return KekConfig("aws_kms", aws_key_id=kms[1], aws_region="eu-central-1", aws_endpoint_url=kms[0])


def variables(section: str, config: KekConfig) -> dict[str, str]:
    """Settings of a key as a server's variables, of `keys.kek` or `keys.next`."""
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {f"HEIMDALL_KEYS__{section}__{name.upper()}": str(value) for name, value in found.items() if value}
