"""The action `partial`: masks a value but for what a person needs to recognise it. The mask never tells the length.

| class | `partial` leaves |
|---|---|
| email | the domain: `[email]@example.com` |
| card, iban, bank accounts, phone | the last four digits: `[card]1111` |
| ipv4 | the first two numbers: `10.1.[ipv4]` |
| ipv6 | the first two groups: `2001:db8:[ipv6]` |
| all others | nothing: `[secret]` |

Four digits of a value stay only if at least eight others go. What is left tells apart, but finds nothing: for search there
are tokens.
"""

from __future__ import annotations

from typing import Final

LAST_DIGITS: Final = 4
HIDDEN_MIN: Final = 8
"""Characters that must go for any to stay."""

_BY_LAST_DIGITS: Final = frozenset({"card", "iban", "phone", "bank_account"})


def partial(data_class: str, value: str) -> str:
    """A value's partial mask."""
    mask = f"[{data_class}]"
    if data_class == "email":
        _, sign, domain = value.rpartition("@")
        return f"{mask}@{domain}" if sign else mask
    if data_class in _BY_LAST_DIGITS:
        marks = "".join(character for character in value if character.isascii() and character.isalnum())
        shown = marks[-LAST_DIGITS:]
        return mask + shown if len(marks) >= HIDDEN_MIN + LAST_DIGITS and shown.isdigit() else mask
    if data_class == "ipv4" and value.count(".") == 3:
        first, second, *_ = value.split(".")
        return f"{first}.{second}.{mask}"
    if data_class == "ipv6":
        first, _, rest = value.partition(":")
        second = rest.partition(":")[0]
        return f"{first}:{second}:{mask}" if first and second else mask
    return mask
