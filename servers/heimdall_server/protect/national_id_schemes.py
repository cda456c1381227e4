"""How countries number people: labels, shape and checksum of each scheme. What validates is python-stdnum's, where it can."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from stdnum.ar import cuit
from stdnum.au import tfn
from stdnum.be import nn as be_nn
from stdnum.bg import egn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ch_ssn
from stdnum.cl import rut
from stdnum.cn import ric
from stdnum.cz import rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.ee import ik
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nif as fr_nif
from stdnum.fr import nir
from stdnum.gb import nhs, utr
from stdnum.hr import oib
from stdnum.id import nik
from stdnum.ie import pps
from stdnum.il import idnr as il_idnr
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.jp import in_ as jp_in
from stdnum.kr import rrn
from stdnum.lt import asmens
from stdnum.lv import pvn
from stdnum.mx import curp
from stdnum.my import nric
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.nz import ird
from stdnum.pl import pesel
from stdnum.pt import nif as pt_nif
from stdnum.ro import cnp
from stdnum.se import personnummer
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.us import itin
from stdnum.za import idnr as za_idnr

from heimdall_server.protect.labels import Labels

_TAIWAN: Final = "ABCDEFGHJKLMNPQRSTUVXYWZIO"
_SINGAPORE: Final = {"S": (0, "JZIHGFEDCBA"), "T": (4, "JZIHGFEDCBA"), "F": (0, "XWUTRQPNMLK"), "G": (4, "XWUTRQPNMLK")}


def taiwan(number: str) -> bool:
    """Whether the check digit of a national identification number of Taiwan is right."""
    code = _TAIWAN.index(number[0]) + 10
    digits = [code // 10, code % 10, *map(int, number[1:])]
    return (
        sum(digit * weight for digit, weight in zip(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True)) % 10 == 0
    )


def singapore(number: str) -> bool:
    """Whether the check letter of an NRIC or FIN of Singapore is right (series S, T, F, G)."""
    extra, letters = _SINGAPORE[number[0]]
    weighted = (int(digit) * weight for digit, weight in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    return letters[(extra + sum(weighted)) % 11] == number[8]


def hong_kong(number: str) -> bool:
    """Whether the check digit of an identity card of Hong Kong is right."""
    plain = number.translate(str.maketrans("", "", "()")).rjust(9)
    values = [36 if character == " " else int(character, 36) for character in plain[:-1]]
    check = 10 if plain[-1] == "A" else int(plain[-1])
    return (sum(value * weight for value, weight in zip(values, range(9, 1, -1), strict=True)) + check) % 11 == 0


def anything(number: str) -> bool:
    """For schemes without a checksum: their shape and label must do."""
    del number
    return True


@dataclass(frozen=True)
class Scheme:
    """One way to number people."""

    country: str
    labels: Labels
    shape: str
    """Regex, whole value, upper-case."""
    valid: Callable[[str], bool]
    """Whether a value of that shape is one."""

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        parts = filter(None, (self.labels.inner(), self.labels.alone()))
        return re.compile(self.shape, re.ASCII), re.compile("|".join(parts), re.ASCII)

    def labelled_by(self, label: str) -> bool:
        """Whether a label, lower-case, is one of the scheme's."""
        return self._compiled[1].search(label) is not None

    def fits(self, value: str) -> bool:
        """Whether a value, upper-case, is a number of the scheme."""
        return self._compiled[0].fullmatch(value) is not None and self.valid(value)


def _scheme(
    country: str, telling: str, short: str, stems: str, shape: str, valid: Callable[[str], bool] = anything
) -> Scheme:
    return Scheme(country, Labels(telling, short, tuple(stems.split())), shape, valid)


_9: Final = "[0-9]{3}[ .-]?[0-9]{3}[ .-]?[0-9]{3}"
_11: Final = "[0-9]{11}"
_DMY: Final = "(?:0[1-9]|[12][0-9]|3[01])(?:0[1-9]|1[0-2])[0-9]{2}"

