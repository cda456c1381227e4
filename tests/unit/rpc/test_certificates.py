"""Minting, files, and the `heimdall certs` command."""

from __future__ import annotations

import datetime as dt
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from heimdall_server.crypto.certificate_files import (
    CertificateFolder,
    key_path,
    read_certificates,
    read_key,
    write_atomically,
)
from heimdall_server.crypto.certificates import (
    LeafNames,
    authority_trust_domain,
    leaf_names,
    mint_authority,
    mint_leaf,
    remaining_share,
)
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError
from heimdall_server.domain.identity import SpiffeId
from heimdall_server.rpc.certs_command import app
from heimdall_server.rpc.tls_files import TlsConfig, load

AUTHORITY = mint_authority("td.example")


def run(*arguments: object, code: int = 0) -> str:
    """Run `heimdall certs …`; returns what it says."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


def run_json(*arguments: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*arguments, "--output", "json"))
    return answer


@settings(max_examples=30)
@given(
    dns=st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,6})?", fullmatch=True), max_size=3, unique=True),
    ips=st.lists(st.ip_addresses(), max_size=3, unique=True),
)
def test_leaf_says_what_it_was_minted_with(dns: list[str], ips: list[Any]) -> None:
    names = LeafNames(SpiffeId("td.example", "server", "a"), tuple(dns), tuple(ips))
    leaf = mint_leaf(AUTHORITY, names).certificate
    assert leaf_names(leaf) == names
    leaf.verify_directly_issued_by(AUTHORITY.certificate)


def test_authority_is_held_to_its_trust_domain() -> None:
    assert authority_trust_domain(AUTHORITY.certificate) == "td.example"
    with pytest.raises(InvalidArgumentError):
        mint_leaf(AUTHORITY, LeafNames(SpiffeId("other.example", "client", "a")))
    leaf = mint_leaf(AUTHORITY, LeafNames(SpiffeId("td.example", "client", "a")))
    with pytest.raises(ConfigurationError):
        authority_trust_domain(leaf.certificate)


def test_leaf_does_not_outlive_its_authority() -> None:
    authority = mint_authority("td.example", lifetime_days=2)
    leaf = mint_leaf(authority, LeafNames(SpiffeId("td.example", "client", "a")), lifetime_days=90)
    assert leaf.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_init_makes_what_a_server_and_a_client_need_and_is_idempotent(tmp_path: Path) -> None:
    folder = tmp_path / "heimdall" / "certs"
    first = run_json("init", "--dir", folder)
    assert first["written"] == [str(folder / f"{name}.pem") for name in ("ca", "server", "client")]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run_json("init", "--dir", folder)["written"] == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    load(TlsConfig(folder / "server.pem", folder / "server-key.pem", {"heimdall.local": folder / "ca.pem"}))
    assert (
        str(leaf_names(read_certificates(folder / "client.pem")[0]).identity) == "spiffe://heimdall.local/client/admin"
    )
    settings = tomllib.loads((folder.parent / "client.toml").read_text())
    assert settings == {
        "address": "127.0.0.1:7443",
        "ca_file": "certs/ca.pem",
        "cert_file": "certs/client.pem",
        "key_file": "certs/client-key.pem",
    }
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if path.stem.endswith("-key") else 0o644)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_init_adds_names_to_the_server_and_never_loses_any(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path)
    assert run_json("init", "--dir", tmp_path, "--dns", "a.example", "--ip", "10.0.0.7")["written"]
    assert run_json("init", "--dir", tmp_path, "--dns", "b.example")["written"]
    assert run_json("init", "--dir", tmp_path)["written"] == []
    names = leaf_names(read_certificates(tmp_path / "server.pem")[0])
    assert set(names.dns) == {"localhost", "a.example", "b.example"}
    assert {str(ip) for ip in names.ips} == {"127.0.0.1", "::1", "10.0.0.7"}


def test_init_mints_no_second_authority_over_half_of_one(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path)
    (tmp_path / "ca-key.pem").unlink()
    output = run("init", "--dir", tmp_path, code=1)
    assert "ca-key.pem" in output
    assert not (tmp_path / "ca-key.pem").exists()


def test_issue_makes_a_folder_to_hand_over(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path, "--trust-domain", "td.example")
    answer = run_json("issue", "shipper", "--dir", tmp_path, "--days", "7", "--address", "log.example:7443")
    assert answer["uri"] == "spiffe://td.example/client/shipper"
    folder = tmp_path / "issued" / "shipper"
    settings = tomllib.loads((folder / "client.toml").read_text())
    assert settings.pop("address") == "log.example:7443"
    assert all((folder / name).exists() for name in settings.values())
    certificate = read_certificates(folder / "shipper.pem")[0]
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert dt.timedelta(days=7) <= life < dt.timedelta(days=8)
    assert read_key(folder / "shipper-key.pem").public_key() == certificate.public_key()


@pytest.mark.parametrize(
    "arguments",
    [("Bad Name",), ("ca",), ("x-key",), ("../x",), ("srv", "--kind", "server"), ("srv", "--ip", "nope")],
)
def test_issue_refuses_what_it_cannot_mint(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run("init", "--dir", tmp_path)
    assert "error: " in run("issue", *arguments, "--dir", tmp_path, code=1)


def test_issue_without_an_authority_says_what_to_do(tmp_path: Path) -> None:
    assert "No such file" in run("issue", "a", "--dir", tmp_path / "nowhere", code=1)


def test_renew_takes_only_old_leaves_and_keeps_their_names(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path, "--dns", "a.example")
    folder = CertificateFolder(tmp_path)
    assert folder.renew() == []
    path = tmp_path / "server.pem"
    old = read_certificates(path)[0]
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=70)
    folder.write_leaf(path, mint_leaf(folder.authority(), leaf_names(old), now=past, lifetime_days=90))
    assert run_json("renew", "--dir", tmp_path)["renewed"] == [str(path)]
    new = read_certificates(path)[0]
    assert leaf_names(new) == leaf_names(old)
    assert remaining_share(new) > 0.99
    assert len(run_json("renew", "--dir", tmp_path, "--force")["renewed"]) == 2


def test_show_tells_holder_and_serial(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path)
    (shown,) = run_json("show", tmp_path / "server.pem")["certificates"]
    assert shown["uri"] == "spiffe://heimdall.local/server/heimdall"
    assert int(shown["serial"], 16) == read_certificates(tmp_path / "server.pem")[0].serial_number
    assert "ECDSA secp256r1" in run("show", tmp_path / "ca.pem")
    assert "not a PEM certificate" in run("show", Path(__file__), code=1)


def test_only_what_mints_reads_the_authoritys_key(tmp_path: Path) -> None:
    run("init", "--dir", tmp_path)
    (tmp_path / "ca-key.pem").unlink()
    run("show", tmp_path / "ca.pem")
    load(TlsConfig(tmp_path / "server.pem", tmp_path / "server-key.pem", {"heimdall.local": tmp_path / "ca.pem"}))


def test_file_is_replaced_whole_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pem"
    write_atomically(path, b"1", mode=0o600)
    write_atomically(path, b"2", mode=0o600)
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(target, b"3")
    assert {item.name for item in tmp_path.iterdir()} == {"new", "folder"}


def test_certificate_without_a_name_is_told(tmp_path: Path) -> None:
    assert isinstance(AUTHORITY.certificate, x509.Certificate)
    with pytest.raises(InvalidArgumentError, match="exactly one URI"):
        leaf_names(AUTHORITY.certificate)
    folder = CertificateFolder(tmp_path)
    folder.write_leaf(tmp_path / "ca.pem", AUTHORITY)
    folder.write_leaf(tmp_path / "odd.pem", AUTHORITY)
    with pytest.raises(ConfigurationError, match=r"odd\.pem"):
        folder.renew(force=True)
    assert key_path(tmp_path / "odd.pem").exists()
