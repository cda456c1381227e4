"""The `heimdall` command as a process: signals, pipes, terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from heimdall_client.cli.exits import ExitCode
from tests.support import cli
from tests.support.cli import invoke_on as invoke
from tests.support.cli import query_on as query
from tests.support.server_process import ServerProcess

RECORD = re.compile(r"\d+-\d+-\d+$")


def test_watch_follows_until_ctrl_c(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    process = _start(server, "watch", word, "--last", "2", "-o", "json")
    try:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline())["body"] for _ in range(2)]
        assert first == [f"line {n} {word}" for n in (8, 9)]
        invoke(server, "ingest", "-", stdin=f'{{"msg":"live {word}"}}\n'.encode())
        assert json.loads(process.stdout.readline())["body"] == f"live {word}"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == ExitCode.INTERRUPTED
    assert err == b""


def test_watch_sends_aggregates(server: ServerProcess, logs: Path, word: str) -> None:
    assert logs.exists()
    process = _start(server, "watch", f"{word} | stats count() by service", "--every", "100ms", "--since", "1h")
    try:
        assert process.stdout is not None
        lines = {process.stdout.readline().decode().strip() for _ in range(3)}
        assert lines == {"service=svc0  count=4", "service=svc1  count=3", "service=svc2  count=3"}
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_goes_away_ends_it_quietly(server: ServerProcess) -> None:
    invoke(server, "samples", "--count", "5000", "--seed", "8")
    for output in ("table", "json", "csv", "arrow"):
        process = _start(server, "query", "dataset:samples", "-n", "4000", "--consistent", "-o", output)
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == ExitCode.PIPE_CLOSED, err
        assert err == b""


def test_ctrl_c_ends_an_ingest_without_a_traceback(server: ServerProcess) -> None:
    process = subprocess.Popen(
        cli.line("ingest", "-", config=server.client_file),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b'{"msg":"one"}\n')
        process.stdin.flush()
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"Traceback" not in err


def test_a_terminal_gets_colours_a_bar_and_fitted_lines(server: ServerProcess, logs: Path, word: str) -> None:
    query(server, word)
    shown = _on_terminal(server, "query", f"{word} AND n:1", columns=80)
    assert "\x1b[1;31mERROR" in shown
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()[0]
    assert len(line) == 80
    assert RECORD.search(line)
    bar = _on_terminal(server, "ingest", str(logs), columns=100)
    assert "━" in bar
    assert "nothing new" in bar
    table = _on_terminal(
        server, "watch", f"{word} | stats count()", "--since", "1h", "--every", "100ms", until="updated"
    )
    assert "count" in table


def test_no_color_is_respected_on_a_terminal(
    server: ServerProcess, logs: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logs.exists()
    monkeypatch.setenv("NO_COLOR", "1")
    query(server, word)
    assert "\x1b[1;31m" not in _on_terminal(server, "query", f"{word} AND n:1", columns=80)


def _start(server: ServerProcess, *arguments: str) -> subprocess.Popen[bytes]:
    command = cli.line(*arguments, config=server.client_file)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _on_terminal(server: ServerProcess, *arguments: str, columns: int = 100, until: str = "") -> str:
    """What a command shows on a terminal; it is ended as soon as `until` was shown."""
    main, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        cli.line(*arguments, config=server.client_file), stdin=other, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    shown = b""
    try:
        while not until or until.encode() not in shown:
            try:
                part = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    finally:
        process.kill()
        process.wait()
        os.close(main)
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")
