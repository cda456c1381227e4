"""The syslog senders that people run, sending the lines of a file: util-linux's logger, rsyslog, syslog-ng."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

STOP_S = 10.0


@dataclass(frozen=True)
class Target:
    """Where they send."""

    host: str
    port: int
    transport: str
    """`tls`, `tcp` (octet-counted), `lines` (TCP) or `udp`."""
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


def program(name: str) -> str:
    """Its path; a test that can't have it skips."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} isn't installed")
    return path


def logger(target: Target, lines: list[str], *arguments: str) -> None:
    """Send with util-linux's logger, a message a line."""
    transport = {"udp": ["--udp"], "tcp": ["--tcp", "--octet-count"], "lines": ["--tcp"]}[target.transport]
    subprocess.run(
        [
            program("logger"),
            "--server",
            target.host,
            "--port",
            str(target.port),
            *transport,
            "--tag",
            "shop",
            *arguments,
        ],
        input="\n".join(lines).encode(),
        check=True,
        timeout=20,
    )


@contextlib.contextmanager
def rsyslog(folder: Path, source: Path, target: Target) -> Iterator[None]:
    """A running rsyslog that follows `source`."""
    binary = program("rsyslogd")
    transport = {
        "udp": 'protocol="udp"',
        "lines": 'protocol="tcp"',
        "tcp": 'protocol="tcp" TCP_Framing="octet-counted"',
        "tls": 'protocol="tcp" TCP_Framing="octet-counted" StreamDriver="ossl" StreamDriverMode="1"'
        ' StreamDriverAuthMode="x509/certvalid"',
    }[target.transport]
    files = ""
    if target.transport == "tls":
        if not list(Path("/usr/lib").glob("**/rsyslog/lmnsd_ossl.so")):
            pytest.skip("rsyslog's OpenSSL driver isn't installed")
        files = (
            f'DefaultNetstreamDriverCAFile="{target.ca_file}" DefaultNetstreamDriverCertFile="{target.certificate_file}"'
            f' DefaultNetstreamDriverKeyFile="{target.key_file}"'
        )
    config = folder / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{folder}" {files})\n'
        'module(load="imfile" mode="polling" PollingInterval="1")\n'
        f'input(type="imfile" file="{source}" tag="shop:" severity="notice" facility="local3")\n'
        f'action(type="omfwd" target="{target.host}" port="{target.port}" {transport}'
        ' template="RSYSLOG_SyslogProtocol23Format" action.resumeInterval="1" action.resumeRetryCount="-1"'
        ' queue.type="LinkedList")\n'
    )
    with _running([binary, "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")], folder / "rsyslog.out"):
        yield


@contextlib.contextmanager
def syslog_ng(folder: Path, source: Path, target: Target) -> Iterator[None]:
    """A running syslog-ng that follows `source`."""
    binary = program("syslog-ng")
    tls = (
        f' tls(ca-file("{target.ca_file}") cert-file("{target.certificate_file}") key-file("{target.key_file}")'
        " peer-verify(yes))"
    )
    driver, transport = {
        "udp": ("syslog", 'transport("udp")'),
        "tcp": ("syslog", 'transport("tcp")'),
        "lines": ("network", 'transport("tcp")'),
        "tls": ("syslog", f'transport("tls"){tls}'),
    }[target.transport]
    config = folder / "syslog-ng.conf"
    config.write_text(
        "@version: 3.38\n"
        "options { time-reopen(1); keep-hostname(yes); };\n"
        f'source s {{ file("{source}" follow-freq(0.1) flags(no-parse) program-override("shop")'
        " default-priority(notice) default-facility(local3)); };\n"
        f'destination d {{ {driver}("{target.host}" port({target.port}) {transport}); }};\n'
        "log { source(s); destination(d); flags(flow-control); };\n"
    )
    places = [f"--{name}={folder / name}" for name in ("persist-file", "pidfile", "control")]
    command = [binary, "--foreground", "--no-caps", "--cfgfile", str(config), *places]
    with _running(command, folder / "syslog-ng.out"):
        yield


@contextlib.contextmanager
def _running(command: list[str], output: Path) -> Iterator[None]:
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        early = process.poll()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
    assert early is None, f"{command[0]} ended with {early}: {output.read_text()}"
