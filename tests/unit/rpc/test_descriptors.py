"""How many connections the process has descriptors for."""

from __future__ import annotations

import resource

import pytest

from heimdall_server.rpc.descriptors import RESERVE, affordable_connections


class Limits:
    """Stands for the kernel's."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, _kind: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _kind: int, limits: tuple[int, int]) -> None:
        assert limits[0] <= limits[1]
        self.now = limits


def affordable(monkeypatch: pytest.MonkeyPatch, limits: Limits, *, wanted: int) -> int:
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    return affordable_connections(wanted, port_count=2)


def test_a_low_soft_limit_is_raised_to_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(1024, 1_000_000)
    assert affordable(monkeypatch, limits, wanted=5000) == 5000
    assert limits.now == (10_000 + RESERVE, 1_000_000)


def test_a_limit_that_is_enough_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(65_536, 65_536)
    assert affordable(monkeypatch, limits, wanted=5000) == 5000
    assert limits.now == (65_536, 65_536)


def test_a_low_hard_limit_means_fewer_connections_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert affordable(monkeypatch, Limits(1024, 4096), wanted=5000) == (4096 - RESERVE) // 2
    assert "limit of open files" in caplog.text


def test_even_a_tiny_limit_leaves_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(monkeypatch, Limits(256, 256), wanted=5000) == 64
