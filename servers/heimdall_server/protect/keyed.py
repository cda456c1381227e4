"""Actions that need keys: `hash`, `encrypt`, `format_preserving`, and the table of all of them that wiring hands to the protector.

| action | written | searched by | read again by |
|---|---|---|---|
| `tokenise` | `[email:1k9f…]` | the token | the vault |
| `hash` | `[hash:email:5f2a…]`, 32 hexadecimal digits | its own text | nobody |
| `encrypt` | `[enc:email:…]`, base64url; another text each time | nothing | who has the key, and knows the field |
| `format_preserving` | a value of the same form | its own text | who has the key |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.ports.keys import FieldCipher, FormatPreserver, Sealer, Tokeniser
from heimdall_server.protect.actions import ACTIONS, Action, Effects, Forms, Origin, mask
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.lookalikes import escaped_text
from heimdall_server.protect.policy import DEFAULT_PREFIXES
from heimdall_server.protect.sealed_lately import SealedLately
from heimdall_server.protect.tokenise import Tokenise

HASH: Final = "hash"
ENCRYPTED: Final = "enc"


@dataclass(eq=False, slots=True)
class Hash:
    """A keyed hash of the canonical value: equal values are seen to be equal, nobody reads them again."""

    tokeniser: Tokeniser
    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The hashes."""
        del origins, effects
        forms = personal_form(data_class, pa.array(values, pa.string())).to_pylist()
        return Forms([f"[{HASH}:{data_class}:{digest}]" for digest in self.tokeniser.digests(data_class, forms)])


@dataclass(eq=False, slots=True)
class Encrypt:
    """The value itself, as it was written, encrypted where it stands.

    A text that stands for many records (service, host, …) is one value for all of them.
    """

    cipher: FieldCipher
    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = False
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The ciphertexts."""
        del effects
        fields, rows = [one.bound or one.field for one in origins], [one.row for one in origins]
        sealed = self.cipher.encrypt(data_class, values, fields, rows)
        return Forms([f"[{ENCRYPTED}:{data_class}:{text}]" for text in sealed])


@dataclass(eq=False, slots=True)
class FormatPreserving:
    """Another value of the same form; one that hasn't the form of its class is masked."""

    preserver: FormatPreserver
    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True

    @property
    def classes(self) -> frozenset[str]:
        """Classes with enough values."""
        return self.preserver.classes

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The values in their place."""
        del origins, effects
        written = self.preserver.encrypt(data_class, values)
        return Forms([mask(data_class) if text is None else escaped_text(text) for text in written])


def keyed_actions(
    tokeniser: Tokeniser,
    sealer: Sealer,
    *,
    lately: SealedLately | None = None,
    blocklist: Blocklist | None = None,
    ip_prefixes: tuple[int, int] = DEFAULT_PREFIXES,
    cipher: FieldCipher | None = None,
    preserver: FormatPreserver | None = None,
) -> dict[str, Action]:
    """All actions of a server that has keys, by the names that a policy uses.

    Args:
        tokeniser: Names values.
        sealer: Seals them.
        lately: What was tokenised lately, shared with whoever erases; None: one of its own.
        blocklist: What is never sealed, shared, too; None: nothing.
        ip_prefixes: Bits of the networks by which tokenised addresses are found, IPv4 and IPv6; 0: by none.
        cipher: For `encrypt`; None: there is no such action.
        preserver: For `format_preserving`; None: there is no such action.
    """
    actions: dict[str, Action] = dict(ACTIONS)
    actions["hash"] = Hash(tokeniser)
    actions["tokenise"] = Tokenise(
        tokeniser,
        sealer,
        SealedLately() if lately is None else lately,
        Blocklist() if blocklist is None else blocklist,
        ip_prefixes,
    )
    if cipher is not None:
        actions["encrypt"] = Encrypt(cipher)
    if preserver is not None:
        actions["format_preserving"] = FormatPreserving(preserver)
    return actions
