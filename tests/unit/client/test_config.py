from __future__ import annotations

from pathlib import Path

import pytest

from heimdall_client import ConfigError, load_config
from tests.support.pki import Pki
from tests.support.sdk_server import client_config


@pytest.fixture
def folder(pki: Pki, tmp_path: Path) -> Path:
    """A project folder with a `.heimdall/client.toml` and its files."""
    config = client_config(pki, "config")
    target = tmp_path / "project" / ".heimdall"
    target.mkdir(parents=True)
    (target / "ca.pem").write_bytes(config.ca_file.read_bytes())
    (target / "cert.pem").write_bytes(config.cert_file.read_bytes())
    (target / "key.pem").write_bytes(config.key_file.read_bytes())
    write(target / "client.toml", address="project:7443")
    return target.parent


def write(path: Path, *, address: str, prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'address = "{address}"\nca_file = "{prefix}ca.pem"\ncert_file = "{prefix}cert.pem"\nkey_file = "{prefix}key.pem"\n'
    )


def environ(home: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(home), **variables}


def test_file_is_found_from_any_folder_below(folder: Path, tmp_path: Path) -> None:
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    config = load_config(cwd=below, environ=environ(tmp_path))
    assert config.address == "project:7443"
    assert config.key_file == folder / ".heimdall" / "key.pem"
    assert config.origin == str(folder / ".heimdall" / "client.toml")


def test_project_comes_before_the_users_own_file(folder: Path, tmp_path: Path) -> None:
    prefix = str(folder / ".heimdall") + "/"
    write(tmp_path / ".config" / "heimdall" / "client.toml", address="user:7443", prefix=prefix)
    assert load_config(cwd=folder, environ=environ(tmp_path)).address == "project:7443"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_config(cwd=elsewhere, environ=environ(tmp_path)).address == "user:7443"


def test_variables_replace_the_file_and_arguments_replace_both(folder: Path, tmp_path: Path) -> None:
    variables = environ(tmp_path, HEIMDALL_ADDRESS="variable:7443", HEIMDALL_KEY_FILE=".heimdall/key.pem")
    assert load_config(cwd=folder, environ=variables).address == "variable:7443"
    config = load_config(address="argument:7443", cwd=folder, environ=variables)
    assert config.address == "argument:7443"
    assert config.key_file == folder / ".heimdall" / "key.pem"


def test_variables_alone_are_enough(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = {f"HEIMDALL_{key.upper()}_FILE": str(folder / ".heimdall" / f"{key}.pem") for key in ("ca", "cert", "key")}
    config = load_config(cwd=elsewhere, environ=environ(tmp_path, HEIMDALL_ADDRESS="v:1", **files))
    assert config.address == "v:1"


def test_nothing_found_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(cwd=tmp_path, environ=environ(tmp_path))
    text = str(raised.value)
    for part in (
        ".heimdall/client.toml",
        ".config/heimdall/client.toml",
        "HEIMDALL_CERT_FILE",
        "make up",
        "certs issue",
    ):
        assert part in text


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text('adress = "typo:1"\nca_file = 7\ncert_file = "missing.pem"\n')
    with pytest.raises(ConfigError) as raised:
        load_config(config_file=path, cwd=tmp_path, environ=environ(tmp_path))
    problems = raised.value.problems
    assert any("unknown key 'adress'" in problem for problem in problems)
    assert any("ca_file must be a text" in problem for problem in problems)
    assert any("missing.pem doesn't exist" in problem for problem in problems)
    assert any(problem.startswith("address is missing") for problem in problems)
    assert any(problem.startswith("key_file is missing") for problem in problems)


def test_files_that_do_not_fit_are_told_before_the_first_call(folder: Path, pki: Pki, tmp_path: Path) -> None:
    other = client_config(pki, "other")
    with pytest.raises(ConfigError, match="aren't a PEM certificate and its key"):
        load_config(key_file=other.key_file, cwd=folder, environ=environ(tmp_path))
    (folder / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"ca_file: junk\.pem can't be read as PEM"):
        load_config(ca_file="junk.pem", cwd=folder, environ=environ(tmp_path))


def test_a_named_file_that_can_not_be_read_is_the_only_problem_told(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text("address = ")
    for name, problem in (("client.toml", "can't be read"), ("none.toml", "doesn't exist"), (".", "can't be read")):
        with pytest.raises(ConfigError, match=problem) as raised:
            load_config(config_file=tmp_path / name, environ=environ(tmp_path))
        assert len(raised.value.problems) == 1
