"""The keyring: what it seals only it opens, what is destroyed stays destroyed, and a wrong key makes nothing new."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.format_preserving import DOMAIN_SIZE_MIN, Ff1Preserver, smallest_length
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.key_encryption.opening import KeyPlaces, open_keyring, rotate_kek
from heimdall_server.crypto.key_file import mint_key
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import CorruptionError, IntegrityError, KeyDestroyedError, KeyMismatchError
from heimdall_server.domain.personal import SealedValue, TokenName

KEK = LocalKeyEncryption(RootKey(b"k" * 32))
CLASSES = ("email", "phone")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return asyncio.run(Keyring.load(tmp_path_factory.mktemp("ring") / "keyring", KEK, classes=CLASSES))


def sealed(ring: Keyring, value: str, data_class: str = "email") -> SealedValue:
    (one,) = ring.seal(data_class, ring.words(data_class, [value]), [value])
    return one


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300))
def test_what_is_sealed_is_opened_and_says_little_of_its_length(ring: Keyring, value: str) -> None:
    one, other = sealed(ring, value), sealed(ring, value)
    assert ring.open(one) == value
    assert one.sealed != other.sealed
    assert value.encode() not in one.sealed or len(value) < 4
    assert len(sealed(ring, value[:-1]).sealed) in {len(one.sealed), len(one.sealed) - 16}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_bit_is_noticed(ring: Keyring, data: st.DataObject) -> None:
    one = sealed(ring, "alice@example.com")
    at = data.draw(st.integers(0, len(one.sealed) * 8 - 1))
    changed = bytearray(one.sealed)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(IntegrityError):
        ring.open(replace(one, sealed=bytes(changed)))


def test_a_value_is_opened_only_under_its_own_token_class_and_generation(ring: Keyring) -> None:
    alice, bob = sealed(ring, "alice@example.com"), sealed(ring, "bob@example.com")
    for wrong in (
        replace(alice, sealed=bob.sealed),
        replace(alice, name=bob.name),
        replace(alice, name=TokenName("phone", alice.name.word)),
        replace(alice, sealed=alice.sealed[:-1]),
        replace(alice, sealed=b""),
    ):
        with pytest.raises(IntegrityError):
            ring.open(wrong)


async def test_generations_epochs_and_destruction_outlive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    ring = await Keyring.load(path, KEK, classes=CLASSES)
    old = sealed(ring, "alice@example.com")
    assert await ring.new_generation("email") == 2
    new = sealed(ring, "alice@example.com")
    assert new.generation == 2
    first = ring.words("email", ["alice@example.com"])[0]
    await ring.new_epoch()
    assert first in ring.words_of_all_epochs("email", "alice@example.com")
    assert ring.words("email", ["alice@example.com"])[0][0] == "1"
    destroyed_ns = await ring.destroy_generation("email", 1)
    again = await Keyring.load(path, KEK, classes=CLASSES)
    assert await again.destroy_generation("email", 1) == destroyed_ns
    assert again.open(new) == "alice@example.com"
    assert len(again.live_epochs) == 2
    for one in (ring, again):
        with pytest.raises(KeyDestroyedError):
            one.open(old)
    assert await again.verify() == []


async def test_another_kek_or_a_changed_file_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    ring = await Keyring.load(path, KEK, classes=CLASSES)
    before = path.read_bytes()
    with pytest.raises(KeyMismatchError):
        await Keyring.load(path, LocalKeyEncryption(RootKey(b"x" * 32)), classes=CLASSES)
    assert path.read_bytes() == before
    text = before.decode().replace('"email"', '"phone"', 1)
    path.write_bytes(text.encode())
    with pytest.raises((CorruptionError, KeyMismatchError)):
        await Keyring.load(path, KEK, classes=CLASSES)
    path.unlink()
    with pytest.raises(KeyMismatchError):
        await Keyring.load(path, KEK, classes=CLASSES, expected_fingerprint=ring.root.fingerprint)
    assert not path.exists()


async def test_a_rewrapped_ring_opens_under_the_new_key_only(tmp_path: Path) -> None:
    path, other = tmp_path / "keyring", LocalKeyEncryption(RootKey(b"n" * 32))
    ring = await Keyring.load(path, KEK, classes=CLASSES)
    one = sealed(ring, "alice@example.com")
    await ring.rewrap(other)
    assert (await Keyring.load(path, other, classes=CLASSES)).open(one) == "alice@example.com"
    with pytest.raises(KeyMismatchError):
        await Keyring.load(path, KEK, classes=CLASSES)


async def test_a_folder_from_before_keyrings_keeps_its_root_and_its_key_file_rotates(tmp_path: Path) -> None:
    keys, data = tmp_path / "keys", tmp_path / "data"
    keys.mkdir()
    data.mkdir()
    root = mint_key(keys / "root.key")
    places = KeyPlaces(keys / "keyring", keys / "root.key", data / "keyring.id", root.fingerprint)
    opened = await open_keyring(KekConfig(), places, classes=CLASSES)
    assert opened.keyring.root.fingerprint == root.fingerprint
    one = sealed(opened.keyring, "alice@example.com")
    before = (keys / "root.key").read_bytes()
    await rotate_kek(opened, places)
    assert (keys / "root.key").read_bytes() != before
    again = await open_keyring(KekConfig(), places, classes=CLASSES)
    assert again.keyring.root.fingerprint == root.fingerprint
    assert again.keyring.open(one) == "alice@example.com"
    (keys / "keyring").unlink()
    with pytest.raises(KeyMismatchError):
        await open_keyring(KekConfig(), places, classes=CLASSES)


def test_tokens_are_deterministic_by_class_and_never_the_value(ring: Keyring) -> None:
    values = [f"user{n}@example.com" for n in range(500)]
    words = ring.words("email", values)
    assert words == ring.words("email", values)
    assert len(set(words)) == 500
    assert not set(words) & set(ring.words("phone", values))
    assert all(TokenName.parse(f"[email:{word}]") for word in words)
    assert all(len(digest) == 32 for digest in ring.digests("email", values[:3]))


def test_vectors_of_the_primitives() -> None:
    # NIST GCM, test case 16 of the GCM specification (AES-256, with associated data).
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
        "b16aedf5aa0de657ba637b39"
    )
    sealed_text = AESGCM(key).encrypt(
        bytes.fromhex("cafebabefacedbaddecaf888"), plain, bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    )
    assert sealed_text[-16:].hex() == "76fc6ece0f4e1768cddf8853bb2d551b"
    # RFC 5869, test case 1.
    derived = HKDF(SHA256(), 42, bytes.fromhex("000102030405060708090a0b0c"), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))
    assert (
        derived.derive(b"\x0b" * 22)
        .hex()
        .startswith("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
    )
    # RFC 4231, test case 2.
    assert hmac.digest(b"Jefe", b"what do ya want for nothing?", hashlib.sha256).hex().startswith("5bdcc146bf60754e")


def test_ff1_passes_nists_samples() -> None:
    fastfpe = pytest.importorskip("fastfpe")
    key = "2B7E151628AED2A6ABF7158809CF4F3C"
    digits = "0123456789"
    letters = digits + "abcdefghijklmnopqrstuvwxyz"
    samples = [
        (key, "", "0123456789", digits, "2433477484"),
        (key, "39383736353433323130", "0123456789", digits, "6124200773"),
        (key, "3737373770717273373737", "0123456789abcdefghi", letters, "a9tv40mll9kdu509eum"),
        (key + "EF4359D8D580AA4F", "", "0123456789", digits, "2830668132"),
        (key + "EF4359D8D580AA4F", "39383736353433323130", "0123456789", digits, "2496655549"),
        (key + "EF4359D8D580AA4F7F036D6F04FC6A94", "", "0123456789", digits, "6657667009"),
        (key + "EF4359D8D580AA4F7F036D6F04FC6A94", "39383736353433323130", "0123456789", digits, "1001623463"),
        (key + "EF4359D8D580AA4F", "3737373770717273373737", "0123456789abcdefghi", letters, "xbj3kv35jrawxv32ysr"),
        (
            key + "EF4359D8D580AA4F7F036D6F04FC6A94",
            "3737373770717273373737",
            "0123456789abcdefghi",
            letters,
            "xs8a0azh2avyalyzuwd",
        ),
    ]
    for secret, tweak, plain, alphabet, expected in samples:
        assert fastfpe.ff1.encrypt(secret, tweak, alphabet, plain) == expected
        assert fastfpe.ff1.decrypt(secret, tweak, alphabet, expected) == plain


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{4}", fullmatch=True))
def test_a_preserved_value_keeps_its_form_and_comes_back(value: str) -> None:
    preserver = Ff1Preserver(lambda purpose: hashlib.sha256(purpose.encode()).digest())
    (hidden,) = preserver.encrypt("card", [value])
    assert hidden is not None
    assert [c if c == "-" else "0" for c in hidden] == [c if c == "-" else "0" for c in value]
    assert preserver.decrypt("card", [hidden]) == [value]
    assert preserver.encrypt("card", ["123"]) == [None]
    assert 10 ** smallest_length("0123456789") >= DOMAIN_SIZE_MIN
