"""The files of `deploy/` that people copy: they must say what the code says."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heimdall_server import config as configuration
from heimdall_server.config import Config
from heimdall_server.crypto.key_file import load_key, mint_key
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.wiring.shutdown import CLOSING_S, SHUTDOWN_S

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTING = re.compile(r"#(?=\[|[a-z_]+ = |\"spiffe)")
"""A commented default; a comment or an example without a default has a space behind its #."""
WITHOUT_DEFAULT = {
    "access.roles",
    "http.tokens_file",
    "keys.file",
    "keys.kek",
    "keys.next",
    "keys.value",
    "postgres.cypher_dsn_file",
    "postgres.dsn_file",
    "tls.denied_serials_file",
    "tls.trust",
    "warm.password_file",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HEIMDALL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _load(text: str) -> Config:
    file = Path("example.toml")
    file.write_text(text)
    config, _ = configuration.load(file)
    return config


def test_the_example_as_it_is_changes_nothing() -> None:
    assert _load((DEPLOY / "heimdall.toml.example").read_text()) == configuration.load()[0]


def _uncommented() -> str:
    lines = (DEPLOY / "heimdall.toml.example").read_text().splitlines(keepends=True)
    return "".join(SETTING.sub("", line, count=1) for line in lines)


def test_every_commented_value_of_the_example_is_the_default() -> None:
    loaded, default = _load(_uncommented()).model_dump(), configuration.load()[0].model_dump()
    assert loaded == default


def _leaves(value: Any, place: str = "") -> Iterator[str]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), f"{place}.{field.name}")
    else:
        yield place.removeprefix(".")


def _keys(table: dict[str, Any], place: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield f"{place}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{place}{key}.")


def test_the_example_names_every_setting() -> None:
    config = configuration.load()[0]
    settings = {place for name in Config.model_fields for place in _leaves(getattr(config, name), name)}
    missing = settings - set(_keys(tomllib.loads(_uncommented()))) - WITHOUT_DEFAULT
    assert not missing, f"deploy/heimdall.toml.example lacks {sorted(missing)}"
    text = (DEPLOY / "heimdall.toml.example").read_text()
    assert all(place.rpartition(".")[2] in text for place in WITHOUT_DEFAULT)


def test_every_variable_of_the_example_is_known_and_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    before = configuration.load()[0]
    lines = (DEPLOY / "heimdall.env.example").read_text().splitlines()
    settings = dict(line.removeprefix("#").split("=", 1) for line in lines if re.match(r"#HEIMDALL_\w+=", line))
    assert len(settings) > 8
    del settings["HEIMDALL_CONFIG"]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
        assert name.removeprefix("HEIMDALL_").lower().split("__")[0] in Config.model_fields
    after = configuration.load()[0]
    assert after.key_file == before.key_file
    assert after.model_dump(exclude={"keys"}) == before.model_dump(exclude={"keys"})


def _unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "heimdall.service").read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_systemd_waits_for_the_drain() -> None:
    (seconds,) = _unit()["TimeoutStopSec"]
    assert int(seconds) > max(RpcLimits().drain_s + CLOSING_S, SHUTDOWN_S)


def test_systemd_sets_what_the_server_knows() -> None:
    unit = _unit()
    for assignment in unit["Environment"]:
        name = assignment.partition("=")[0].removeprefix("HEIMDALL_").lower()
        assert name.split("__")[0] in Config.model_fields
    (command,) = unit["ExecStart"]
    assert Path(shlex.split(command)[0]).name == "heimdall-server"
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]


def test_a_credential_that_systemd_hands_over_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = mint_key(tmp_path / "keys" / "root.key")
    path = tmp_path / "keys" / "root.key"
    path.chmod(0o440)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(path)
    # It is root's file there; the group bit stands for the service's entry in the access list.
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert load_key(path) == key
    path.chmod(0o444)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(path)
