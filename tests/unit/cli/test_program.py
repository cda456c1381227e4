from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import heimdall_client
from heimdall_client.cli import plugins, program
from heimdall_client.cli.exits import MEANINGS, ExitCode
from tests.support import cli

COMMANDS = (
    ("ingest",),
    ("query",),
    ("watch",),
    ("context",),
    ("explain",),
    ("fields",),
    ("status",),
    ("datasets",),
    ("dead-letters", "list"),
    ("dead-letters", "retry"),
    ("dead-letters", "delete"),
    ("samples",),
    ("version",),
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_explains_itself_with_an_example(words: tuple[str, ...]) -> None:
    outcome = cli.invoke(*words, "--help")
    assert outcome.code == ExitCode.OK
    assert "--output" in outcome.out
    assert f"$ heimdall {' '.join(words)}" in outcome.out


def test_help_lists_every_command_and_exit_code() -> None:
    outcome = cli.invoke("--help")
    assert outcome.code == ExitCode.OK
    for word in {words[0] for words in COMMANDS} | {"certs", "config", "tokens"}:
        assert f" {word} " in outcome.out
    for code, meaning in MEANINGS.items():
        assert f"{code.value}  {meaning}" in outcome.out
    assert set(MEANINGS) == set(ExitCode)


def test_help_loads_neither_grpc_nor_arrow_nor_the_server() -> None:
    script = (
        "import sys\n"
        "from heimdall_client.cli.program import run\n"
        "run(['--help'])\n"
        "print(sorted({'grpc', 'pyarrow', 'google', 'heimdall_server', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_the_sdk_exports_is_loaded_at_its_first_use() -> None:
    assert set(heimdall_client._HOMES) == set(heimdall_client.__all__)
    for name in heimdall_client.__all__:
        assert getattr(heimdall_client, name) is not None
    assert set(heimdall_client.__all__) <= set(dir(heimdall_client))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(heimdall_client, "nothing")  # noqa: B009 - a name that type checkers needn't look for


def test_without_a_command_help_is_shown() -> None:
    outcome = cli.invoke()
    assert outcome.code == ExitCode.USAGE
    assert "Usage: heimdall" in outcome.out + outcome.err


def test_an_unknown_command_is_a_usage_error() -> None:
    outcome = cli.invoke("qurey", "x")
    assert outcome.code == ExitCode.USAGE
    assert "qurey" in outcome.err


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_the_version_is_told_without_a_server(words: tuple[str, ...]) -> None:
    outcome = cli.invoke(*words)
    assert outcome.code == ExitCode.OK
    assert outcome.out.startswith("heimdall ")


def test_the_version_is_told_as_json() -> None:
    assert set(cli.invoke("version", "-o", "json").json()) == {"version", "python"}


def test_a_group_of_another_package_is_loaded_when_it_is_used() -> None:
    outcome = cli.invoke("certs", "issue", "--help")
    assert outcome.code == ExitCode.OK
    assert "heimdall certs issue" in outcome.out
    assert "--install-completion" not in cli.invoke("certs", "--help").out


def test_a_group_whose_package_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("certs", "heimdall_server.not_there:app", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [point])
    outcome = cli.invoke("certs", "init")
    assert outcome.code == ExitCode.USAGE
    assert "pip install 'heimdall-mesh[server]'" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_group_of_a_stranger_gets_a_help_line_and_no_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("weather", "acme.weather:app", plugins.GROUP),
        EntryPoint("query", "acme.q:app", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda **_: points)
    group = program.command()
    assert group.commands["weather"].help == "Commands of acme."
    assert not isinstance(group.commands["query"], plugins.LazyGroup)


def test_completion_knows_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HEIMDALL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "heimdall da")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli.invoke().out.split() == ["datasets"]
    monkeypatch.setenv("COMP_WORDS", "heimdall query --cons")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert cli.invoke().out.split() == ["--consistent"]
    monkeypatch.setenv("COMP_WORDS", "heimdall certs re")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert cli.invoke().out.split() == ["renew"]


def test_without_a_configuration_the_error_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for key in ("ADDRESS", "CA_FILE", "CERT_FILE", "KEY_FILE"):
        monkeypatch.delenv(f"HEIMDALL_{key}", raising=False)
    outcome = cli.invoke("status")
    assert outcome.code == ExitCode.USAGE
    assert "make up" in outcome.err
    assert str(tmp_path / ".heimdall" / "client.toml") in outcome.err


def test_options_of_the_connection_stand_before_or_behind_the_command(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    before = cli.invoke("--config", missing, "status")
    behind = cli.invoke("status", "--config", missing)
    assert before.code == behind.code == ExitCode.USAGE
    assert before.err == behind.err
    assert "doesn't exist" in before.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query", "x", "--since", "yesterday"), "isn't a time"),
        (("query", "x", "--until", "2024-01-01T00:00:00"), "has no zone"),
        (("query", "x", "-o", "xml"), "xml"),
        (("query", "x", "-n", "-1"), "--limit"),
        (("watch", "x", "--every", "5"), "isn't a span of time"),
        (("watch", "x", "--every", "1ms"), "at least 100ms"),
        (("watch", "x", "--since", "1h", "--last", "3"), "exclude one another"),
        (("context", "12"), "shard-position-row"),
        (("context", "1-2-99999999999999999999"), "shard-position-row"),
        (("fields", "--where", "x"), "goes with a FIELD"),
        (("dead-letters", "retry"), "or give --all"),
        (("dead-letters", "delete", "1-0"), "give --yes"),
        (("dead-letters", "delete"), "Missing argument"),
        (("ingest", "a", "a"), "named twice"),
        (("ingest", "a", "b", "--dump", "d"), "name one file"),
        (("ingest", "-", "--dump", "d"), "read twice"),
        (("ingest", "-", "--follow"), "takes files"),
        (("ingest", "a", "--follow", "--source", "s"), "source of its own"),
        (("ingest", "a", "--format", "csv", "--pattern", "syslog"), "pattern is for text"),
        (("ingest", "a", "--format-option", "x"), "KEY=VALUE"),
        (("ingest", "a", "--format-option", "x=1"), "give --format"),
        (("ingest",), "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_sent(arguments: tuple[str, ...], said: str) -> None:
    outcome = cli.invoke(*arguments)
    assert outcome.code == ExitCode.USAGE
    assert said in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("version", "-o", "json"), ("--help",)], ids=" ".join)
def test_output_that_can_not_be_written_is_told_without_a_traceback(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*cli.COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "error: can't write the output: No space left on device\n"


def test_the_program_keeps_grpc_quiet_unless_told_otherwise() -> None:
    script = (
        "import os, sys\n"
        "from heimdall_client.cli import main\n"
        "sys.argv = ['heimdall', 'version']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(os.environ['GRPC_VERBOSITY'])"
    )
    bare = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    for environment, said in ((bare, "ERROR"), ({**bare, "GRPC_VERBOSITY": "DEBUG"}, "DEBUG")):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == said


def test_certificates_without_an_authority_name_the_option_for_its_folder(tmp_path: Path) -> None:
    outcome = cli.invoke("certs", "issue", "a", "--dir", tmp_path / "nowhere")
    assert outcome.code == ExitCode.FAILED
    assert "No such file" in outcome.err
    assert "with --dir" in outcome.err
