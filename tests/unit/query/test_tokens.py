"""Tokens that let a stream go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.errors import TokenError
from heimdall_server.ports.log_store import RowKey
from heimdall_server.services.query.logic.tokens import Place, TokenCodec, digest

CODEC = TokenCodec(b"k" * 32, journal_id="j1")
BOUND = digest("a question", 1)
counts = st.integers(0, 2**62)
places = st.builds(
    Place,
    through=st.dictionaries(st.integers(0, 64), counts, max_size=3),
    after=st.none() | st.builds(RowKey, counts, st.integers(0, 9), counts, counts),
    **dict.fromkeys(("returned", "page_start", "now_ns", "since_ns", "seam", "horizon_ns", "counted_through", "last_count"), counts),
)  # fmt: skip


def _bound(_: Place) -> bytes:
    return BOUND


def test_what_a_token_must_be_bound_to_may_depend_on_its_place() -> None:
    token = CODEC.seal(Place({0: 5}, now_ns=7), bound_to=digest("since", 7))
    assert CODEC.open(token, bound_to=lambda place: digest("since", place.now_ns)).now_ns == 7


@given(places)
def test_a_token_gives_back_its_place(place: Place) -> None:
    token = CODEC.seal(place, bound_to=BOUND)
    assert CODEC.open(token, bound_to=_bound) == place
    assert len(token) < 1024


@given(places, st.data())
def test_a_token_with_any_byte_changed_is_refused(place: Place, data: st.DataObject) -> None:
    token = bytearray(CODEC.seal(place, bound_to=BOUND))
    token[data.draw(st.integers(0, len(token) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TokenError):
        CODEC.open(bytes(token), bound_to=_bound)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_token_are_refused(data: bytes) -> None:
    with pytest.raises(TokenError):
        CODEC.open(data, bound_to=_bound)


def test_a_token_of_another_request_key_or_journal_is_refused() -> None:
    token = CODEC.seal(Place({0: 5}), bound_to=BOUND)
    with pytest.raises(TokenError, match="another query"):
        CODEC.open(token, bound_to=lambda _: digest("another question", 1))
    with pytest.raises(TokenError, match="wasn't made by this instance"):
        TokenCodec(b"o" * 32, journal_id="j1").open(token, bound_to=_bound)
    with pytest.raises(TokenError, match="another journal"):
        TokenCodec(b"k" * 32, journal_id="j2").open(token, bound_to=_bound)


def test_a_token_says_nothing_of_what_it_is_bound_to() -> None:
    assert b"secret" not in CODEC.seal(Place({0: 5}), bound_to=digest("body:secret"))


def test_parts_of_a_digest_keep_their_bounds() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("1") != digest(1)
    assert replace(Place(), returned=1) != Place()
