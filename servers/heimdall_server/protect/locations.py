"""Rules for where somebody is: geo-coordinates and street addresses."""

from __future__ import annotations

import re
from typing import Final

from heimdall_server.protect.checks import REJECTED
from heimdall_server.protect.labels import QUOTE, SIGN, Labels, labelled
from heimdall_server.protect.rules import SPARSE, START, Rule
from heimdall_server.protect.stems import folded

COORDINATE_LABELS: Final = Labels(
    "latitude|longitude", "lat|lon|lng|long", ("latitude", "longitude", "lat=", "lon=", "lng=", "long=")
)
"""One half of a place; what stands in it has decimals."""
PLACE_LABELS: Final = Labels(
    "geo_(?:location|point|position|coordinates?)|lat_l(?:ng|on|ong)|coordinates?",
    "geo|coords?|loc|location|position|point|pos|ll|center|gps|destination|origin",
    (
        "geo_l",
        "geo_p",
        "geo_c",
        "lat_l",
        "coordinate",
        "geo=",
        "coord=",
        "coords=",
        "loc=",
        "location=",
        "position=",
        "point=",
        "pos=",
        "ll=",
        "center=",
        "gps=",
        "destination=",
        "origin=",
    ),
)
_WHOLE_DEGREES: Final = "[+-]?(?:1[0-7][0-9]|180|[1-9]?[0-9])"
_DEGREES: Final = rf"{_WHOLE_DEGREES}\.[0-9]{{2,18}}"
_FINE: Final = rf"{_WHOLE_DEGREES}\.[0-9]{{3,18}}"
_PAIR: Final = rf"{_FINE}(?:[ \t]{{0,2}}[,;/][ \t]{{0,2}}|[ \t]){_FINE}"
_JSON_DEGREES: Final = r"[ \t\r\n]*-?[0-9]{1,3}\.[0-9]{1,18}[ \t\r\n]*"
_JSON_PAIR: Final = rf"\[{_JSON_DEGREES},{_JSON_DEGREES}(?:,[ \t\r\n]*-?[0-9.]{{1,12}}[ \t\r\n]*)?\]"
_SEXAGESIMAL: Final = (
    r"""[0-9]{1,3} ?[°º] ?[0-9]{1,2} ?['\u2032\u2019] ?(?:[0-9]{1,2}(?:\.[0-9]{1,6})? ?(?:["″”]|''|\\") ?)?[NSEW]"""
)

_UP: Final = "A-ZÀ-ÞŒŠŽ"
_LOW: Final = "A-Za-zß-ÿÀ-Þœšž"
_PROPER: Final = rf"[{_UP}][{_LOW}'\u2019.-]{{0,24}}"
_HOUSE: Final = r"[0-9]{1,6}(?:-[0-9]{1,6})?[A-Za-z]?"
_STREETS: Final = "Street|Avenue|Road|Boulevard|Lane|Drive|Highway|Parkway|Terrace|Crescent"
_SHORT_STREETS: Final = "St|Ave|Rd|Blvd|Ln|Dr|Hwy|Pkwy"
_TOWN: Final = (
    rf"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor)\.? [A-Za-z0-9-]{{1,6}})?(?:, {_PROPER}(?: {_PROPER}){{0,2}})?"
    r"(?:,? [A-Z]{2})?(?:,? [0-9]{5}(?:-[0-9]{4})?|,? [A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2})?"
)
_ENGLISH: Final = (
    rf"{_HOUSE} (?:[NSEW]\.? )?(?:{_PROPER} ){{1,3}}(?:(?:{_STREETS})\b|(?:{_SHORT_STREETS})(?:\.|, {_PROPER})){_TOWN}"
)
_GERMAN: Final = (
    rf"[{_UP}][{_LOW}-]{{2,30}}(?:stra(?:ß|ss)e|str\.|weg|allee|gasse|platz) {_HOUSE},? (?:[A-Z]{{1,2}}-)?[0-9]{{4,5}}"
    rf" {_PROPER}|[{_UP}][{_LOW}-]{{2,30}}(?:stra(?:ß|ss)e|str\.|straat) {_HOUSE}"
)
_FRENCH_WAYS: Final = "rue|avenue|boulevard|chemin|impasse|allée|quai|place"
_FRENCH: Final = (
    rf"{_HOUSE}(?: ?(?:bis|ter))?,? (?:{_FRENCH_WAYS}) (?:(?:de|du|des|la|le|les) |[dl]['\u2019])*"
    rf"{_PROPER}(?: {_PROPER}){{0,3}}(?:,? [0-9]{{5}} {_PROPER})?"
)
ADDRESS_LABELS: Final = Labels(
    "(?:street|postal|home|shipping|billing|mailing|residential|delivery|residence)_addr(?:ess)?(?:_line)?_[12]?"
    "|addr(?:ess)?_line_[12]?|street_name|anschrift|wohnadresse|adresse_postale|direcci(?:o|ó)n_postal"
    "|indirizzo_di_residenza",
    "",
    (
        "street_addr",
        "postal_addr",
        "home_addr",
        "shipping_addr",
        "billing_addr",
        "mailing_addr",
        "residential_addr",
        "delivery_addr",
        "residence_addr",
        "addr_line",
        "address_line",
        "street_name",
        "anschrift",
        "wohnadresse",
        "adresse_postale",
        "direccion_postal",
        "dirección_postal",
        "indirizzo_di",
    ),
)
_QUOTED: Final = ADDRESS_LABELS.followed_by(QUOTE + SIGN, "")
_BARE: Final = ADDRESS_LABELS.followed_by(SIGN, "")
_MAP_STEMS: Final = ("/@", "=@", "geo:", "point(", "point (")
_DEGREE_SIGNS: Final = ("°", "º")
_ENGLISH_STEMS: Final = (
    *(f" {way.lower()}" for way in _STREETS.split("|")),
    *(f" {way.lower()}{end}" for way in _SHORT_STREETS.split("|") for end in ".,"),
)
_GERMAN_STEMS: Final = ("straße ", "strasse ", "str. ", "straat ", "weg ", "allee ", "gasse ", "platz ")
_FRENCH_STEMS: Final = tuple(f" {way} " for way in _FRENCH_WAYS.split("|"))

