"""Rules for wallets of crypto-currencies, told by their checksums: class `crypto_wallet`; and for their private keys: `secret`.

Bitcoin, Litecoin, Cardano, Cosmos by Bech32 and Bech32m (BIP 173, BIP 350); Ethereum and its kin by EIP-55,
whose addresses in one case only have no checksum: those count for their `0x` and 40 digits. All others
need a label, and Bitcoin's older ones a right Base58Check, too: a gate by their shape alone would cost every text too much.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from heimdall_server.protect.checks import REJECTED
from heimdall_server.protect.keccak import keccak_256
from heimdall_server.protect.labels import Labels, labelled
from heimdall_server.protect.rules import SPARSE, START, Check, Rule

_BITCOIN: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_58: Final = "[1-9A-HJ-NP-Za-km-z]"
# Bytes of the payload by first byte: addresses have 20 behind their version, Zcash's two bytes of it.
_ADDRESS_BYTES: Final = (21, 22)
_BITCOIN_LENGTH_MAX: Final = 35
_MONERO_LENGTH: Final = 95
_TICKERS: Final = ("btc", "xbt", "bch", "ltc", "doge", "dash", "zec", "trx", "xmr")
"""Of coins whose addresses are told by a checksum or, Monero's, by their length: behind these words only those count."""
_TICKER: Final = re.compile(rf"(?i:{'|'.join(_TICKERS)})(?![A-Za-z_.-])", re.ASCII)
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_CONSTANTS: Final = (1, 0x2BC830A3)
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def base58_payload(text: str) -> bytes:
    """What a text in Base58Check holds; empty if the checksum is wrong."""
    number = 0
    for character in text:
        number = number * 58 + _BITCOIN.index(character)
    zeros = len(text) - len(text.lstrip("1"))
    data = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    payload, checksum = data[:-4], data[-4:]
    good = hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4] == checksum
    return payload if good else b""


def bech32_holds(text: str) -> bool:
    """Whether the checksum of a text in Bech32 or Bech32m, all in one case, is right."""
    prefix, _, data = text.lower().rpartition("1")
    if not prefix or not set(data) <= set(_BECH32):
        return False
    values = [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]
    checksum = 1
    for value in (*values, *map(_BECH32.index, data)):
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum in _BECH32_CONSTANTS


def ethereum(match: re.Match[str]) -> int:
    """An address whose letters' case is its checksum (EIP-55), or all in one case."""
    digits = match.string[match.end() - 40 : match.end()]
    if digits in (digits.lower(), digits.upper()):
        return match.end()
    digest = keccak_256(digits.lower().encode()).hex()
    raised = "".join(
        digit.upper() if int(nibble, 16) > 7 else digit.lower() for digit, nibble in zip(digits, digest, strict=False)
    )
    return match.end() if raised == digits else REJECTED


def labelled_wallet(match: re.Match[str]) -> int:
    """An address behind a label; one in Bitcoin's form only if its checksum is right."""
    address = match.string[match.end(1) : match.end()]
    if _TICKER.search(match[1]) is not None and len(address) != _MONERO_LENGTH:
        return match.end() if len(base58_payload(address)) in _ADDRESS_BYTES else REJECTED
    bitcoin = address[0] in "13" and len(address) <= _BITCOIN_LENGTH_MAX
    return match.end() if not bitcoin or len(base58_payload(address)) in _ADDRESS_BYTES else REJECTED


def _bech32(match: re.Match[str]) -> int:
    return match.end() if bech32_holds(match.string[match.end(1) : match.end()]) else REJECTED


def _shape(name: str, data_class: str, gate: str, pattern: str, check: Check | None = None) -> Rule:
    return Rule(name, data_class, gate, rf"{START}{pattern}\b", check=check, group=SPARSE)


WALLET_LABELS: Final = Labels(
    "(?:btc|bitcoin|eth|ethereum|crypto|solana|deposit|xmr|xrp)_addr(?:ess)?|wallet(?:_addr(?:ess)?)?|bitcoin|monero|litecoin|dogecoin|ripple",
    "|".join(_TICKERS),
    (
        "wallet",
        "btc_addr",
        "bitcoin_addr",
        "eth_addr",
        "ethereum_addr",
        "crypto_addr",
        "solana_addr",
        "deposit_addr",
        "xmr_addr",
        "xrp_addr",
        "bitcoin",
        "monero",
        "litecoin",
        "dogecoin",
        "ripple",
        *(f"{ticker}=" for ticker in _TICKERS),
        *(f"{ticker}~" for ticker in _TICKERS),
    ),
    rf"(?:{'|'.join(_TICKERS)})(?:[ \t](?:to|from))?",
)

WALLET_RULES: Final = (
    _shape(
        "bech32_wallet",
        "crypto_wallet",
        "(?i:bc1|tb1|ltc1|addr1|stake1|cosmos1|osmo1)[02-9ac-hj-np-zAC-HJ-NP-Z]{8}",
        r"(?:(?:bc|tb|ltc|addr|stake|cosmos|osmo)1[02-9ac-hj-np-z]{24,}|(?:BC|TB|LTC)1[02-9AC-HJ-NP-Z]{24,80})",
        _bech32,
    ),
    _shape("ethereum_wallet", "crypto_wallet", "0x[0-9a-fA-F]{20}", "0x[0-9a-fA-F]{40}", ethereum),
    *labelled(
        "wallet",
        "crypto_wallet",
        WALLET_LABELS,
        rf"(?:{_58}{{25,44}}|[48]{_58}{{94}})\b",
        sign=False,
        check=labelled_wallet,
    ),
)
