"""Who gets in, and who doesn't, over real handshakes."""

from __future__ import annotations

import datetime as dt
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from heimdall_server.crypto.certificate_files import key_path, write_atomically
from heimdall_server.crypto.certificates import KeyPair
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.rpc.native_logs import NativeLogs
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer, split_address
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles, load
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.rpc_server import details_of, get_status, info_of, serving


def wait_for(log: pytest.LogCaptureFixture, event: str, **fields: str) -> logging.LogRecord:
    """The log record of an event; core's come from another thread."""
    until = time.monotonic() + 3
    while time.monotonic() < until:
        for record in log.records:
            if record.getMessage() == event and all(getattr(record, key, None) == fields[key] for key in fields):
                return record
        time.sleep(0.01)
    pytest.fail(f"no event {event!r} with {fields} in {[(r.getMessage(), vars(r)) for r in log.records]}")


async def refused_at_handshake(pki: Pki, address: str, pair: KeyPair | None) -> None:
    """The handshake fails, which a client sees as UNAVAILABLE."""
    async with pki.channel(address, pair) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_status(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_right_certificate_is_named_by_its_uri_on_both_ports(pki: Pki) -> None:
    async with serving(pki) as server:
        for address in (server.mesh_address, server.otlp_address):
            async with pki.channel(address, pki.leaf("admin")) as channel:
                assert (await get_status(channel)).version == f"spiffe://{TRUST_DOMAIN}/client/admin"


async def test_no_certificate_is_refused_with_a_log_line(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Within the test, since pytest moves the descriptor between set-up and test.
    with NativeLogs():
        async with serving(pki) as server:
            await refused_at_handshake(pki, server.mesh_address, None)
    record = wait_for(caplog, "tls handshake refused", reason="no_certificate")
    # The server's own probe with TLS 1.2, on each of its two ports, isn't told.
    assert not any(vars(other).get("reason") == "old_tls" for other in caplog.records)
    assert "heimdall certs issue" in str(vars(record)["problem"])


async def test_unknown_authority_is_refused_with_a_log_line(
    pki: Pki, make_pki: Callable[[str], Pki], caplog: pytest.LogCaptureFixture
) -> None:
    other = make_pki(TRUST_DOMAIN)
    caplog.set_level(logging.INFO)
    # Within the test, since pytest moves the descriptor between set-up and test.
    with NativeLogs():
        async with serving(pki) as server:
            await refused_at_handshake(pki, server.mesh_address, other.leaf("admin"))
    record = wait_for(caplog, "tls handshake refused", reason="untrusted_certificate")
    assert "issuer" in str(vars(record)["problem"])


async def test_expired_certificate_is_refused_with_a_log_line(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Within the test, since pytest moves the descriptor between set-up and test.
    with NativeLogs():
        async with serving(pki) as server:
            await refused_at_handshake(pki, server.mesh_address, pki.leaf("admin", days=1, age_days=3))
    record = wait_for(caplog, "tls handshake refused", reason="untrusted_certificate")
    assert "expired" in str(vars(record)["problem"])


async def test_identity_without_a_role_is_refused_with_what_it_lacks(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        serving(pki, access=AccessPolicy()) as server,
        pki.channel(server.mesh_address, pki.leaf("bo")) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_status(channel)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "ask the operator for a role" in (caught.value.details() or "")
    info = info_of(details_of(caught.value))
    assert info.reason == "PERMISSION_DENIED"
    assert dict(info.metadata) == {"principal": f"spiffe://{TRUST_DOMAIN}/client/bo", "permission": "admin.status"}
    record = wait_for(caplog, "call failed", code="PERMISSION_DENIED")
    assert record.levelno == logging.WARNING


async def test_a_peers_authority_vouches_for_its_own_domain_only(
    pki: Pki, make_pki: Callable[[str], Pki], caplog: pytest.LogCaptureFixture
) -> None:
    """A peer whose authority has no name constraint mints a certificate that says it is our admin."""
    caplog.set_level(logging.INFO)
    peer = make_pki("peer.example")
    files = TlsFiles(pki.tls_config(folder="federated", **{"peer.example": peer.ca_file}))
    access = AccessPolicy({f"spiffe://{TRUST_DOMAIN}/client/admin": ("admin",), "spiffe://peer.example/**": ("admin",)})
    forged = forge(peer, f"spiffe://{TRUST_DOMAIN}/client/admin")
    async with serving(pki, files=files, access=access) as server:
        async with pki.channel(server.mesh_address, peer.leaf("eu-1", kind="instance")) as channel:
            assert (await get_status(channel)).version == "spiffe://peer.example/instance/eu-1"
        files_with_forger = TlsFiles(pki.tls_config(folder="forged", **{"peer.example": forged[1]}))
    async with (
        serving(pki, files=files_with_forger, access=access) as server,
        pki.channel(server.mesh_address, forged[0]) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_status(channel)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info_of(details_of(caught.value)).reason == "CERTIFICATE_REFUSED"
    record = wait_for(caplog, "client certificate refused")
    assert f"not signed by an authority of {TRUST_DOMAIN}" in str(vars(record)["problem"])


def begin_certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, now: dt.datetime
) -> x509.CertificateBuilder:
    """A certificate of a day, without extensions and signature."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def forge(peer: Pki, uri: str) -> tuple[KeyPair, Path]:
    """A certificate with any URI, by an authority without a name constraint; and that authority's file."""
    now = dt.datetime.now(dt.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loose CA")])
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    usage |= {"key_agreement": False, "encipher_only": False, "decipher_only": False}
    root = (
        begin_certificate(name, name, root_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        begin_certificate(x509.Name([]), name, key.public_key(), now)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    path = peer.folder / "loose-ca.pem"
    write_atomically(path, root.public_bytes(serialization.Encoding.PEM))
    return KeyPair(key, leaf), path


async def test_serial_on_the_deny_list_is_refused_on_an_open_connection(pki: Pki, tmp_path: Path) -> None:
    deny = tmp_path / "denied"
    deny.write_text("# none yet\n")
    config = pki.tls_config(folder="denying")
    clock = [0.0]
    files = TlsFiles(
        TlsConfig(config.certificate_file, config.key_file, config.trust, deny), monotonic_s=lambda: clock[0]
    )
    pair = pki.leaf("admin")
    async with serving(pki, files=files) as server, pki.channel(server.mesh_address, pair) as channel:
        await get_status(channel)
        deny.write_text(f"{pair.certificate.serial_number:x}  # lost laptop\n")
        clock[0] += 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_status(channel)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "taken back" in (caught.value.details() or "")


async def test_new_server_certificate_is_taken_up_without_a_restart(pki: Pki) -> None:
    config = pki.tls_config(folder="renewed")
    clock = [0.0]
    files = TlsFiles(config, monotonic_s=lambda: clock[0])
    async with serving(pki, files=files) as server:
        host, port = split_address(server.mesh_address)
        before = served_certificate(pki, host, port)
        pki.write("renewed", pki.server_leaf())
        clock[0] += 2
        after = served_certificate(pki, host, port)
        assert before != after
        assert after == files.current.certificate.public_bytes(serialization.Encoding.DER)
        async with pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
            await get_status(channel)


async def test_bad_new_server_certificate_keeps_the_old_one_and_says_so(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = pki.tls_config(folder="spoiled")
    clock = [0.0]
    files = TlsFiles(config, monotonic_s=lambda: clock[0])
    async with serving(pki, files=files) as server:
        write_rsa(config)
        clock[0] += 2
        async with pki.channel(server.mesh_address, pki.leaf("admin")) as channel:
            await get_status(channel)
    record = wait_for(caplog, "new certificates refused, the old ones stay in force")
    assert "not an ECDSA" in str(vars(record)["problems"])


def served_certificate(pki: Pki, host: str, port: int) -> bytes | None:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=pki.authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(pki.write("looker", pki.leaf("looker")), pki.folder / "looker-key.pem")
    with socket.create_connection((host, port), 5) as raw, context.wrap_socket(raw, server_hostname=host) as secured:
        assert secured.version() == "TLSv1.3"
        return secured.getpeercert(binary_form=True)


def write_rsa(config: TlsConfig) -> None:
    """Replace the key and certificate by RSA ones."""
    key = rsa.generate_private_key(65537, 2048)
    certificate = begin_certificate(x509.Name([]), x509.Name([]), key.public_key(), dt.datetime.now(dt.UTC)).sign(
        key, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomically(config.key_file, secret, mode=0o600)
    write_atomically(config.certificate_file, certificate.public_bytes(pem))


def test_rsa_certificate_is_refused_at_load(pki: Pki) -> None:
    config = pki.tls_config(folder="rsa")
    write_rsa(config)
    with pytest.raises(ConfigurationError, match="not an ECDSA"):
        load(config)


def test_all_problems_of_the_files_are_told_at_once(pki: Pki, make_pki: Callable[[str], Pki], tmp_path: Path) -> None:
    stranger = make_pki(TRUST_DOMAIN)
    path = stranger.write("client-as-server", stranger.leaf("x", days=1, age_days=3))
    key_path(path).chmod(0o644)
    config = TlsConfig(path, key_path(path), {TRUST_DOMAIN: pki.ca_file, "gone.example": tmp_path / "gone.pem"})
    with pytest.raises(ConfigurationError) as caught:
        load(config)
    text = str(caught.value)
    for words in ("gone.pem", "chmod 600", "not valid now", "not a server's", "not signed by an authority"):
        assert words in text


async def test_tls_1_2_is_refused(pki: Pki) -> None:
    async with serving(pki) as server:
        host, port = split_address(server.mesh_address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection((host, port), 5) as raw, pytest.raises((ssl.SSLError, ConnectionResetError)):
            context.wrap_socket(raw)


UNPREPARED = """
import asyncio, sys
from pathlib import Path
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles
certificate, key, ca, trust_domain = sys.argv[1:]
async def main():
    files = TlsFiles(TlsConfig(Path(certificate), Path(key), {trust_domain: Path(ca)}))
    server = RpcServer(ListenConfig("127.0.0.1:0", ""), files, AccessPolicy())
    try:
        await server.start()
    except ConfigurationError as error:
        print(error)
    else:
        print("started")
        await server.stop()
asyncio.run(main())
"""


@pytest.mark.parametrize("prepared", [False, True])
def test_server_that_would_answer_tls_1_2_does_not_start(pki: Pki, *, prepared: bool) -> None:
    config = pki.tls_config(folder=f"probe-{prepared}")
    program = ("from heimdall_server.rpc import early; early.prepare()\n" if prepared else "") + UNPREPARED
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    arguments = [config.certificate_file, config.key_file, pki.ca_file, TRUST_DOMAIN]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    if prepared:
        assert done.stdout.strip() == "started"
    else:
        assert "answered a TLSv1.2 handshake" in done.stdout


async def test_a_port_that_is_taken_is_told(pki: Pki) -> None:
    async with serving(pki) as server:
        second = RpcServer(ListenConfig(server.mesh_address, ""), pki.tls_files(), AccessPolicy())
        with pytest.raises(ConfigurationError, match="can't listen on"):
            await second.start()
