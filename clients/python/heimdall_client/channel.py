"""A channel to one or several Heimdall servers: targets, balancing, health, retries, keepalive, mTLS."""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Any, Final

import grpc
import grpc.aio

from heimdall_client.config import ClientConfig
from heimdall_client.errors import ConfigError

FRAME_BYTES: Final = 1024 * 1024
"""Of HTTP/2; the default of 16 KiB costs an eighth of the throughput."""
RECEIVE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Servers send at most 1 MiB a message."""
SEND_BYTES_MAX: Final = 8 * 1024 * 1024
CONNECT_S_MAX: Final = 10.0
"""For a connection with its TLS handshake, three round trips. gRPC has it as "minimum back-off": one that is refused is tried
again much sooner."""
RECONNECT_BACKOFF_S_MAX: Final = 5.0

_IDEMPOTENT: Final = (
    {"service": "heimdall.admin.v1.AdminService"},
    {"service": "heimdall.query.v1.QueryService", "method": "Search"},
    {"service": "heimdall.query.v1.QueryService", "method": "Explain"},
    {"service": "heimdall.query.v1.QueryService", "method": "ListFields"},
    {"service": "heimdall.query.v1.QueryService", "method": "ListFieldValues"},
    {"service": "heimdall.ingest.v1.IngestService", "method": "GetSource"},
    {"service": "heimdall.ingest.v1.IngestService", "method": "ListDeadLetters"},
    {"service": "heimdall.ingest.v1.IngestService", "method": "RetryDeadLetters"},
)
"""What may be sent again when no server answered. The long-lived streams resume by their own tokens instead."""


def service_config() -> dict[str, Any]:
    """How gRPC balances, checks health and retries, as its service config.

    Health is that of the whole server (service name ""): a server may leave services out. A server without the
    health service counts as healthy.
    """
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": list(_IDEMPOTENT),
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }


def target_of(address: str) -> tuple[str, str]:
    """Turn an address into a gRPC target.

    gRPC takes several addresses only as numbers, so the names of a list are resolved here, once; `dns:///` with a name
    that has several addresses follows the name instead.

    Args:
        address: As `ClientConfig.address`.

    Returns:
        The target, and the authority that the servers' certificates must name: the first of a list; empty: the
        target's own.

    Raises:
        ConfigError: A list's entry isn't `host:port`, can't be resolved, or IPv4 and IPv6 are mixed.
    """
    if "," not in address or address.startswith(("unix:", "dns:", "xds:")):
        return address, ""
    scheme, _, listed = address.rpartition(":///") if ":///" in address else ("", "", address)
    for prefix in ("ipv4:", "ipv6:"):
        listed = listed.removeprefix(prefix)
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    if scheme:
        raise ConfigError((f"address: a list takes no {scheme}:///, only host:port with commas between",))
    numbers: list[tuple[int, str]] = []
    problems: list[str] = []
    for entry in entries:
        host, _, port = entry.rpartition(":")
        if not host or not port.isdecimal():
            problems.append(f"address: {entry!r} isn't host:port")
            continue
        try:
            numbers += _numbers(host.strip("[]"), port)
        except OSError as error:
            problems.append(f"address: {host} can't be resolved: {error.strerror or error}")
    versions = {version for version, _ in numbers}
    if len(versions) > 1:
        problems.append("address: a list holds either IPv4 or IPv6 addresses, not both")
    if problems or not numbers:
        raise ConfigError(tuple(problems) or ("address: an empty list",))
    joined = ",".join(number for _, number in numbers)
    return f"ipv{versions.pop()}:{joined}", entries[0]


def _numbers(host: str, port: str) -> list[tuple[int, str]]:
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        every = [ipaddress.ip_address(info[4][0]) for info in found]
        addresses = [a for a in every if a.version == 4] or every
    return [(a.version, f"{a}:{port}" if a.version == 4 else f"[{a}]:{port}") for a in addresses]


def open_channel(config: ClientConfig) -> grpc.aio.Channel:
    """Make a channel. It connects with its first call.

    Args:
        config: Checked, see `load_config`.

    Raises:
        ConfigError: The address can't be used.
    """
    target, authority = target_of(config.address)
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(service_config())),
        ("grpc.enable_retries", 1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.max_frame_size", FRAME_BYTES),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.max_send_message_length", SEND_BYTES_MAX),
        ("grpc.keepalive_time_ms", int(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_s * 1000)),
        # This is what ends a connection whose pings aren't answered; gRPC's default is a minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", int(config.keepalive_timeout_s * 1000)),
        # By default two pings, then silence: a watch sends nothing for hours, and must notice all the same.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_S_MAX * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(RECONNECT_BACKOFF_S_MAX * 1000)),
    ]
    if authority:
        options.append(("grpc.default_authority", authority))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=config.ca_file.read_bytes(),
        private_key=config.key_file.read_bytes(),
        certificate_chain=config.cert_file.read_bytes(),
    )
    return grpc.aio.secure_channel(target, credentials, options=options)
