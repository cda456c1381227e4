"""Sealed values as bytes come back as they were, and nothing else is taken for them."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.domain.sealed_values import SIDECAR, decode, encode, joined
from tests.support.vaults import make_value, make_values, sealed_values


@given(st.lists(sealed_values(), max_size=30))
def test_values_come_back_as_they_were(values: list[SealedValue]) -> None:
    assert decode(encode(values)) == values


def test_values_of_several_classes_and_generations_keep_their_order() -> None:
    values = [
        *make_values("a", 5),
        make_value("b", generation=2),
        *make_values("c", 3, data_class="iban"),
        *make_values("d", 2),
    ]
    assert decode(encode(values)) == values


def test_a_value_weighs_its_sealed_bytes_and_thirty_one_more() -> None:
    values = make_values("a", 1_000)
    assert len(encode(values)) - sum(len(one.sealed) for one in values) < 31 * 1_000 + 40


@given(st.lists(sealed_values(), min_size=1, max_size=5), st.data())
def test_a_changed_byte_is_noticed(values: list[SealedValue], data: st.DataObject) -> None:
    encoded = bytearray(encode(values))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptionError):
        decode(bytes(encoded))


@given(st.lists(sealed_values(), max_size=5), st.data())
def test_bytes_that_end_early_are_refused(values: list[SealedValue], data: st.DataObject) -> None:
    encoded = encode(values)
    with pytest.raises(CorruptionError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=200))
def test_bytes_with_a_right_checksum_that_say_nonsense_are_refused_or_read(noise: bytes) -> None:
    data = b"\x01" + noise
    data += zlib.crc32(data).to_bytes(4, "little")
    try:
        values = decode(data)
    except CorruptionError:
        return
    assert encode(values)  # what was read is well formed


def test_a_run_that_claims_more_values_than_there_are_bytes_is_refused_without_making_room_for_them() -> None:
    data = b"\x01" + (1).to_bytes(4, "little") + b"\x05email" + (1).to_bytes(4, "little") + b"\xff\xff\xff\xff"
    data += zlib.crc32(data).to_bytes(4, "little")
    with pytest.raises(CorruptionError):
        decode(data)


def test_what_a_newer_program_wrote_is_refused_by_its_version() -> None:
    with pytest.raises(CorruptionError, match="version 2"):
        decode(b"\x02" + encode([])[1:])


@pytest.mark.parametrize(
    "value",
    [
        SealedValue(TokenName("Email", "0" + "a" * 26), 1, b""),
        SealedValue(TokenName("email", "0" + "a" * 25), 1, b""),
        SealedValue(TokenName("email", "0" + "1" * 26), 1, b""),
        SealedValue(TokenName("email", "0" + "a" * 26), 0, b""),
        SealedValue(TokenName("email", "0" + "a" * 26), 2**32, b""),
    ],
)
def test_a_value_that_names_no_token_is_not_encoded(value: SealedValue) -> None:
    with pytest.raises(ValueError, match=r"class or word|generation"):
        encode([value])


def test_sidecars_of_two_pieces_keep_the_values_of_both() -> None:
    one, two = (SealedValue(TokenName("email", f"1{letter * 26}"), 1, letter.encode() * 9) for letter in "ab")
    both = joined({SIDECAR: encode([one])}, {SIDECAR: encode([two]), "other": b"x"})
    assert decode(both[SIDECAR]) == [one, two]
    assert both["other"] == b"x"
    assert joined({}, {SIDECAR: encode([two])}) == {SIDECAR: encode([two])}
