"""The tokens file, and the command that writes it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.http import tokens
from heimdall_server.edge.tokens_command import app

DIGEST = "a" * 64


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def write(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def test_a_token_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "new" / "tokens.toml"
    made = json.loads(run("issue", "fluent-bit", "--file", str(file), "--output", "json"))
    assert made["principal"] == "spiffe://heimdall.local/token/fluent-bit"
    assert made["token"] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    found = tokens.TokensFile(file).find(made["token"])
    assert found is not None
    assert (found.uri, found.name) == (made["principal"], "fluent-bit")
    assert tokens.TokensFile(file).find(made["token"], name="other") is None
    assert tokens.TokensFile(file).find(made["token"] + "x") is None


def test_issuing_again_replaces_and_revoking_takes_back(tmp_path: Path) -> None:
    file = str(tmp_path / "tokens.toml")
    first = json.loads(run("issue", "a", "--file", file, "-o", "json"))["token"]
    second = json.loads(run("issue", "a", "--file", file, "--kind", "client", "-o", "json"))["token"]
    run("issue", "b.c", "--file", file, "--trust-domain", "example.org")
    known = tokens.TokensFile(Path(file))
    assert known.find(first) is None
    assert known.find(second) is not None
    assert "spiffe://example.org/token/b.c" in run("list", "--file", file)
    run("revoke", "a", "--file", file)
    assert [one.name for one in tokens.read(Path(file))] == ["b.c"]


@pytest.mark.parametrize(
    "arguments",
    [("issue", "UPPER"), ("revoke", "nobody"), ("issue", "a", "--trust-domain", "A")],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = CliRunner().invoke(app, [*arguments, "--file", str(tmp_path / "t.toml")])
    assert outcome.exit_code == 1
    assert "error: " in outcome.output
    assert not (tmp_path / "t.toml").exists()


def test_every_problem_of_a_file_is_told(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.toml",
        f"""
        [tokens.a]
        sha256 = "short"
        principal = "spiffe://td/token/a"
        [tokens.b]
        sha256 = "{DIGEST}"
        principal = "nobody"
        [tokens.c]
        sha256 = "{DIGEST}"
        [tokens."Bad Name"]
        sha256 = "{DIGEST}"
        principal = "spiffe://td/token/x"
        """,
    )
    file.chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        tokens.read(file)
    told = "\n".join(caught.value.problems)
    for part in ("chmod 600", "tokens.a: sha256", "tokens.b: principal", "tokens.c: takes", "Bad Name"):
        assert part in told


def test_a_file_that_is_not_there_or_no_toml_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none", write(tmp_path / "bad", "not toml =")):
        with pytest.raises(ConfigurationError, match=str(path)):
            tokens.read(path)


def test_minted_tokens_differ_and_their_files_are_toml(tmp_path: Path) -> None:
    assert len({tokens.mint()[0] for _ in range(50)}) == 50
    run("issue", "a", "--file", str(tmp_path / "t.toml"))
    assert set(tomllib.loads((tmp_path / "t.toml").read_text())["tokens"]["a"]) == {"sha256", "principal"}


def test_letting_callers_in_without_a_certificate_needs_a_tokens_file() -> None:
    with pytest.raises(ConfigurationError, match="tokens_file"):
        HttpConfig(client_certificate="optional")
    with pytest.raises(ConfigurationError, match=r"http\.head_s"):
        HttpConfig(head_s=0)
