from __future__ import annotations

import stat
from pathlib import Path

import pytest

from heimdall_server.crypto.envelope import RootKey, UnsealError
from heimdall_server.crypto.key_file import format_key, load_key, load_or_mint_key, mint_key, parse_key
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError
from tests.support.journal import KEY, OTHER_KEY


def test_a_minted_key_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.key"
    key = mint_key(path)
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["root.key"]


def test_minting_never_replaces_a_key(tmp_path: Path) -> None:
    key = mint_key(tmp_path / "root.key")
    with pytest.raises(ConfigurationError):
        mint_key(tmp_path / "root.key")
    assert load_key(tmp_path / "root.key") == key


def test_a_key_is_minted_only_where_there_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    with pytest.raises(KeyMismatchError):
        load_or_mint_key(path, expected_fingerprint=KEY.fingerprint)
    assert not path.exists()
    key = load_or_mint_key(path, expected_fingerprint=None)
    assert load_or_mint_key(path, expected_fingerprint=None) == key
    assert load_or_mint_key(path, expected_fingerprint=key.fingerprint) == key
    with pytest.raises(KeyMismatchError) as caught:
        load_or_mint_key(path, expected_fingerprint=KEY.fingerprint)
    assert caught.value.found_fingerprint == key.fingerprint


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    mint_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize("text", ["", "x", "heimdall-key-1:", "heimdall-key-1:AAAA", "heimdall-key-1:%%%%", "k" * 5000])
def test_what_is_no_key_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "root.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        load_key(path)
    assert "AAAA" not in str(caught.value)


def test_keys_have_a_text_form() -> None:
    assert parse_key(f" {format_key(KEY)}\n", where="HEIMDALL_KEY") == KEY
    with pytest.raises(ConfigurationError, match="HEIMDALL_KEY"):
        parse_key("nonsense", where="HEIMDALL_KEY")


def test_a_key_never_shows_itself() -> None:
    assert "kkkk" not in repr(KEY)
    assert KEY.fingerprint != OTHER_KEY.fingerprint
    assert len(KEY.fingerprint) == 16


def test_keys_for_different_purposes_differ() -> None:
    assert KEY.derive("tokens") == KEY.derive("tokens")
    assert len({KEY.derive("tokens"), KEY.derive("pages"), OTHER_KEY.derive("tokens"), KEY.secret}) == 4


def test_data_keys_are_wrapped_for_one_context() -> None:
    wrapped = KEY.wrap(b"d" * 32, context=b"here")
    assert KEY.unwrap(wrapped, context=b"here") == b"d" * 32
    assert wrapped != KEY.wrap(b"d" * 32, context=b"here")
    for key, data, context in ((OTHER_KEY, wrapped, b"here"), (KEY, wrapped, b"there"), (KEY, b"", b"here")):
        with pytest.raises(UnsealError):
            key.unwrap(data, context=context)


def test_a_root_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RootKey(b"short")
