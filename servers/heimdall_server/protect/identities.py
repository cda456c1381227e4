r"""Rules for what names a person, an account or a machine: email, iban, card, ssn, phone, ipv4, ipv6."""

from __future__ import annotations

from typing import Final

from heimdall_server.protect import checks
from heimdall_server.protect.candidates import plain_cards, plain_json_cards, plain_phones
from heimdall_server.protect.rules import NUMBERS, SPARSE, START, Rule, column_form

_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# Latin, Greek and Cyrillic letters too, or half a local part would stay.
_LOCAL: Final = r"A-Za-z0-9._%+À-ӿ-"
# A quote within it (o'neil), but none that Python's `u'…'` and `b'…'` begin with.
_WITH_QUOTE: Final = rf"(?:(?:[oOdDnNlL]|[{_LOCAL}]{{2,}})')?"
_AT_DOMAIN: Final = (
    r"@(?:[A-Za-z0-9À-ӿ](?:[A-Za-z0-9À-ӿ-]*[A-Za-z0-9À-ӿ])?\.)+(?:xn--[A-Za-z0-9-]{2,}|[A-Za-z]{2,}|[À-ӿ]{2,})"
)
# In JSON its quotes have backslashes. A word at either end, or what stands between two texts of JSON would do: `","@odata.type`.
_QUOTED_LOCAL: Final = rf'\\{{0,7}}"[A-Za-z0-9À-ӿ](?:[ {_LOCAL}]*[A-Za-z0-9À-ӿ])?\\{{0,7}}"'
_LABEL: Final = "[A-Za-z0-9À-ӿ](?:[A-Za-z0-9À-ӿ-]*[A-Za-z0-9À-ӿ])?"
_DEFANGED_AT: Final = r"[\[({] ?(?i:at|@) ?[\])}]"
_DEFANGED_DOT: Final = r" ?[\[({] ?(?i:dot|\.) ?[\])}] ?"
# Digits after the bank's four characters, or every second hash would have to be looked at.
# A form that was sent (`application/x-www-form-urlencoded`) has `+` for blanks.
_LOWER_IBAN: Final = r"[a-z]{2}[0-9]{2}[ +-]?[a-z0-9]{4}[ +-]?[0-9]{4}[ +-]?[0-9]{4}"
_CARD_GATE: Final = r"[0-9]{13}|[0-9]{4}[ -][0-9]{4}[ -]?[0-9]{2}"
_NANP: Final = r"[2-9][0-9]{2}"
# Area 000, 666 and 9xx, group 00 and serial 0000 were never issued.
_SSN_AREA: Final = r"(?:00[1-9]|0[1-9][0-9]|[1-57-8][0-9]{2}|6[0-57-9][0-9]|66[0-57-9])"
_SSN_GROUP: Final = r"(?:0[1-9]|[1-9][0-9])"
_SSN_SERIAL: Final = r"(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LABELLED: Final = r"""\\*["']?(?:[ \t]{0,2}(?:=>|[:=#])?[ \t]{0,2}|>)\\*["']?"""
_PHONE_NAMES: Final = r"phone|telephone|telefono?|tel|mobile?|handy|msisdn"

_INTERNATIONAL: Final = (
    r"\+[1-9][0-9]{7,14}"
    r"|\+[1-9][0-9]{0,2} ?\(0\) ?[0-9]{1,9}(?:(?: ?[/.-] ?| )[0-9]{1,9}){0,6}"
    r"|\+[1-9][0-9]{0,2}[ .-]?\(?[0-9]{1,5}\)?(?:[ .-][0-9]{1,9}){0,4}[ .-][0-9]{2,9}"
)
# Behind 00 a country from which one dials so; groups of four digits would be those of a dump in hexadecimal.
_DIALLED: Final = (
    r"00(?:2[0-9]|3[0-9]|4[0-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])(?:[0-9]{8,11}|[ -][0-9]{2,5}[ /-][0-9]{5,8})"
)
_PHONE: Final = (
    rf"(^|[^0-9A-Za-z_+.\]-]|\\{{1,7}}[bfnrt])(?:\+1[ .-]?\(?{_NANP}\)?[ .-]?{_NANP}[ .-]?[0-9]{{4}}"
    rf"|\({_NANP}\) ?{_NANP}[ .-][0-9]{{4}}|(?:1[.-])?{_NANP}-{_NANP}-[0-9]{{4}}|{_NANP}\.{_NANP}\.[0-9]{{4}}"
    rf"|{_INTERNATIONAL}|{_DIALLED})\b"
    rf"|([A-Za-z][.-])(?:{_INTERNATIONAL})\b"
)

IPV6_RULE: Final = Rule(
    "ipv6",
    "ipv6",
    r":[0-9A-Fa-f]{0,4}:",
    rf"(?:[0-9A-Fa-f]{{1,4}}|:):(?:[0-9A-Fa-f]{{0,4}}:){{0,7}}(?:{_OCTET}(?:\.{_OCTET}){{3}}|[0-9A-Fa-f]{{1,4}}|:)?",
    check=checks.ipv6,
)
"""Before all others: its colons would end a secret's value too early."""

ACCOUNT_RULES: Final = (
    Rule(
        "email",
        "email",
        "@",
        rf"(\\{{1,7}}[bfnrt])?{_WITH_QUOTE}(?:[{_LOCAL}]|\\{{1,7}}u[0-9A-Fa-f]{{4}})+(?:{_AT_DOMAIN}|@[{_LOCAL}]+{_AT_DOMAIN})",
        simple_pattern=rf"{_WITH_QUOTE}[{_LOCAL}]+(?:{_AT_DOMAIN}|@[{_LOCAL}]+{_AT_DOMAIN})",
        # Pictures for dense screens (`icon@2x.png`), packages (`tool@1.2.rc1`), units of systemd, an escape before the sign.
        spared=r"(\\[a-z])@|@([0-9]x\.(?:png|jpe?g|gif|webp|svg|avif)|(?:[0-9]+\.)+[A-Za-z]{2,}[0-9]+(?:[^A-Za-z0-9.-]|$)"
        r"|[A-Za-z0-9:._-]{1,64}\.(?:service|socket|slice|scope|timer|mount|automount|swap|device)(?:[^A-Za-z0-9.-]|\.?$|\. ))",
    ),
    Rule("quoted_email", "email", '"@[A-Za-z0-9À-ӿ]', _QUOTED_LOCAL + _AT_DOMAIN, group=SPARSE),
    # RFC 5321 §4.1.3, as mail servers log it.
    Rule(
        "literal_email",
        "email",
        r"@\[(?:[0-9]|(?i:ipv6):)",
        rf"[{_LOCAL}]+@\[(?:{_OCTET}(?:\.{_OCTET}){{3}}|(?i:ipv6):[0-9A-Fa-f:.]{{2,45}})\]",
        group=SPARSE,
    ),
    Rule(
        "defanged_email",
        "email",
        r"[\[({] ?(?i:at|dot|[@.]) ?[\])}]",
        rf"[{_LOCAL}]+(?: ?{_DEFANGED_AT} ?{_LABEL}(?:{_DEFANGED_DOT}|\.)|@(?:{_LABEL}\.)*{_LABEL}{_DEFANGED_DOT})"
        rf"(?:{_LABEL}(?:{_DEFANGED_DOT}|\.))*[A-Za-z]{{2,}}\b",
        group=SPARSE,
    ),
    Rule(
        "iban",
        "iban",
        rf"[A-Z]{{2}}[0-9]{{2}}[ +-]?[A-Z0-9]{{4}}[ +-]?[A-Z0-9]{{4}}|{_LOWER_IBAN}",
        START + r"(?:[A-Z]{2}[0-9]{2}(?:[ +-]?[A-Z0-9]{4}){2,7}(?:[ +-]?[A-Z0-9]{1,3})?"
        rf"|{_LOWER_IBAN}(?:[ +-]?[a-z0-9]{{4}}){{0,5}}(?:[ +-]?[a-z0-9]{{1,3}})?)\b",
        check=checks.iban,
        group="words",
    ),
)
"""An IBAN's groups look like a card's."""

NUMBER_RULES: Final = (
    Rule(
        "json_ssn",
        "ssn",
        r"(?i:ssn|social[ _-]?security)",
        rf'((?i:ssn|social[ _-]?security[ _-]?(?:number|no))"[ \t\r\n]*:[ \t\r\n]*)'
        rf"{_SSN_AREA}{_SSN_GROUP}{_SSN_SERIAL}\b",
        opening='"',
        closing='"',
        check=checks.json_number,
        group="words",
    ),
    Rule(
        "labelled_ssn",
        "ssn",
        r"(?i:ssn|social[ _-]?security)",
        rf"(\b(?i:ssn|social[ _-]?security(?:[ _-]?(?:number|no\.?))?){_LABELLED})"
        rf"{_SSN_AREA}[ -]?{_SSN_GROUP}[ -]?{_SSN_SERIAL}\b",
        check=checks.unless_json_number,
        group="words",
    ),
    Rule(
        "json_phone",
        "phone",
        rf"(?i:{_PHONE_NAMES})",
        rf'((?i:(?:{_PHONE_NAMES})(?:[ _-]?(?:number|no|nr))?)"[ \t\r\n]*:[ \t\r\n]*)[0-9]{{6,15}}\b',
        opening='"',
        closing='"',
        check=checks.json_number,
        group="words",
    ),
    Rule(
        "labelled_phone",
        "phone",
        rf"(?i:{_PHONE_NAMES})",
        rf"""((?:(?:\b|_)(?i:{_PHONE_NAMES})|[a-z](?:Phone|Telephone|Telefono?|Tel|Mobile?))(?i:(?:[ _-]?(?:number|no|nr))?)\.?\\*["']?"""
        r"""(?:[ \t]{0,2}(?:=>|[:=])[ \t]{0,2}|>)\\*["']?)"""
        r"[+(]{0,2}[0-9][0-9 ()/-]{5,18}[0-9]\b",
        check=checks.labelled_phone,
        group="words",
    ),
    Rule(
        "called_phone",
        "phone",
        rf"(?i:{_PHONE_NAMES})",
        rf"""((?:\b|_)(?i:{_PHONE_NAMES})\.?[ \t]{{1,2}})0[0-9][0-9 ()/-]{{5,18}}[0-9]\b""",
        check=checks.phone,
        group="words",
    ),
    Rule(
        "json_card",
        "card",
        _CARD_GATE,
        r'("[ \t\r\n]*:[ \t\r\n]*|[\[,][ \t\r\n]*)[2-6][0-9]{12,18}\b',
        opening='"',
        closing='"',
        check=checks.json_card,
        finder=plain_json_cards,
        group=NUMBERS,
    ),
    Rule(
        "card",
        "card",
        _CARD_GATE,
        START + r"(?:[2-6][0-9]{12,18}"
        r"|[2-6][0-9]{3}(?: [0-9]{4}){3}(?: [0-9]{1,3})?|[2-6][0-9]{3}(?:-[0-9]{4}){3}(?:-[0-9]{1,3})?"
        r"|3[0-9]{3} [0-9]{6} [0-9]{4,5}|3[0-9]{3}-[0-9]{6}-[0-9]{4,5})\b",
        check=checks.card,
        finder=plain_cards,
        group=NUMBERS,
    ),
    Rule(
        "dotted_card",
        "card",
        r"[0-9]{4}[.+][0-9]{4}[.+][0-9]{4}",
        START + r"[2-6][0-9]{3}(?:(?:\.[0-9]{4}){3}|(?:\+[0-9]{4}){3})\b",
        check=checks.card,
        group=SPARSE,
    ),
    Rule(
        "ssn",
        "ssn",
        r"[0-9]-[0-9]{2}-[0-9]{4}",
        START + rf"{_SSN_AREA}-{_SSN_GROUP}-{_SSN_SERIAL}\b",
        check=checks.unless_in_number,
        doubt=r"[]0-9][.-][0-9]{3}-[0-9]{2}-[0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4}[.-][0-9]",
        group=NUMBERS,
    ),
    Rule(
        "phone",
        "phone",
        rf"\+[1-9]|[0-9]{{3}}(?:\) ?|[.-])[0-9]{{3}}[ .-][0-9]{{4}}|\+\(|{_DIALLED}",
        _PHONE,
        check=checks.phone,
        finder=plain_phones(column_form(_PHONE)),
        group=NUMBERS,
    ),
    Rule(
        "ipv4",
        "ipv4",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        START + rf"{_OCTET}(?:\.{_OCTET}){{3}}\b",
        check=checks.unless_in_number,
        doubt=r"[]0-9][.-][0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[.-][0-9]",
    ),
)
"""In the order in which they apply: what a label says counts before what a shape does."""
