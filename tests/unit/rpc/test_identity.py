"""The second check of a client certificate."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from heimdall_server.crypto.certificates import LeafNames, mint_authority, mint_leaf
from heimdall_server.domain.errors import ConfigurationError, UnauthenticatedError
from heimdall_server.domain.identity import SpiffeId
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.tls_files import TlsFiles, read_denied_serials
from tests.support.pki import TRUST_DOMAIN, Pki


def test_certificate_gives_a_principal_without_roles(pki: Pki) -> None:
    pair = pki.leaf("bo")
    principal = IdentityVerifier(pki.tls_files()).principal_of({"x509_pem_cert": [pair.certificate_pem]}, peer="p")
    assert principal.uri == f"spiffe://{TRUST_DOMAIN}/client/bo"
    assert (principal.trust_domain, principal.kind, principal.name) == (TRUST_DOMAIN, "client", "bo")
    assert len(principal.fingerprint) == 64
    assert not principal.roles


def test_no_certificate_is_refused(pki: Pki) -> None:
    with pytest.raises(UnauthenticatedError, match="there is none"):
        IdentityVerifier(pki.tls_files()).principal_of({}, peer="p")


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(pki: Pki, pem: bytes) -> None:
    with pytest.raises(UnauthenticatedError, match="can't be read"):
        IdentityVerifier(pki.tls_files()).verify(pem, peer="p")


def test_unknown_trust_domain_and_unknown_authority_are_refused(
    pki: Pki, make_pki: Callable[[str], Pki], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    verifier = IdentityVerifier(pki.tls_files())
    with pytest.raises(UnauthenticatedError, match="isn't trusted here"):
        verifier.verify(make_pki("other.example").leaf("bo").certificate_pem, peer="ipv4:1.2.3.4:5")
    with pytest.raises(UnauthenticatedError, match="not signed by an authority"):
        verifier.verify(make_pki(TRUST_DOMAIN).leaf("bo").certificate_pem, peer="ipv4:1.2.3.4:5")
    assert [vars(record)["peer"] for record in caplog.records] == ["ipv4:1.2.3.4:5"] * 2


def test_validity_is_looked_at_again_while_a_certificate_is_remembered(pki: Pki) -> None:
    now = dt.datetime.now(dt.UTC)
    clock = [now]
    verifier = IdentityVerifier(pki.tls_files(), now=lambda: clock[0])
    future = mint_leaf(pki.authority, LeafNames(SpiffeId(TRUST_DOMAIN, "client", "f")), now=now + dt.timedelta(days=1))
    with pytest.raises(UnauthenticatedError, match="not valid yet"):
        verifier.verify(future.certificate_pem, peer="p")
    soon = pki.leaf("s", days=0.0000001)
    clock[0] = now + dt.timedelta(days=2)
    with pytest.raises(UnauthenticatedError, match="expired"):
        verifier.verify(soon.certificate_pem, peer="p")


def test_expired_authority_vouches_for_nobody(pki: Pki, tmp_path: Path) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=9)
    old = mint_authority("old.example", now=past, lifetime_days=3)
    (tmp_path / "old.pem").write_bytes(old.certificate_pem)
    files = TlsFiles(pki.tls_config(folder="old", **{"old.example": tmp_path / "old.pem"}))
    names = LeafNames(SpiffeId("old.example", "client", "a"))
    with pytest.raises(ConfigurationError, match="expired"):
        mint_leaf(old, names)
    leaf = mint_leaf(old, names, now=past)
    with pytest.raises(UnauthenticatedError, match="not signed by"):
        IdentityVerifier(files).verify(leaf.certificate_pem, peer="p")


def test_an_authority_is_not_a_client(pki: Pki) -> None:
    with pytest.raises(UnauthenticatedError):
        IdentityVerifier(pki.tls_files()).verify(pki.authority.certificate_pem, peer="p")


def test_remembered_certificates_are_bounded(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.rpc.identity._CACHE_SIZE", 2)
    verifier = IdentityVerifier(pki.tls_files())
    for name in ("a", "b", "c", "d"):
        verifier.verify(pki.leaf(name).certificate_pem, peer="p")
    assert len(verifier._found) == 2


def test_deny_list_takes_comments_and_colons_and_names_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    path.write_text("# lost\n0A:ff\n\n 12 # stolen\n")
    assert read_denied_serials(path) == {0x0AFF, 0x12}
    path.write_text("xyz\n1\nnope\n")
    with pytest.raises(ConfigurationError) as caught:
        read_denied_serials(path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["1", "3"]
    with pytest.raises(ConfigurationError):
        read_denied_serials(tmp_path / "none")


def test_files_are_looked_at_no_more_than_once_a_second(pki: Pki) -> None:
    clock = [0.0]
    files = TlsFiles(pki.tls_config(folder="polled"), monotonic_s=lambda: clock[0])
    pki.write("polled", pki.server_leaf())
    assert files.current.version == 1
    clock[0] = 1.0
    assert files.current.version == 2
    pki.write("polled", pki.server_leaf())
    assert files.refresh().version == 3
