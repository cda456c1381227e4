"""The server's credentials for gRPC: mutual TLS with certificates that are reloaded while it runs.

That TLS 1.2 is refused rests on `early` (cipher suites) and `tls_files` (ECDSA leaves); `probe` proves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc

from heimdall_server.rpc.tls_files import TlsFiles, TlsMaterial


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials for one port. A second port needs its own: gRPC remembers per object what it was given.

    A client certificate is required; the files are looked at when a handshake begins.
    """
    material = files.current
    given = material.version

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        newest = files.current
        if newest.version == given:
            return None
        given = newest.version
        return _configuration(newest)

    # gRPC takes None as «nothing new»; its stubs don't say so.
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(_configuration(material), fetcher, require_client_authentication=True)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key_pem, material.certificate_pem)], root_certificates=material.roots_pem
    )
