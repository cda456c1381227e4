"""Sealed values for tests: tokens as the tokeniser makes them, bytes as the sealer might."""

from __future__ import annotations

import base64
import hashlib

from hypothesis import strategies as st

from heimdall_server.domain.personal import EPOCHS, SealedValue, TokenName


def make_word(text: str, *, epoch: int = 0) -> str:
    """A word that looks like a MAC of a text."""
    mac = hashlib.sha256(text.encode()).digest()[:16]
    return EPOCHS[epoch] + base64.b32encode(mac).decode().rstrip("=").lower()


def make_name(text: str, *, data_class: str = "email") -> TokenName:
    """The token of a text."""
    return TokenName(data_class, make_word(f"{data_class}/{text}"))


def make_value(text: str, *, data_class: str = "email", generation: int = 1) -> SealedValue:
    """A text "sealed"; other bytes in each generation."""
    sealed = hashlib.sha512(f"{data_class}/{text}/{generation}".encode()).digest()[:44]
    return SealedValue(make_name(text, data_class=data_class), generation, sealed)


def make_values(prefix: str, count: int, *, data_class: str = "email", generation: int = 1) -> list[SealedValue]:
    """Several, all different."""
    return [make_value(f"{prefix}{i}", data_class=data_class, generation=generation) for i in range(count)]


def sealed_values() -> st.SearchStrategy[SealedValue]:
    """Any."""
    classes = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
    words = st.from_regex(r"[0-9a-z][a-z2-7]{26}", fullmatch=True)
    return st.builds(
        SealedValue,
        st.builds(TokenName, st.one_of(st.sampled_from(["email", "iban"]), classes), words),
        st.integers(1, 2**32 - 1),
        st.binary(max_size=80),
    )
