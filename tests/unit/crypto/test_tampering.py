"""What is sealed and what wraps keys is authenticated to the last byte; a file that is replaced is whole at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.crypto import keyring_file
from heimdall_server.crypto.envelope import TAG_BYTES, DataCipher, RootKey, UnsealError
from heimdall_server.crypto.key_encryption import opening
from heimdall_server.crypto.key_encryption.config import KekConfig
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.crypto.keyring_file import KeyringFile
from heimdall_server.domain.errors import CorruptionError, HeimdallError, IntegrityError, KeyMismatchError
from heimdall_server.domain.personal import SealedValue, TokenName

KEK = LocalKeyEncryption(RootKey(b"k" * 32))
CLASSES = ("email", "phone")
ALICE, BOB = "alice@example.com", "bob@example.org"
ZERO_KEY = "00" * 32


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return asyncio.run(Keyring.load(tmp_path_factory.mktemp("ring") / "keyring", KEK, classes=CLASSES))


def sealed(ring: Keyring, value: str, data_class: str = "email") -> SealedValue:
    (one,) = ring.seal(data_class, ring.words(data_class, [value]), [value])
    return one


def test_every_flipped_byte_of_a_sealed_value_is_noticed(ring: Keyring) -> None:
    one = sealed(ring, ALICE)
    for at, mask in itertools.product(range(len(one.sealed)), (0x01, 0x80, 0xFF)):
        changed = bytearray(one.sealed)
        changed[at] ^= mask
        with pytest.raises(IntegrityError) as told:
            ring.open(replace(one, sealed=bytes(changed)))
        assert ALICE not in str(told.value)


def test_every_truncation_and_every_byte_more_is_noticed(ring: Keyring) -> None:
    one = sealed(ring, ALICE)
    for length in range(len(one.sealed)):
        with pytest.raises(IntegrityError):
            ring.open(replace(one, sealed=one.sealed[:length]))
    with pytest.raises(IntegrityError):
        ring.open(replace(one, sealed=one.sealed + b"\0"))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=4, unique=True))
def test_no_sealed_value_stands_in_for_another_of_any_class(ring: Keyring, values: list[str]) -> None:
    some = [sealed(ring, value, data_class) for value in values for data_class in CLASSES]
    for mine, other in itertools.permutations(some, 2):
        with pytest.raises(IntegrityError):
            ring.open(replace(mine, sealed=other.sealed))
    for mine in some:
        (other_class,) = set(CLASSES) - {mine.name.data_class}
        with pytest.raises(IntegrityError):
            ring.open(replace(mine, name=TokenName(other_class, mine.name.word)))


async def test_a_sealed_value_belongs_to_its_generation_and_its_epochs_word(tmp_path: Path) -> None:
    ring = await Keyring.load(tmp_path / "keyring", KEK, classes=CLASSES)
    one = sealed(ring, ALICE)
    await ring.new_generation("email")
    await ring.new_epoch()
    other = sealed(ring, ALICE)
    assert ring.open(one) == ring.open(other) == ALICE
    for wrong in (
        replace(one, generation=2),
        replace(other, generation=1),
        replace(one, name=other.name),
        replace(one, generation=3),
    ):
        with pytest.raises(IntegrityError):
            ring.open(wrong)


async def test_every_changed_byte_of_the_keyring_is_refused_or_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    before = (await Keyring.load(path, KEK, classes=("email",))).list()
    content = path.read_bytes()
    said = json.loads(content)
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 0x01
        path.write_bytes(changed)
        try:
            ring = await Keyring.load(path, KEK, classes=("email",))
        except (CorruptionError, KeyMismatchError):
            continue
        assert json.loads(bytes(changed)) == said, f"byte {at}"
        assert ring.list() == before
    path.write_bytes(content)


async def test_wrapped_keys_that_change_places_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    await Keyring.load(path, KEK, classes=CLASSES)
    said = json.loads(path.read_bytes())
    for one, two in itertools.combinations(range(len(said["keys"])), 2):
        keys = [dict(key) for key in said["keys"]]
        keys[one]["wrapped"], keys[two]["wrapped"] = keys[two]["wrapped"], keys[one]["wrapped"]
        path.write_bytes(json.dumps({**said, "keys": keys}).encode())
        with pytest.raises((CorruptionError, KeyMismatchError)):
            await Keyring.load(path, KEK, classes=CLASSES)


@pytest.mark.parametrize(
    ("key", "nonce", "plain", "associated", "wanted"),
    [
        # NIST, The Galois/Counter Mode of Operation (GCM), McGrew and Viega, test cases 13 to 16 (AES-256, nonces of 96 bits).
        (ZERO_KEY, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (ZERO_KEY, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
        (
            "feffe9928665731c6d6a8f9467308308" * 2,
            "cafebabefacedbaddecaf888",
            (
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
            ),
            "",
            (
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
                "b094dac5d93471bdec1a502270e3cc6c"
            ),
        ),
        (
            "feffe9928665731c6d6a8f9467308308" * 2,
            "cafebabefacedbaddecaf888",
            (
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
            ),
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            (
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
                "76fc6ece0f4e1768cddf8853bb2d551b"
            ),
        ),
    ],
)
def test_the_envelope_passes_nists_vectors(key: str, nonce: str, plain: str, associated: str, wanted: str) -> None:
    cipher, text, context = DataCipher(bytes.fromhex(key)), bytes.fromhex(plain), bytes.fromhex(associated)
    lane = int.from_bytes(bytes.fromhex(nonce)[:4], "little")
    counter = int.from_bytes(bytes.fromhex(nonce)[4:], "little")
    out = bytearray(len(text) + TAG_BYTES)
    cipher.seal_into(text, memoryview(out), lane=lane, counter=counter, context=context)
    assert out.hex() == wanted
    again = bytearray(len(text))
    cipher.open_into(memoryview(out), memoryview(again), lane=lane, counter=counter, context=context)
    assert again == text
    for at in range(len(out)):
        changed = bytearray(out)
        changed[at] ^= 1
        with pytest.raises(UnsealError):
            cipher.open_into(memoryview(changed), memoryview(again), lane=lane, counter=counter, context=context)


class Killed(BaseException):
    """Nothing may take it for an error of the disk."""


def killing(patch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """Kill before the n-th act on the disk; gives how many there were."""
    acts = 0

    def counted(act: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **named: object) -> object:
            nonlocal acts
            acts += 1
            if acts == at:
                raise Killed
            return act(*arguments, **named)

        return run

    for name in ("_write_new", "overwrite", "sync_folder"):
        patch.setattr(keyring_file, name, counted(getattr(keyring_file, name)))
        if hasattr(opening, name):
            patch.setattr(opening, name, getattr(keyring_file, name))
    patch.setattr(os, "link", counted(os.link))
    patch.setattr(Path, "replace", counted(Path.replace))
    patch.setattr(Path, "unlink", counted(Path.unlink))
    return lambda: acts


async def test_a_destruction_killed_at_any_act_leaves_the_ring_of_before_or_behind_it(tmp_path: Path) -> None:
    for at in range(1, 40):
        folder = tmp_path / str(at)
        ring = await Keyring.load(folder / "keyring", KEK, classes=CLASSES)
        old = sealed(ring, ALICE)
        await ring.new_generation("email")
        with pytest.MonkeyPatch.context() as patch:
            count = killing(patch, at)
            with contextlib.suppress(Killed):
                await ring.destroy_generation("email", 1)
            acts = count()
        again = await Keyring.load(folder / "keyring", KEK, classes=CLASSES)
        assert again.generation("email") == 2
        assert KeyringFile(folder / "keyring").leftovers() == []
        assert await again.verify() == []
        await again.destroy_generation("email", 1)
        with pytest.raises(HeimdallError, match="erased"):
            again.open(old)
        if acts < at:
            assert at > 6
            return
    raise AssertionError("it never gets through")


async def test_a_new_key_file_killed_at_any_act_leaves_a_ring_that_opens_and_goes_on(tmp_path: Path) -> None:
    for at in range(1, 60):
        keys = tmp_path / str(at) / "keys"
        places = opening.KeyPlaces(keys / "keyring", keys / "root.key", keys.parent / "marker", None)
        opened = await opening.open_keyring(KekConfig(), places, classes=CLASSES)
        one, before = sealed(opened.keyring, ALICE), places.key_file.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            count = killing(patch, at)
            with contextlib.suppress(Killed):
                await opening.rotate_kek(opened, places)
            acts = count()
        again = await opening.open_keyring(KekConfig(), places, classes=CLASSES)
        assert again.keyring.open(one) == ALICE
        again = await opening.rotate_kek(again, places)
        assert places.key_file.read_bytes() != before
        assert {path.name for path in keys.iterdir()} - {".keyring.lock", ".root.key.lock"} <= {"keyring", "root.key"}
        assert (await opening.open_keyring(KekConfig(), places, classes=CLASSES)).keyring.open(one) == ALICE
        if acts < at:
            assert at > 12
            return
    raise AssertionError("it never gets through")
