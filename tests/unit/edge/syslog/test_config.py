"""Syslog is off, private and checked unless told otherwise."""

from __future__ import annotations

import pytest

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.syslog.config import SyslogConfig


def test_nothing_is_listened_for_by_default() -> None:
    assert not SyslogConfig().enabled
    assert SyslogConfig(tls_address="0.0.0.0:6514").enabled


@pytest.mark.parametrize("address", ["127.0.0.1:514", "127.8.8.8:514", "localhost:514", "[::1]:514"])
def test_plain_transports_may_be_on_loopback(address: str) -> None:
    assert SyslogConfig(tcp_address=address, udp_address=address).enabled


@pytest.mark.parametrize("address", ["0.0.0.0:514", "[::]:514", "192.0.2.1:514", "collector.example:514"])
def test_plain_transports_beyond_loopback_must_be_allowed(address: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SyslogConfig(tcp_address=address, udp_address=address)
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["syslog.tcp_address", "syslog.udp_address"]
    assert SyslogConfig(tcp_address=address, udp_address=address, plain_beyond_loopback=True).enabled


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        SyslogConfig(tls_address="nowhere", udp_address="127.0.0.1", zone="Mars/Olympus")
    assert len(raised.value.problems) == 3