SCHEMES: Final = (
    _scheme("ar", "", "cui[tl]", "cuit= cuil=", "[0-9]{2}[ .-]?[0-9]{8}[ .-]?[0-9]", cuit.is_valid),
    _scheme("au", "tax_file", "tfn", "tax_file tfn=", _9, tfn.is_valid),
    _scheme(
        "be",
        "rijksregister(?:nummer)?|nationaal_nummer|registre_national|numero_national",
        "insz|niss",
        "rijksregister nationaal_num registre_national numero_national insz= niss=",
        r"[0-9]{2}[.]?[0-9]{2}[.]?[0-9]{2}[ -]?[0-9]{3}[. ]?[0-9]{2}",
        be_nn.is_valid,
    ),
    _scheme("bg", "", "egn|егн", "egn= егн=", "[0-9]{10}", egn.is_valid),
    _scheme("br", "", "cpf", "cpf=", r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}", cpf.is_valid),
    _scheme("ca", "social_insurance", "sin", "social_insurance sin=", _9, sin.is_valid),
    _scheme(
        "ch", "sozialversicherungs_(?:nummer|nr)", "ahv|n?avs", "sozialvers ahv= avs=",
        r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", ch_ssn.is_valid,
    ),
    _scheme("cl", "", "rut", "rut=", r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}-?[0-9K]", rut.is_valid),
    _scheme("cn", "身份证号?码?|shenfenzheng|resident_identity", "sfz", "身份证 shenfenzheng resident_identity sfz=",
            "[1-9][0-9]{16}[0-9X]", ric.is_valid),
    _scheme("cz", "rodn(?:e|é)_(?:c|č)(?:i|í)slo", "", "rodne rodné", "[0-9]{6}/?[0-9]{3,4}", rc.is_valid),
    _scheme("de", "steuer_id(?:entifikationsnummer|nr)?|steuerliche_identifikationsnummer", "idnr", "steuer_id steuerlich idnr=",
            "[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", idnr.is_valid),
    _scheme("dk", "", "cpr", "cpr=", f"{_DMY}[- ]?[0-9]{{4}}", lambda number: cpr.is_valid(number.replace(" ", ""))),
    _scheme("ee", "isikukood", "", "isikukood", _11, ik.is_valid),
    _scheme("es", "", "dni", "dni=", "[0-9]{8}[ -]?[A-Z]", dni.is_valid),
    _scheme("es", "", "nie|nif", "nie= nif=", "[XYZ][ -]?[0-9]{7}[ -]?[A-Z]", nie.is_valid),
    _scheme("es", "", "nif", "nif=", "[0-9]{8}[ -]?[A-Z]", dni.is_valid),
    _scheme("fi", "henkil(?:ö|o)tunnus|hetu", "", "henkil hetu", "[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", hetu.is_valid),
    _scheme("fr", "s(?:e|é)curit(?:e|é)_sociale", "nir|insee", "_sociale nir= insee=",
            "[1-478][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?[0-9][0-9AB][ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{2}", nir.is_valid),
    _scheme("fr", "num(?:e|é)ro_fiscal", "spi", "fiscal spi=", "[0-3][0-9] ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
            fr_nif.is_valid),
    _scheme("gb", "national_insurance|ni_number", "nino", "national_insur ni_number nino=",
            "[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"),
    _scheme("gb", "", "nhs", "nhs=", "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", nhs.is_valid),
    _scheme("gb", "", "utr", "utr=", "[0-9]{5} ?[0-9]{5}", utr.is_valid),
    _scheme("hk", "", "hkid", "hkid=", r"[A-Z]{1,2}[0-9]{6}(?:\([0-9A]\)|[0-9A])", hong_kong),
    _scheme("hr", "", "oib", "oib=", _11, oib.is_valid),
    _scheme("id", "", "nik|ktp", "nik= ktp=", "[0-9]{16}", nik.is_valid),
    _scheme("ie", "", "ppsn?", "pps= ppsn=", "[0-9]{7}[A-W][A-IW]?", pps.is_valid),
    _scheme("il", "teudat_zehut", "", "teudat", "[0-9]{8,9}", il_idnr.is_valid),
    _scheme("in", "aadhaa?r", "", "aadha", "[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", aadhaar.is_valid),
    _scheme("in", "permanent_account|pan_card", "pan", "permanent_acc pan_card pan=", "[A-Z]{5}[0-9]{4}[A-Z]", pan.is_valid),
    _scheme("it", "codice_fiscale|cod_fisc(?:ale)?", "", "codice_fisc cod_fisc",
            "[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", codicefiscale.is_valid),
    _scheme("jp", "my_number|個人番号|マイナンバー", "", "my_number 個人番号 マイナンバー", "[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
            jp_in.is_valid),
    _scheme("kr", "resident_registration|주민등록번호", "rrn", "resident_regis 주민등록번호 rrn=", "[0-9]{6}-?[0-9]{7}", rrn.is_valid),
    _scheme("lt", "asmens_kodas", "", "asmens", _11, asmens.is_valid),
    _scheme("lv", "personas_kods", "", "personas_k", f"{_DMY}-?[0-9]{{5}}", pvn.is_valid),
    _scheme("mx", "curp", "", "curp", "[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", curp.is_valid),
    _scheme("my", "mykad", "", "mykad", "[0-9]{6}-?[0-9]{2}-?[0-9]{4}", nric.is_valid),
    _scheme("nl", "burgerservicenummer|sofi_nummer", "bsn", "burgerservice sofi_num bsn=", r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}",
            bsn.is_valid),
    _scheme("no", "f(?:ø|o)dsels_(?:nummer|nr)|person_nummer", "", "dsels_n person_num", "[0-9]{6} ?[0-9]{5}",
            fodselsnummer.is_valid),
    _scheme("nz", "", "ird", "ird=", "[0-9]{2,3}-?[0-9]{3}-?[0-9]{3}", ird.is_valid),
    _scheme("pl", "pesel", "", "pesel", _11, pesel.is_valid),
    _scheme("pt", "contribuinte", "nif", "contribuinte nif=", "[1-35689][0-9]{2} ?[0-9]{3} ?[0-9]{3}", pt_nif.is_valid),
    _scheme("ro", "", "cnp", "cnp=", "[1-9][0-9]{12}", cnp.is_valid),
    _scheme("se", "person_(?:nummer|nr)", "", "person_num person_nr", "(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}", personnummer.is_valid),
    _scheme("sg", "", "nric|fin", "nric= fin=", "[STFG][0-9]{7}[A-Z]", singapore),
    _scheme("th", "เลขประจำตัวประชาชน|thai_id", "", "เลขประจำตัว thai_id", "[0-9]-?[0-9]{4}-?[0-9]{5}-?[0-9]{2}-?[0-9]",
            pin.is_valid),
    _scheme("tr", "kimlik", "tckn", "kimlik tckn=", "[1-9][0-9]{10}", tckimlik.is_valid),
    _scheme("tw", "身分證(?:字號)?|taiwan_id", "", "身分證 taiwan_id", "[A-Z][1289][0-9]{8}", taiwan),
    _scheme("us", "individual_taxpayer", "itin", "individual_taxp itin=", "9[0-9]{2}-?[0-9]{2}-?[0-9]{4}", itin.is_valid),
    _scheme("za", "south_african_id", "rsa_id|sa_id|za_id", "south_african_id rsa_id= sa_id= za_id=", "[0-9]{6} ?[0-9]{4} ?[0-9]{3}", za_idnr.is_valid),
)  # fmt: skip
"""Each country's, in the order in which they are tried."""

SPACED: Final = (
    "ahv", "avs", "bsn", "cnp", "cpf", "cuil", "cuit", "dni", "egn", "hkid", "idnr", "insz", "itin", "nhs", "nie", "nif", "nino",
    "niss", "nric", "oib", "ppsn", "rrn", "rut", "tckn", "tfn",
)  # fmt: skip
"""Short labels that need no sign: what must stand behind them is a number whose form or checksum tells it."""

GENERIC: Final = Labels(
    "national_id(?:entity|entification)?|tax_(?:id(?:entification)?|number|no)|taxpayer_id(?:entification)?"
    "|personal_(?:id(?:entification)?|identity|number|code)|identity_(?:card|number|no)|identification_number|id_card"
    "|citizen_id|resident_id|fiscal_code|government_id|social_security",
    "tin|nin|id_no|id_number",
    ("national_id", "tax_id", "tax_n", "taxpayer_id", "personal_id", "personal_n", "personal_code", "identity_card", "identity_n",
     "identification_n", "id_card", "citizen_id", "resident_id", "fiscal_code", "government_id", "social_security", "tin=", "nin=",
     "id_no=", "id_number="),
)  # fmt: skip
"""Labels that say no country: every scheme is tried."""