# What may come behind an address in a sentence; any other word shows that the street's word was a common noun (`88 Server Road map ids`).
_GOES_ON: Final = re.compile(
    r" (?!(?:and|are|at|before|but|by|for|from|if|in|is|near|next|of|on|opposite|or|since|to|until|was|where|which|with)\b)[a-z]"
)


def _ends_as_address(match: re.Match[str]) -> int:
    """Where the address ends; rejected where a common noun goes on, unless it ended in a postcode."""
    if match[0][-1].isdigit():
        return match.end()
    return REJECTED if _GOES_ON.match(match.string, match.end()) else match.end()


LOCATION_RULES: Final = (
    *labelled("place", "geo", PLACE_LABELS, rf"{_PAIR}\b", number=_JSON_PAIR),
    *labelled("coordinate", "geo", COORDINATE_LABELS, rf"{_DEGREES}\b", number=rf"{_DEGREES}\b"),
    Rule(
        "map_link",
        "geo",
        folded(_MAP_STEMS),
        rf"([/=]@|\bgeo:){_FINE},{_FINE}\b|(\bPOINT ?\( ?){_FINE} {_FINE}\b",
        group=SPARSE,
        stems=_MAP_STEMS,
    ),
    Rule(
        "sexagesimal",
        "geo",
        folded(_DEGREE_SIGNS),
        rf"{_SEXAGESIMAL}(?:[,; ]{{0,2}}{_SEXAGESIMAL})?\b",
        group=SPARSE,
        stems=_DEGREE_SIGNS,
    ),
    Rule(
        "labelled_address",
        "address",
        folded(ADDRESS_LABELS.stems),
        rf"""({_QUOTED}\\*")[^"\\\[\]{{}}\r\n]{{4,200}}|({_QUOTED}\\*')[^'"\\\[\]{{}}\r\n]{{4,200}}"""
        rf"|({_BARE})(?:{_HOUSE},? {_PROPER}(?:,? [A-Za-z0-9.-]{{1,25}}){{0,4}}"
        rf"|{_PROPER}(?: {_PROPER}){{0,3}},? {_HOUSE}(?:,? [0-9]{{1,6}}[A-Za-z]?(?: {_PROPER}){{1,4}})?)",
        group=SPARSE,
        stems=ADDRESS_LABELS.stems,
    ),
    Rule(
        "english_address",
        "address",
        folded(_ENGLISH_STEMS),
        START + _ENGLISH,
        check=_ends_as_address,
        group=SPARSE,
        stems=_ENGLISH_STEMS,
    ),
    Rule(
        "german_address",
        "address",
        folded(_GERMAN_STEMS),
        rf"{START}(?:{_GERMAN})\b",
        group=SPARSE,
        stems=_GERMAN_STEMS,
    ),
    Rule(
        "french_address",
        "address",
        folded(_FRENCH_STEMS),
        START + _FRENCH,
        group=SPARSE,
        stems=_FRENCH_STEMS,
    ),
)
