"""Every class of personal data and every rule, in the order in which they apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from heimdall_server.protect.banking import BANK_RULES
from heimdall_server.protect.cookies import COOKIE_RULES
from heimdall_server.protect.credentials import SECRET_RULES
from heimdall_server.protect.documents import DOCUMENT_RULES
from heimdall_server.protect.identities import ACCOUNT_RULES, IPV6_RULE, NUMBER_RULES
from heimdall_server.protect.locations import LOCATION_RULES
from heimdall_server.protect.national_ids import NATIONAL_ID_RULES
from heimdall_server.protect.rules import Rule
from heimdall_server.protect.vendor_keys import VENDOR_KEY_RULES
from heimdall_server.protect.wallets import WALLET_RULES

RULES: Final[tuple[Rule, ...]] = (
    IPV6_RULE,
    *COOKIE_RULES,
    *SECRET_RULES,
    *VENDOR_KEY_RULES,
    *WALLET_RULES,
    *ACCOUNT_RULES,
    *DOCUMENT_RULES,
    *NATIONAL_ID_RULES,
    *BANK_RULES,
    *LOCATION_RULES,
    *NUMBER_RULES,
)
"""What a label says counts before what a shape does, and longer shapes before those that could be a piece of them."""

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "ipv6": "an IPv6 address",
    "cookie": "a cookie or the id of a session",
    "secret": "a password, a key, a token: what opens a door",
    "jwt": "a JSON web token",
    "crypto_wallet": "the address of a crypto-currency wallet",
    "email": "an email address",
    "iban": "an international bank account number",
    "passport": "the number or machine-readable line of a passport",
    "driving_licence": "the number of a driving licence",
    "birth_date": "a date of birth",
    "name": "a person's name",
    "national_id": "a national identification or personal tax number",
    "bank_account": "a bank account, sort code or routing number",
    "geo": "geo-coordinates",
    "address": "a postal address",
    "ssn": "a social security number of the United States",
    "phone": "a phone number",
    "card": "a payment card number",
    "ipv4": "an IPv4 address",
    "organisation": "an organisation's name; found only by the model of names",
}
"""What each class is, in one line."""

CLASSES: Final[tuple[str, ...]] = (*dict.fromkeys(rule.data_class for rule in RULES), "organisation")
"""What a policy may name."""

CREDENTIAL_CLASSES: Final = frozenset({"cookie", "jwt", "secret"})
"""What opens doors: nothing that anybody should search or read again."""

PERSONAL_CLASSES: Final = frozenset(CLASSES) - CREDENTIAL_CLASSES
"""What says something of a person, and may have to be found again."""

ADDRESS_CLASSES: Final = frozenset({"ipv4", "ipv6"})
"""Names of machines rather than people."""
