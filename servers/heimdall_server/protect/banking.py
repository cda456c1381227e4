"""Rules for bank accounts: account numbers, sort codes, routing numbers. An IBAN has its own class."""

from __future__ import annotations

import re
from typing import Final

from stdnum.us import rtn

from heimdall_server.protect.checks import REJECTED
from heimdall_server.protect.labels import Labels, labelled

ACCOUNT_LABELS: Final = Labels(
    "(?:bank|checking|savings?|giro|depot)_(?:account|acct|konto)|acc(?:oun)?t_(?:number|num|no|nr)|konto_(?:nummer|nr)"
    "|sort_code|n(?:u|ú)mero_de_cuenta|num(?:e|é)ro_de_compte|rekening_nummer|conto_corrente",
    "clabe|cbu|bsb|ccc|a/c",
    (
        "account_n",
        "acct_n",
        "bank_acc",
        "bank_konto",
        "checking_acc",
        "checking_konto",
        "saving_acc",
        "savings_acc",
        "saving_konto",
        "savings_konto",
        "giro_acc",
        "giro_konto",
        "depot_acc",
        "depot_konto",
        "konto_n",
        "sort_code",
        "de_cuenta",
        "de_compte",
        "rekening_n",
        "conto_corrente",
        "clabe=",
        "cbu=",
        "bsb=",
        "ccc=",
        "a/c=",
    ),
)
ROUTING_LABELS: Final = Labels(
    "routing_(?:number|num|no|nr|transit)|aba_(?:number|no|routing)",
    "aba|rtn",
    ("routing_n", "routing_transit", "aba_n", "aba_routing", "aba=", "rtn="),
)

_ACCOUNT: Final = r"(?:[0-9]{6,20}|[0-9]{1,6}(?:[ -][0-9]{2,10}){1,6})\b"


def routing_number(match: re.Match[str]) -> int:
    """A routing transit number of the American Bankers Association whose check digit is right."""
    return match.end() if rtn.is_valid(match.string[match.end(1) : match.end()]) else REJECTED


BANK_RULES: Final = (
    *labelled(
        "routing_number",
        "bank_account",
        ROUTING_LABELS,
        r"[0-9]{9}\b",
        number=r"[0-9]{9}\b",
        check=routing_number,
        sign=False,
    ),
    *labelled("bank_account", "bank_account", ACCOUNT_LABELS, _ACCOUNT, number=r"[0-9]{6,18}\b", sign=False),
)
