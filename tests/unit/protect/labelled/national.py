"""National and tax numbers of persons: drawn until python-stdnum finds one valid."""

from __future__ import annotations

import importlib
import random
import string

from heimdall_server.protect.national_id_schemes import SPACED
from tests.unit.protect.labelled.lines import Item, digits, text

_UPPER = string.ascii_uppercase
_CONSONANTS = "BCDFGHJKLMNPQRSTVXYZ"

FORMS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    # stdnum's module; labels; 9: digit, A: letter, Y: yymmdd, D: ddmmyy, C: yyyymmdd, B: consonant, other: itself
    ("pl.pesel", ("pesel", "PESEL"), "Y99999"),
    ("es.dni", ("dni", "DNI", "nif"), "99999999A"),
    ("es.nie", ("nie", "NIE"), "X9999999A"),
    ("fr.nir", ("nir", "sécurité sociale", "numero de securite sociale"), "1990617999999!!"),
    ("it.codicefiscale", ("codice_fiscale", "codice fiscale"), "BBBBBB80A01H501!"),
    ("be.nn", ("niss", "rijksregisternummer", "insz"), "Y999!!"),
    ("nl.bsn", ("bsn", "BSN", "burgerservicenummer"), "99999999!"),
    ("de.idnr", ("steuer_id", "Steuer-ID", "steueridentifikationsnummer"), "99999999999"),
    ("no.fodselsnummer", ("fodselsnummer", "fødselsnummer"), "D99999"),
    ("se.personnummer", ("personnummer", "Personnummer"), "Y-9999"),
    ("dk.cpr", ("cpr", "CPR"), "D-9999"),
    ("fi.hetu", ("hetu", "henkilötunnus"), "D-999!"),
    ("ro.cnp", ("cnp", "CNP"), "1Y12999!"),
    ("bg.egn", ("egn", "EGN"), "Y9999"),
    ("hr.oib", ("oib", "OIB"), "99999999999"),
    ("cz.rc", ("rodne_cislo", "rodné číslo"), "Y/9999"),
    ("tr.tckimlik", ("tc_kimlik_no", "kimlik no", "tckn"), "9999999999!"),
    ("br.cpf", ("cpf", "CPF"), "999.999.999-99"),
    ("cl.rut", ("rut", "RUT"), "12.999.999-9"),
    ("ar.cuit", ("cuit", "cuil"), "20-99999999-9"),
    ("mx.curp", ("curp", "CURP"), "BOBBYHNLBBB09"),
    ("in_.aadhaar", ("aadhaar", "aadhar_number"), "9999 9999 9999"),
    ("in_.pan", ("pan_card", "permanent account number"), "BBBPB9999B"),
    ("cn.ric", ("身份证号", "resident_identity"), "110101C999!"),
    ("kr.rrn", ("rrn", "resident_registration_number"), "Y-1999999"),
    ("jp.in_", ("my_number", "mynumber"), "999999999999"),
    ("za.idnr", ("sa_id", "south african id"), "Y999908!"),
    ("gb.nhs", ("nhs_number", "NHS no"), "999 999 9999"),
    ("ie.pps", ("ppsn", "PPS"), "9999999A"),
    ("ca.sin", ("sin", "social_insurance_number"), "999-999-999"),
    ("au.tfn", ("tfn", "tax_file_number"), "999 999 999"),
    ("nz.ird", ("ird", "IRD number"), "99-999-999"),
    ("lt.asmens", ("asmens_kodas",), "3Y999!"),
    ("ee.ik", ("isikukood",), "3Y999!"),
    ("ch.ssn", ("ahv", "AHV-Nr", "sozialversicherungsnummer"), "756.9999.9999.99"),
    ("pt.nif", ("contribuinte", "nif"), "29999999!"),
    ("il.idnr", ("teudat_zehut",), "99999999!"),
    ("us.itin", ("itin", "ITIN"), "999-99-9999"),
)  # fmt: skip


def _drawn(draw: random.Random, form: str) -> str:
    year, month, day = draw.randrange(40, 100), draw.randrange(1, 13), draw.randrange(1, 29)
    parts = {
        "Y": f"{year:02}{month:02}{day:02}",
        "D": f"{day:02}{month:02}{year:02}",
        "C": f"19{year:02}{month:02}{day:02}",
    }
    return "".join(
        digits(draw, 1)
        if c in "9!"
        else text(draw, _UPPER, 1)
        if c == "A"
        else text(draw, _CONSONANTS, 1)
        if c == "B"
        else parts.get(c, c)
        for c in form
    )


def valid_number(draw: random.Random, scheme: tuple[str, tuple[str, ...], str]) -> str:
    """A number of a scheme of `FORMS`."""
    module, _, form = scheme
    checked = importlib.import_module(f"stdnum.{module}")
    alphabet = _UPPER if form[-1] == "!" and module in ("it.codicefiscale", "fi.hetu") else string.digits
    for _ in range(20_000):
        number = _drawn(draw, form.replace("!", "9")) if form[-1] != "!" else _drawn(draw, form)
        if checked.is_valid(number):
            return number
        if form[-1] == "!":
            ends = (
                f"{number[:-1]}{last}" for last in (alphabet if alphabet is string.digits else _UPPER + string.digits)
            )
            found = [one for one in ends if checked.is_valid(one)]
            if found:
                return draw.choice(found)
    raise AssertionError(module)


def national_id(draw: random.Random) -> Item:
    """Of 38 schemes, behind their labels; of Brazil and Italy, whose form and checksum suffice, also without."""
    scheme = draw.choice(FORMS)
    module, labels, _ = scheme
    number = valid_number(draw, scheme)
    if module in ("br.cpf", "it.codicefiscale") and draw.random() < 0.5:
        return Item(number)
    keys = tuple(label for label in labels if " " not in label)
    spaced = tuple(f"{label} {{}}" for label in labels if label.lower() in SPACED)
    return Item(number, keys, (*(f"{label}{sign}{{}}" for label in labels for sign in (": ", "=", ":")), *spaced))
