"""Settings of the syslog listeners."""

from __future__ import annotations

import ipaddress
import zoneinfo
from dataclasses import dataclass
from typing import Literal

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.rpc.server import split_address

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SyslogConfig:
    """Where syslog is listened for, and its bounds. All that is a number is more than 0, but for `gather_s`."""

    tls_address: str = ""
    """`host:port` for syslog over mutual TLS 1.3 (RFC 5425; its port is 6514), with the server's certificate.
    Empty: none."""
    tcp_address: str = ""
    """`host:port` for plain TCP (RFC 6587). Loopback, unless `plain_beyond_loopback`. Empty: none."""
    udp_address: str = ""
    """`host:port` for UDP (RFC 5426; its port is 514), likewise. What doesn't fit is dropped and counted."""
    plain_beyond_loopback: bool = False
    """Let `tcp_address` and `udp_address` be other than loopback: anyone who reaches them may write, and read along."""
    client_certificate: Literal["required", "optional"] = "required"
    """`optional` is for appliances that have no certificate: then anyone who reaches `tls_address` may write."""
    name_by_address: bool = True
    """A sender that proves no identity is called `syslog/<its address>`; else all of a transport are `syslog/udp` and so
    on. Turn it off where addresses are personal data: this name isn't subject to the privacy policy."""
    dataset: str = "logs"
    """Where the records go."""
    zone: str = "UTC"
    """IANA name, for stamps without a zone (RFC 3164)."""
    connections_max: int = 512
    """Connections at once."""
    connections_per_sender_max: int = 64
    """Of them, from one address."""
    handshake_s: float = 10.0
    idle_s: float = 86_400.0
    """A connection that says nothing for so long is closed. Long, because a sender may lose the message by which it
    notices that; one whose machine is gone is found sooner, by keep-alive."""
    unfinished_s: float = 60.0
    """A message that isn't complete after so long ends its connection."""
    continuation_s: float = 0.1
    """How long a line waits for lines that belong to it."""
    gather_s: float = 0.05
    """How long little waits for more, so that it is decoded together."""
    inflight_bytes_max: int = 64 * _MIB
    """Bytes that were read and aren't durable, of all senders and transports; beyond, connections aren't read from and
    datagrams are dropped."""
    sender_bytes_max: int = 8 * _MIB
    """Of them, of one sender."""
    udp_buffer_bytes: int = 8 * _MIB
    """What the system is asked to hold of datagrams; it gives what its limit (Linux: `net.core.rmem_max`) allows."""
    drain_s: float = 5.0
    """On the way down, what was read has this long to become durable."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: With all problems.
        """
        problems: list[str] = []
        for name in ("tls_address", "tcp_address", "udp_address"):
            address = getattr(self, name)
            try:
                host = split_address(address)[0] if address else "localhost"
            except ConfigurationError as error:
                problems += [f"syslog.{name}: {problem}" for problem in error.problems]
                continue
            if name != "tls_address" and not self.plain_beyond_loopback and not is_loopback(host):
                problems.append(
                    f"syslog.{name}: {host} isn't a loopback address, and what comes there is neither encrypted nor"
                    " does it prove who sent it; use tls_address, or set plain_beyond_loopback"
                )
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            problems.append(f"syslog.zone: {self.zone!r} isn't an IANA time zone")
        if problems:
            raise ConfigurationError(tuple(problems))

    @property
    def enabled(self) -> bool:
        """Whether it listens anywhere."""
        return bool(self.tls_address or self.tcp_address or self.udp_address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
