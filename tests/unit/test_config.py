"""Loading the configuration: sources, strictness, every problem at once, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from heimdall_server.config import REDACTED, load
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.protector import PolicyProtector


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEIMDALL_CONFIG", raising=False)
    monkeypatch.delenv("HEIMDALL_DATA_DIR", raising=False)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_variables_win_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "h.toml", "[journal]\nage_max_s = 60.0\n[limits]\nwatches_per_stream_max = 3\n")
    monkeypatch.setenv("HEIMDALL_LIMITS__WATCHES_PER_STREAM_MAX", "5")
    config, files = load(file)
    assert config.journal.age_max_s == 60.0
    assert config.limits.watches_per_stream_max == 5
    assert files == (str(file),)


def test_the_file_in_the_data_folder_is_read_whether_or_not_the_command_line_names_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".heimdall").mkdir()
    write(tmp_path / ".heimdall" / "heimdall.toml", "[journal]\nage_max_s = 60.0\n")
    for overrides in ({}, {"data_dir": None}, {"data_dir": tmp_path / ".heimdall"}):
        config, files = load(**overrides)
        assert config.journal.age_max_s == 60.0
        assert len(files) == 1


def test_paths_follow_the_data_folder(tmp_path: Path) -> None:
    config, _ = load(write(tmp_path / "h.toml", 'data_dir = "/var/lib/heimdall"\n'))
    assert config.journal.path == Path("/var/lib/heimdall/journal")
    assert config.tls.certificate_file == Path("/var/lib/heimdall/certs/server.pem")
    assert config.key_file == Path("/var/lib/heimdall/keys/root.key")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "h.toml",
        """
        colour = "blue"
        [limits]
        watches_per_stream_max = -1
        [journal]
        bytes_maxx = 1
        [[privacy.rules]]
        class = "email"
        [datasets.BAD]
        retention_days = 1
        [warm]
        engine = "clickhouse"
        """,
    )
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    told = "\n".join(caught.value.problems)
    for place in (
        "colour",
        "limits.watches_per_stream_max",
        "journal.bytes_maxx",
        "privacy.rules[0]",
        "datasets.BAD",
        "warm.host",
    ):
        assert place in told


def test_what_is_shown_can_be_loaded_again_and_hides_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_KEYS__VALUE", "secret-secret")
    config, _ = load()
    shown = config.to_toml()
    assert REDACTED in shown
    assert "secret-secret" not in shown
    monkeypatch.delenv("HEIMDALL_KEYS__VALUE")
    again, _ = load(write(tmp_path / "again.toml", shown))
    assert again.privacy == config.privacy
    assert again.datasets == config.datasets
    assert again.limits == config.limits


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"h\.toml"):
        load(write(tmp_path / "h.toml", "not toml ="))


def test_a_named_dataset_keeps_the_defaults_it_does_not_change(tmp_path: Path) -> None:
    config, _ = load(write(tmp_path / "h.toml", "[datasets.dumps]\nretention_days = 7\n[datasets.audit]\n"))
    assert config.datasets["dumps"].retention_days == 7
    assert config.datasets["dumps"].partition_unit == "month"
    assert {"logs", "dumps", "samples", "audit"} == set(config.datasets)


def test_a_mistyped_variable_and_an_address_that_is_none_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_JOURNALL__BYTES_MAX", "5")
    monkeypatch.setenv("HEIMDALL_LISTEN__MESH_ADDRESS", "nonsense")
    with pytest.raises(ConfigurationError) as caught:
        load()
    told = "\n".join(caught.value.problems)
    assert "HEIMDALL_JOURNALL__BYTES_MAX" in told
    assert "listen.mesh_address" in told


def test_not_looking_thoroughly_needs_no_other_rules_and_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "heimdall.toml"
    file.write_text("[privacy]\nthorough = false\n")
    policy = load(file)[0].privacy
    assert not policy.thorough
    assert load()[0].privacy.thorough
    assert policy.is_default
    assert PolicyProtector(policy).policy == policy
    file.write_text('[privacy]\nrules = [{ action = "keep", class = "ip*" }, { action = "mask" }]\n')
    assert not load(file)[0].privacy.is_default, "who wrote the default rules chose them"
    assert load()[0].privacy.is_default


def test_a_key_of_a_service_is_read_from_the_file_and_from_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[keys.kek]\nkind = "aws_kms"\naws_key_id = "alias/heimdall"\n[keys.next]\nfile = "/etc/heimdall/next.key"\n'
    file = write(tmp_path / "h.toml", text)
    monkeypatch.setenv("HEIMDALL_KEYS__KEK__AWS_REGION", "eu-central-1")
    config, _ = load(file)
    assert (config.keys.in_use.kind, config.keys.in_use.aws_key_id) == ("aws_kms", "alias/heimdall")
    assert config.keys.in_use.aws_region == "eu-central-1"
    assert config.keys.next is not None
    assert config.keys.next.file == Path("/etc/heimdall/next.key")
    monkeypatch.delenv("HEIMDALL_KEYS__KEK__AWS_REGION")
    again, _ = load(write(tmp_path / "again.toml", config.to_toml()))
    assert again.keys == config.keys


def test_keys_that_do_not_go_together_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_KEYS__VALUE", "secret-secret")
    file = write(
        tmp_path / "h.toml",
        """
        [keys.kek]
        kind = "vault_transit"
        vault_address = "http://vault.example.com"
        [keys.next]
        kind = "aws_kms"
        deadline_s = 0
        colour = "blue"
        """,
    )
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    told = "\n".join(caught.value.problems)
    for problem in ("keys.kek: vault_key: kind 'vault_transit' needs it", "use https", "colour"):
        assert problem in told
    assert "secret-secret" not in told
    with pytest.raises(ConfigurationError, match=r"keys\.value: keys\.kek names the key"):
        load(write(file, '[keys.kek]\nkind = "aws_kms"\naws_key_id = "k"\n'))
    monkeypatch.delenv("HEIMDALL_KEYS__VALUE")
    same = 'kind = "aws_kms"\naws_key_id = "k"\n'
    with pytest.raises(ConfigurationError, match=r"keys\.next: is the key of now"):
        load(write(file, f"[keys.kek]\n{same}[keys.next]\n{same}"))
