"""At start the server shakes hands with itself: TLS 1.2 must fail, TLS 1.3 with our certificate must work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.x509.oid import ExtendedKeyUsageOID

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.rpc.early import CIPHER_SUITES, CIPHER_SUITES_VARIABLE
from heimdall_server.rpc.native_logs import expect_refused_hello
from heimdall_server.rpc.tls_files import TlsMaterial, allows

_TIMEOUT_S: Final = 5.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound
_FRAME_HEADER_BYTES: Final = 9


async def probe(host: str, port: int, material: TlsMaterial) -> None:
    """Shake hands with the server's own port.

    Args:
        host: Where it listens; an address that means all of them is taken as loopback.
        port: The port.
        material: What it serves.

    Raises:
        ConfigurationError: It answers TLS 1.2, or TLS 1.3 with our certificate doesn't work.
    """
    await asyncio.to_thread(_probe, _ANY_ADDRESS.get(host, host), port, material)


def _probe(host: str, port: int, material: TlsMaterial) -> None:
    with _context(material) as context:
        _refuses_tls_1_2(host, port, context)
    with _context(material) as context:
        _speaks_tls_1_3(host, port, context, material)


def _refuses_tls_1_2(host: str, port: int, context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    expect_refused_hello()
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with _connect(host, port) as raw, context.wrap_socket(raw) as secured:
            version = secured.version()
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return
    problem = (
        f"the server answered a {version} handshake, only TLS 1.3 may be; was {CIPHER_SUITES_VARIABLE}="
        f"{CIPHER_SUITES} set before gRPC was loaded?"
    )
    raise ConfigurationError((problem,))


def _speaks_tls_1_3(host: str, port: int, context: ssl.SSLContext, material: TlsMaterial) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with _connect(host, port) as raw, context.wrap_socket(raw) as secured:
            if allows(material.certificate, ExtendedKeyUsageOID.CLIENT_AUTH):
                # In TLS 1.3 the client is done before the server has looked at the client's certificate. Only what
                # the server sends next (the SETTINGS frame of HTTP/2) shows that it was accepted.
                secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                answered = len(secured.recv(_FRAME_HEADER_BYTES)) > 0
            else:
                answered = True
    except OSError as error:
        problem = f"the server's own TLS 1.3 handshake failed: {error.strerror or error}"
        raise ConfigurationError((problem,)) from error
    if not answered:
        problem = "the server refused its own certificate as a client's"
        raise ConfigurationError((problem,))


def _connect(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), _TIMEOUT_S)
    except OSError as error:
        problem = f"the server can't be reached on {host}:{port} for its own TLS check: {error.strerror or error}"
        raise ConfigurationError((problem,)) from error


@contextlib.contextmanager
def _context(material: TlsMaterial) -> Iterator[ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The names in the certificate are for clients elsewhere; that it is ours is what counts here.
    context.check_hostname = False
    context.load_verify_locations(cadata=material.own_roots_pem().decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:
        # The module takes a client's certificate and key from a file only; the folder has mode 0700.
        pair = Path(folder) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(material.key_pem + b"\n" + material.certificate_pem)
        context.load_cert_chain(pair)
    yield context
