from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from heimdall_client.cli.exits import ExitCode
from heimdall_server.config_command import EXIT_PROBLEMS
from tests.support import cli
from tests.support.pki import Pki


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("HEIMDALL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    pki = Pki(tmp_path / ".heimdall" / "certs")
    pki.write("server", pki.server_leaf())
    return tmp_path


def test_a_good_configuration_is_ok(folder: Path) -> None:
    outcome = cli.invoke("config", "check")
    assert (outcome.code, outcome.err) == (ExitCode.OK, "")
    assert outcome.out.startswith("ok: ")
    (folder / "own.toml").write_text('log_level = "DEBUG"\n')
    assert cli.invoke("config", "check", "own.toml").out == "ok: own.toml\n"
    assert cli.invoke("config", "check", "own.toml", "-o", "json").json() == {
        "ok": True,
        "problems": [],
        "files": ["own.toml"],
    }


def test_every_problem_is_told_at_once(folder: Path) -> None:
    (folder / "bad.toml").write_text('log_level = "LOUD"\nnonsense = 1\n[journal]\nsegment_bytes = "big"\n')
    outcome = cli.invoke("config", "check", "bad.toml")
    assert outcome.code == EXIT_PROBLEMS
    assert int(ExitCode.USAGE) == EXIT_PROBLEMS
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 3
    for key in ("log_level", "nonsense", "journal.segment_bytes"):
        assert f"error: {key}: " in outcome.err
    problems = cli.invoke("config", "check", "bad.toml", "-o", "json").json()
    assert problems["ok"] is False
    assert len(problems["problems"]) == 3


def test_certificates_that_are_missing_are_a_problem(folder: Path) -> None:
    (folder / ".heimdall" / "certs" / "server.pem").unlink()
    outcome = cli.invoke("config", "check")
    assert outcome.code == EXIT_PROBLEMS
    assert "server.pem" in outcome.err
    assert "heimdall certs init" in outcome.err


def test_a_file_that_is_missing_is_a_problem() -> None:
    outcome = cli.invoke("config", "check", "nowhere.toml")
    assert outcome.code == EXIT_PROBLEMS
    assert "nowhere.toml" in outcome.err


def test_what_is_shown_can_be_read_back_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_KEYS__VALUE", "hunter2-hunter2-hunter2")
    outcome = cli.invoke("config", "show")
    assert outcome.code == ExitCode.OK
    assert "hunter2" not in outcome.out
    shown = tomllib.loads(outcome.out)
    assert shown["keys"]["value"] == "[redacted]"
    assert cli.invoke("config", "show", "-o", "json").json()["config"] == shown
