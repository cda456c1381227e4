"""What names of columns suggest and their content has to bear out: `kontakt`, `geb`, `konto`.

Weaker than the names in `names`, which say enough by themselves: each stands here with the form that nearly all values of the column
must have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LETTER: Final = "A-Za-zÀ-ɏͰ-ӿ一-鿿"
_CAPITAL: Final = "A-ZÀ-ÞĀĂĄĆČĎĐĒĘĚĞĢĪĮİĶĹĻĽŁŃŅŇŌŐŒŘŚŞŠȘŢŤȚŪŮŰŲŹŻŽΑ-ΩА-Я一-鿿"
_PARTICLE: Final = "(?:von|van|der|den|de|da|do|del|della|di|du|la|le|al|bin|ibn|ter|zu) "
_WORD: Final = rf"(?:{_PARTICLE}){{0,2}}[{_CAPITAL}](?:[{_LETTER}'\u2019-]{{0,30}}|\.)"
_YEAR: Final = "(?:18|19|20)[0-9]{2}"
_DAY: Final = "(?:0?[1-9]|[12][0-9]|3[01])"
_MONTH: Final = "(?:0?[1-9]|1[0-2])"


@dataclass(frozen=True, slots=True)
class Hint:
    """Names that suggest a class, and how its values look."""

    data_class: str
    names: re.Pattern[str]
    """Searched in a name in lower case whose words are joined by `_`."""
    form: re.Pattern[str]
    """Of a whole value."""


def _hint(data_class: str, names: str, form: str) -> Hint:
    return Hint(data_class, re.compile(rf"(?:^|_)(?:{names})(?:_|[0-9]|$)"), re.compile(form))


HINTS: Final = (
    _hint(
        "phone",
        "kontakt|contact|fon|tel|tele(?:f|ph)oo?n[eo]?|handy|mobil|cell(?:ulare?)?|cellphone|fax|rufn(?:ummer|r)|tel_?n(?:r|o|ummer)"
        "|m(?:ó|o)vil|celular|gsm|whatsapp|portable|t(?:é|e)l(?:é|e)phone|puhelin|numer_tel(?:efonu)?",
        r"(?:\+|00?|\()?[0-9](?:[ ()./-]{0,3}[0-9]){6,14}",
    ),
    _hint(
        "birth_date",
        "geb|gebdat|gebdatum|gebtag|geboren(?:_am)?|birth|birthdt|b_day|born|nac|naci|nacido|f_nac|nais|naiss|n(?:é|e)e?_le|nasc|nascita|nasc_em"
        "|ur|urodz|data_ur|f(?:ö|o)dd|f(?:ø|o)dt|dogum|doğum",
        rf"(?:{_YEAR}[-/.]?{_MONTH}[-/.]?{_DAY}(?:[T ][0-9:.]{{5,15}}Z?)?|{_DAY}[-/. ]{_MONTH}[-/. ](?:{_YEAR}|[0-9]{{2}}))",
    ),
    _hint(
        "bank_account",
        "konto|kto|ktonr|account|acct|acc|compte|cuenta|conto|rekening|blz|bankverbindung",
        "[0-9]{3,6}(?:[ -]?[0-9]{2,6}){1,5}",
    ),
    _hint(
        "passport",
        "pass|passnr|passno|ausweis|ausweis_?nr|ausweisnummer|perso|personalausweis|passeport|id_?card|document_?(?:no|number)|doc_?no",
        "[A-Z]{1,3}[0-9]{5,8}|[CFGHJKLMNPRTVWXYZ][CFGHJKLMNPRTVWXYZ0-9]{8}|[0-9]{2}[A-Z]{2}[0-9]{5}",
    ),
    _hint(
        "name",
        "name|nachn|vorn|kunde|kundin|customer|client|patient(?:in)?|person|mitarbeiter(?:in)?|employee|kontakt|contact|ansprechpartner|owner"
        "|holder|inhaber|nom|nombre|nome|naam|imie|imię|member|mitglied|guest|gast|author|user_?name|full_?name",
        rf"{_WORD}(?:,? {_WORD}){{1,3}}",
    ),
    _hint(
        "address",
        "adresse|address|addr|strasse|straße|str|street|anschrift|wohnort|rue|calle|via|ulica|direccion|dirección|indirizzo",
        rf"(?=.*[{_LETTER}]{{3}})(?=.*[0-9])[^:@=<>{{}}\[\]]{{5,120}}",
    ),
    _hint(
        "geo",
        "koord|koordinaten|coord|coords|gps|position|pos|location|latlon|latlng|standort|ubicacion",
        r"-?[0-9]{1,2}\.[0-9]{3,12}[,; ]{1,2}-?[0-9]{1,3}\.[0-9]{3,12}",
    ),
)
"""In the order in which they are tried; of a column that several suit, the first."""

_JOINTS: Final = re.compile(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])|[ .:/-]+")


def folded_name(name: str) -> str:
    """A column's name in lower case, its words joined by `_`."""
    return _JOINTS.sub("_", name.strip()).lower()
