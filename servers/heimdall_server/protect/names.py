"""What an attribute's name says about its value: `user.password` holds a secret whatever it looks like.

A name that ends in a telling word counts, however its words are joined (`clientSecret`, `client-secret`,
`client_secret`). Short words must stand alone (`ssn`, but not `classn`).
"""

from __future__ import annotations

import re
from typing import Final

from heimdall_server.protect.banking import ACCOUNT_LABELS, ROUTING_LABELS
from heimdall_server.protect.documents import BIRTH_DATE_LABELS, LICENCE_LABELS, NAME_LABELS, PASSPORT_LABELS
from heimdall_server.protect.locations import ADDRESS_LABELS, PLACE_LABELS
from heimdall_server.protect.national_ids import NATIONAL_ID_LABELS

_NUMBER: Final = "(?:[_.-]?(?:number|num|no|nr|id))?"
_STARTS: Final = r"(?:^|[^A-Za-z0-9])"
_PASSWORDS: Final = (
    r"pass(?:word|wd|phrase|wort)s?|(?:pass(?:word|wd)?|pwd)[_.-]?hash|kennwort|mot[_.-]?de[_.-]?passe|contrase(?:n|ñ)a|has(?:l|ł)o"
    r"|clave[_.-](?:de[_.-])?acceso"
)
_WORDS: Final[dict[str, tuple[str, str]]] = {
    # class: words that may end a longer word; words that stand alone
    "secret": (
        rf"{_PASSWORDS}|secret|token|authorization|(?:api|access|secret|private|signing|encryption)[_.-]?key",
        r"pass|pwd|credentials?|cvv2?|cvc|x[_-]auth|otp|totp|passcode|pin(?:[_-]?code)?",
    ),
    "ssn": (r"social[_.-]?security[_.-]?(?:number|no)", "ssn"),
    "card": (r"(?:card|credit[_.-]?card|cc)[_.-]?(?:number|num|no)", "credit[_-]?card|pan"),
    "iban": (r"iban[_.-]?(?:number|code)", "iban"),
    "phone": (
        r"(?:phone|telephone|mobile)[_.-]?(?:number|no|nr)",
        "phone|telephone|telefono?|tel|mobile?|handy|msisdn",
    ),
    "cookie": (r"session[_.-]?cookie|set[_-]?cookie", r"cookie|phpsessid|jsessionid|session[_-]?id"),
    "birth_date": (BIRTH_DATE_LABELS.inner(), BIRTH_DATE_LABELS.alone()),
    "passport": (f"(?:{PASSPORT_LABELS.inner()}){_NUMBER}", r"passport[_.-]?id"),
    "driving_licence": (f"(?:{LICENCE_LABELS.inner()}){_NUMBER}", LICENCE_LABELS.alone()),
    "name": (NAME_LABELS.inner(), r"full[_.-]?name"),
    "national_id": (f"(?:{NATIONAL_ID_LABELS.inner()}){_NUMBER}", NATIONAL_ID_LABELS.alone()),
    "bank_account": (f"{ACCOUNT_LABELS.inner()}|{ROUTING_LABELS.inner()}", r"clabe|cbu|bsb|aba|rtn"),
    "geo": (rf"latitude|longitude|{PLACE_LABELS.inner()}", r"lat|lon|lng|coords?"),
    "address": (ADDRESS_LABELS.inner(), r"street"),
    "crypto_wallet": (r"wallet[_.-]?(?:address|addr)", "wallet"),
    "email": (r"e[_-]?mail[_.-]?(?:address|addr)", "e?mail|e-mail"),
}
_CLASSIFIERS: Final = tuple(
    (data_class, re.compile(rf"(?i:(?:{inner}|{_STARTS}(?:{alone}))$)", re.ASCII))
    for data_class, (inner, alone) in _WORDS.items()
)

NAME_GATE: Final = "(?i-u:" + "|".join(f"{inner}|{alone}" for inner, alone in _WORDS.values()) + ")"
"""Matches, unanchored, in every telling name; for polars."""

_PASSWORD_WITHIN: Final = re.compile(rf"(?i:(?:{_PASSWORDS}|{_STARTS}pwd)\.(?:[^.]+\.)*([^.]+)$)", re.ASCII)
_ABOUT: Final = re.compile(
    r"(?i:(?:.*[_-])?(?:age|algorithm|attempts?|count|enabled|len(?:gth)?|min|max|policy|required|rules?|score|strength|type|valid)"
    r"|expir.*|(?:last[_-]?)?(?:changed|updated|reset|set).*)",
    re.ASCII,
)
"""Last words of what is said of a password, not within it: `password.length`."""


def class_of_name(key: str) -> str:
    """The class of what an attribute of this name holds; empty if the name doesn't tell."""
    named = next((data_class for data_class, telling in _CLASSIFIERS if telling.search(key)), "")
    if not named and (within := _PASSWORD_WITHIN.search(key)) is not None and not _ABOUT.fullmatch(within[1]):
        return "secret"
    return named
