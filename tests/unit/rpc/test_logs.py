"""Logs, metrics, the environment, admission."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from heimdall_server.domain.errors import (
    BudgetExceededError,
    ConfigurationError,
    DrainingError,
    FormatError,
    StoreError,
)
from heimdall_server.domain.identity import Principal, SpiffeId
from heimdall_server.rpc import early
from heimdall_server.rpc.admission import Admission, Drain
from heimdall_server.rpc.calls import Call, current_call, find_call, request_id_from, serving
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.logs import configure_logging, failure_fields
from heimdall_server.rpc.metrics import MetricsServer
from heimdall_server.rpc.native_logs import NativeLogs, expect_refused_hello, log_native_line
from heimdall_server.rpc.server import split_address

CALL = Call(Principal.of(SpiffeId("td", "client", "bo"), fingerprint=""), "r-1", "s/M", "ipv4:127.0.0.1:1")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the configured log writes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream, loggers={"quiet": "ERROR"})
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_event_is_one_line_of_json_with_its_fields(written: io.StringIO) -> None:
    logging.getLogger("a.b").info("thing\nhappened", extra={"count": 3, "path": os.devnull, "odd": {1, 2}.__class__})
    (event,) = events(written)
    assert (event["event"], event["level"], event["logger"], event["count"]) == ("thing\nhappened", "info", "a.b", 3)
    assert str(event["time"]).endswith("Z")
    assert len(written.getvalue().splitlines()) == 1


def test_call_being_served_is_in_each_line(written: io.StringIO) -> None:
    with serving(CALL):
        assert current_call() is CALL
        logging.getLogger("a").warning("inside")
    logging.getLogger("a").warning("outside")
    inside, outside = events(written)
    assert (inside["request_id"], inside["principal"]) == ("r-1", "spiffe://td/client/bo")
    assert "request_id" not in outside
    assert find_call() is None
    with pytest.raises(RuntimeError):
        current_call()


def test_levels_of_single_loggers_hold(written: io.StringIO) -> None:
    logging.getLogger("quiet").warning("no")
    logging.getLogger("a").debug("no")
    assert events(written) == []


def test_warnings_of_python_are_events(written: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    assert events(written)[0]["logger"] == "py.warnings"


def test_text_of_an_error_that_may_quote_a_record_is_left_out(written: io.StringIO) -> None:
    for error in (ValueError("alice@example.com"), FormatError("json", "alice@example.com")):
        try:
            raise error
        except (ValueError, FormatError):
            logging.getLogger("a").exception("failed")
    assert "alice" not in written.getvalue()
    assert [event["failure"]["type"] for event in events(written)] == ["ValueError", "FormatError"]  # type: ignore[index]


def test_text_of_an_engines_failure_and_its_causes_are_kept() -> None:
    error = StoreError("warm", "disk full")
    error.__cause__ = OSError(28, "No space left")
    fields = failure_fields(ExceptionGroup("", [error]))
    (member,) = fields["members"]
    assert member["text"] == "warm failed: disk full"
    assert "No space left" in member["cause"]["text"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no_certificate"),
        ("CERTIFICATE_VERIFY_FAILED", "untrusted_certificate"),
        ("NO_SHARED_CIPHER", "old_tls"),
        ("WRONG_VERSION_NUMBER", "not_tls"),
        ("SOMETHING_NEW", "handshake"),
    ],
)
def test_failed_handshake_is_told_with_a_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setattr("heimdall_server.rpc.native_logs._expected", [])
    log_native_line(
        "I1124 15:17:48.918307   11743 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
        f"error:100000c0:SSL routines:OPENSSL_internal:{name}: certificate has expired"
    )
    (record,) = caplog.records
    assert record.getMessage() == "tls handshake refused"
    assert vars(record)["reason"] == reason


def test_refusal_of_our_own_probe_is_no_news(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.rpc.native_logs._expected", [])
    expect_refused_hello()
    line = "Handshake failed with error SSL_ERROR_SSL: error:100000b8:SSL routines:OPENSSL_internal:NO_SHARED_CIPHER: x"
    log_native_line(line)
    assert not caplog.records
    log_native_line(line)
    assert len(caplog.records) == 1


def test_other_native_lines_keep_level_and_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for line in (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "",
        "E1124 15:18:00.384001   11847 call.cc:358] Compression algorithm 'deflate' is disabled.",
        "something else",
    ):
        log_native_line(line)
    first, second = caplog.records
    assert (first.levelno, vars(first)["place"]) == (logging.ERROR, "call.cc:358")
    assert (second.levelno, vars(second)["text"]) == (logging.INFO, "something else")


def test_descriptor_of_native_libraries_is_relayed_and_given_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before, old = os.fstat(2), sys.stderr
    with NativeLogs() as real:
        os.write(2, b"from a library\n")
        assert real.fileno() != 2
        assert sys.stderr is real
    assert [vars(record)["text"] for record in caplog.records] == ["from a library"]
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
    assert sys.stderr is old


def test_metrics_are_served_on_loopback_until_stopped() -> None:
    registry = CollectorRegistry()
    Counter("things_total", "Things", registry=registry).inc(3)
    server = MetricsServer("127.0.0.1", 0, registry=registry)
    server.start()
    with urllib.request.urlopen(server.url, timeout=5) as answer:  # noqa: S310 - our own
        assert b"things_total 3.0" in answer.read()
    second = MetricsServer("127.0.0.1", int(server.url.split(":")[2].split("/")[0]), registry=registry)
    with pytest.raises(ConfigurationError, match="can't listen"):
        second.start()
    server.stop()
    server.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.url, timeout=5)  # noqa: S310 - our own


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", ""])  # noqa: S104 - refused
def test_metrics_are_not_served_elsewhere(host: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        MetricsServer(host, 0)


def test_environment_is_prepared_before_grpc_or_not_at_all() -> None:
    environment = {early.CIPHER_SUITES_VARIABLE: early.CIPHER_SUITES}
    early.prepare(environment)
    assert environment["GRPC_ENABLE_FORK_SUPPORT"] == "0"
    with pytest.raises(RuntimeError, match="before grpc"):
        early.prepare({})
    program = (
        "from heimdall_server.rpc import early; import os, sys; early.prepare(); "
        "print('grpc' in sys.modules, os.environ[early.CIPHER_SUITES_VARIABLE])"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", early.CIPHER_SUITES]


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:7443", ("127.0.0.1", 7443)), ("[::1]:0", ("::1", 0)), ("h:65535", ("h", 65535))],
)
def test_addresses_are_read(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "h", "h:", ":1", "h:x", "h:65536", "h:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError):
        split_address(address)


def test_request_id_of_the_client_is_used_if_it_is_fit_for_a_log() -> None:
    assert request_id_from("a-1/b") == "a-1/b"
    for bad in (None, "", "a b", "a\n", "x" * 129, "ü"):
        assert len(request_id_from(bad)) == 32


async def test_calls_are_counted_and_bounded() -> None:
    drain = Drain()
    admission = Admission(RpcLimits(calls_max=3, calls_per_peer_max=2, streams_per_peer_max=1), drain)
    with admission.admit("a", streaming=True, uninterrupted=False):
        with (
            pytest.raises(BudgetExceededError, match="streams"),
            admission.admit("a", streaming=True, uninterrupted=False),
        ):
            pass
        with admission.admit("a", streaming=False, uninterrupted=False):
            with (
                pytest.raises(BudgetExceededError, match="one identity"),
                admission.admit("a", streaming=False, uninterrupted=False),
            ):
                pass
            with (
                admission.admit("b", streaming=False, uninterrupted=True),
                pytest.raises(BudgetExceededError, match="calls at once"),
                admission.admit("c", streaming=False, uninterrupted=False),
            ):
                pass
        assert not await admission.wait_idle(0.01)
    assert admission.call_count == 0
    drain.begin()
    with pytest.raises(DrainingError), admission.admit("a", streaming=False, uninterrupted=False):
        pass
    with admission.admit("a", streaming=True, uninterrupted=True):
        assert await admission.wait_idle(0.01)
