"""Rules for what papers say of a person: passports, driving licences, dates of birth, names."""

from __future__ import annotations

import re
from typing import Final

from heimdall_server.protect.checks import REJECTED
from heimdall_server.protect.labels import QUOTE, SIGN, Labels, labelled
from heimdall_server.protect.rules import SPARSE, Rule
from heimdall_server.protect.stems import folded

_MONTH: Final = (
    "(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY: Final = "(?:0?[1-9]|[12][0-9]|3[01])"
_YEAR: Final = "(?:18|19|20)[0-9]{2}"
_DATE: Final = "|".join((
    rf"{_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.]{_DAY}(?:[T ][0-9]{{2}}:[0-9:.]{{2,15}}(?:Z|[+-][0-9:]{{4,6}})?)?",
    rf"{_DAY}[-/.]{_DAY}[-/.](?:{_YEAR}|[0-9]{{2}})",
    rf"{_DAY}(?:st|nd|rd|th|\.)?[ -]{_MONTH}\.?,?[ -]{_YEAR}",
    rf"{_MONTH}\.? {_DAY}(?:st|nd|rd|th)?,? {_YEAR}",
    rf"{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])",
))  # fmt: skip

BIRTH_DATE_LABELS: Final = Labels(
    "date_of_birth|birth_dat(?:e|um)|birth_day|geburts_(?:datum|tag)|fecha_(?:de_)?nacimiento|date_(?:de_)?naissance"
    "|data_(?:di_)?nasc(?:ita|imento)|geboorte_datum|data_urodzenia|born(?:_on)?|生年月日|出生日期",
    r"dob|d\.o\.b|d\.o\.b\.|bday",
    ("birth_da", "_birth", "geburts", "nacimiento", "naissance", "data_nasc", "_di_nasc", "geboorte", "urodzenia", "born",
     "生年月日", "出生日期", "dob=", "d.o.b=", "d.o.b.=", "bday=", "dob~", "d.o.b~", "d.o.b.~", "bday~"),
    r"dob|d\.o\.b|d\.o\.b\.|bday",
)  # fmt: skip

PASSPORT_LABELS: Final = Labels(
    "passport_(?:number|num|nr|no|id)?|reisepass_(?:nummer|nr)?|pass_nummer|passeport|pasaporte|paspoort_(?:nummer)?"
    "|passaporto|护照号?码?",
    "",
    ("passport", "reisepass", "pass_nummer", "passeport", "pasaporte", "paspoort", "passaporto", "护照"),
)  # fmt: skip
_PASSPORT: Final = (
    r"(?i:[A-Z]{1,2}[0-9]{6,8}|[0-9]{2}[A-Z]{2}[0-9]{5}|[0-9]{7,9}|[A-Z]{3}[0-9]{6}"
    r"|[CFGHJKLMNPRTVWXYZ][CFGHJKLMNPRTVWXYZ0-9]{7}[0-9]{1,2})\b"
)

LICENCE_LABELS: Final = Labels(
    "driv(?:er|ing)(?:'s?|s)?_licen[cs]e|f(?:ü|ue)hrerschein_(?:nummer|nr)?|permis_de_conduire|rijbewijs_(?:nummer)?"
    "|(?:licencia|carn(?:e|é)t?)_de_conduc(?:ir|ción)|patente_di_guida",
    "dl_n(?:o|um|umber)|dln",
    ("driver_licen", "drivers_licen", "driver's_licen", "driver'_licen", "driving_licen", "drivings_licen", "driving's_licen",
     "hrerschein", "de_conduire", "rijbewijs", "de_conduc", "patente_di", "dl_no=", "dl_num=", "dl_number=", "dln="),
)  # fmt: skip
_BRITISH_LICENCE: Final = (
    "[A-Z9]{5}[0-9](?:0[1-9]|1[0-2]|5[1-9]|6[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9][A-Z9]{2}[A-Z0-9][A-Z]{2}"
)
_LICENCE: Final = (
    rf"(?:{_BRITISH_LICENCE}|[A-Z]{{0,3}}[- ]?[0-9](?:[ -]?[0-9]){{5,15}}|[0-9]{{2}}[A-Z]{{2}}[0-9]{{5}}"
    r"|[A-Z]{1,2}[0-9]{2}[ -]?[0-9]{4}[0-9 -]{0,8}[0-9]|[A-Z][0-9][A-Z0-9]{6,9}[0-9])\b"
)

_LETTER: Final = "A-Za-zÀ-ӿ一-鿿"
_CAPITAL: Final = "A-ZÀ-ÞĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŸŹŻŽȘȚΑ-ΩА-Я一-鿿"
_WORD: Final = rf"[{_LETTER}][{_LETTER}'\u2019-]{{0,30}}\.?"
_PARTICLES: Final = "(?:(?i:von|van|der|den|ten|ter|zu|de|da|do|dos|del|della|di|du|la|le|al|el|bin|ibn|mac) ){0,2}"
_CAPITALISED: Final = rf"{_PARTICLES}[{_CAPITAL}](?:[{_LETTER}'\u2019-]{{0,30}}|\.)"
NAME_LABELS: Final = Labels(
    "(?:first|last|middle|given|family|maiden|full|legal|contact|customer|patient|employee|card_holder|account_holder"
    "|holder|beneficiary|recipient|passenger|guest|payee|payer|birth)_name"
    "|vorname|nachname|familienname|geburtsname|pr(?:e|é)nom|apellidos?|cognome|surname|forename|nazwisko|voornaam"
    "|achternaam|card_holder|имя|фамилия|姓名",
    "",
    ("first_name", "last_name", "middle_name", "given_name", "family_name", "maiden_name", "full_name", "legal_name",
     "contact_name", "customer_name", "patient_name", "employee_name", "holder_name", "beneficiary_name", "recipient_name",
     "passenger_name", "guest_name", "payee_name", "payer_name", "birth_name", "vorname", "nachname", "familienname",
     "geburtsname", "prenom", "prénom", "apellido", "cognome", "surname", "forename", "nazwisko", "voornaam", "achternaam",
     "card_holder", "имя", "фамилия", "姓名"),
)  # fmt: skip
_QUOTED_NAME: Final = NAME_LABELS.followed_by(QUOTE + SIGN, "")
_BARE_NAME: Final = NAME_LABELS.followed_by(SIGN, "")
_NO_NAME: Final = r"\\<>{}\[\]=:@/0-9\r\n"
_NAME: Final = "|".join((
    rf"""({_QUOTED_NAME}\\*")[^"{_NO_NAME}]{{1,100}}""",
    rf"""({_QUOTED_NAME}\\*')[^'"{_NO_NAME}]{{1,100}}""",
    rf"({_BARE_NAME})(?:{_CAPITALISED}(?: {_CAPITALISED}){{0,3}}|{_WORD}(?:, {_CAPITALISED})?)",
))  # fmt: skip


def _check_digit(field: str) -> str:
    """ICAO Doc 9303, part 3, 4.9."""
    values = (0 if character == "<" else int(character, 36) for character in field)
    return str(sum(value * (7, 3, 1)[index % 3] for index, value in enumerate(values)) % 10)


def machine_readable(match: re.Match[str]) -> int:
    """The second line of a passport's machine-readable zone, whose check digits of number, birth and expiry hold."""
    line = match.string[match.end() - 44 : match.end()]
    fields = ((line[0:9], line[9]), (line[13:19], line[19]), (line[21:27], line[27]))
    return match.end() if all(_check_digit(field) == digit for field, digit in fields) else REJECTED


_SECOND_LINE: Final = "[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{6}[0-9][MFX<][0-9]{6}[0-9][A-Z0-9<]{14}[0-9<][0-9]"

DOCUMENT_RULES: Final = (
    Rule(
        "machine_readable_passport",
        "passport",
        "[0-9][A-Z<]{3}[0-9]{6}",
        rf"(?:P[A-Z<][A-Z<]{{42}}(?:\r?\n|\\{{1,7}}n| )?)?{_SECOND_LINE}",
        check=machine_readable,
        group=SPARSE,
    ),
    *labelled("passport", "passport", PASSPORT_LABELS, _PASSPORT, number=r"[0-9]{7,9}\b", sign=False),
    *labelled("driving_licence", "driving_licence", LICENCE_LABELS, _LICENCE, number=r"[0-9]{6,16}\b", sign=False),
    *labelled(
        "birth_date",
        "birth_date",
        BIRTH_DATE_LABELS,
        rf"(?:{_DATE})\b",
        number=r"(?:18|19|20)[0-9]{6}\b",
        sign=False,
    ),
    Rule("name", "name", folded(NAME_LABELS.stems), _NAME, group=SPARSE, stems=NAME_LABELS.stems),
)
