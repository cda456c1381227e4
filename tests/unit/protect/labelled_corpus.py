"""Lines that hold one personal value, and lines that nearly do, by class; the same ones for a seed."""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

from stdnum.be import nn
from stdnum.br import cpf
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.hr import oib
from stdnum.it import codicefiscale
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.ro import cnp
from stdnum.tr import tckimlik

from heimdall_server.protect.keccak import keccak_256
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.corpus import Corpus
from tests.unit.protect.reference import batch_of

COUNT = 2_000
_LETTERS = string.ascii_letters + string.digits
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_FIRST = ("Alice", "Bob", "Chloé", "Dmitri", "Ewa", "Fatima", "Grace", "Jürgen", "Li", "O'Neil")
_LAST = ("Smith", "Müller", "García", "Nowak", "Dupont", "Turing", "Hopper", "Lovelace", "Rossi", "Silva")


@dataclass(frozen=True)
class Score:
    """How a class was detected."""

    positives: int
    near_misses: int
    found: int
    wrong: int

    @property
    def recall(self) -> float:
        """Found of what there is."""
        return self.found / self.positives

    @property
    def precision(self) -> float:
        """Right of what was found, where as many near misses stand beside."""
        return self.found / max(1, self.found + self.wrong)


class LabelledCorpus:
    """Makes values; seeded."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def digits(self, count: int) -> str:
        return "".join(self.draw.choices(string.digits, k=count))

    def text(self, alphabet: str, count: int) -> str:
        return "".join(self.draw.choices(alphabet, k=count))

    def date(self) -> tuple[int, int, int]:
        return self.draw.randrange(1940, 2000), self.draw.randrange(1, 13), self.draw.randrange(1, 29)

    def birth_date(self) -> str:
        year, month, day = self.date()
        forms = (
            f"{year}-{month:02}-{day:02}",
            f"{day:02}/{month:02}/{year}",
            f"{day}.{month}.{year}",
            f"{day} March {year}",
        )
        label = self.draw.choice(("dob: ", "date of birth ", '"birth_date":"', "born ", "birthday="))
        return f"{label}\0{self.draw.choice(forms)}"

    def national_id(self) -> str:
        year, month, day = self.date()
        stamp = f"{year % 100:02}{month:02}{day:02}"
        kind = self.draw.randrange(10)
        if kind == 0:
            body = stamp + self.digits(4)
            return f"PESEL {chr(0)}{body}{pesel.calc_check_digit(body)}"
        if kind == 1:
            body = self.digits(8)
            return f"dni: \0{body}{dni.calc_check_digit(body)}"
        if kind == 2:
            body = f"RSSMRA{year % 100:02}A{self.draw.randrange(1, 29):02}H501"
            return f"user \0{body}{codicefiscale.calc_check_digit(body)}"
        if kind == 3:
            body = self.digits(9)
            first = -sum(int(digit) * (10 - index) for index, digit in enumerate(body)) % 11 % 10
            second = -sum(int(digit) * (11 - index) for index, digit in enumerate(f"{body}{first}")) % 11 % 10
            number = cpf.format(f"{body}{first}{second}")
            return f"cliente \0{number}"
        if kind == 4:
            body = f"{self.draw.choice('12')}{year % 100:02}{month:02}{self.draw.randrange(10, 20)}{self.digits(6)}"
            return f"NIR: \0{body}{nir.calc_check_digits(body)}"
        if kind == 5:
            body = stamp + f"{self.draw.randrange(1, 998):03}"
            return f"niss={chr(0)}{nn.format(f'{body}{97 - int(body) % 97:02}')}"
        if kind == 6:
            body = self.draw.choice("123456789") + self.digits(8)
            return f"kimlik no: \0{body}{tckimlik.calc_check_digits(body)}"
        if kind == 7:
            body = f"1{stamp}{self.draw.randrange(1, 40):02}{self.digits(3)}"
            return f"CNP: \0{body}{cnp.calc_check_digit(body)}"
        if kind == 8:
            while True:
                number = self.digits(11)
                if oib.is_valid(number):
                    return f"OIB: \0{number}"
        while True:
            body = f"{day:02}{month:02}{year % 100:02}{self.draw.randrange(500):03}"
            number = f"{body}{fodselsnummer.calc_check_digit1(body)}"
            number += fodselsnummer.calc_check_digit2(number)
            if fodselsnummer.is_valid(number):
                return f"fødselsnummer: \0{number}"

    def wallet(self) -> str:
        if self.draw.random() < 0.5:
            plain = self.text("0123456789abcdef", 40)
            digest = keccak_256(plain.encode()).hex()
            mixed = "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(plain, digest, strict=False))
            return f"to {chr(0)}0x{mixed}"
        payload = b"\0" + self.draw.randbytes(20)
        payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
        number, text = int.from_bytes(payload, "big"), ""
        while number:
            number, rest = divmod(number, 58)
            text = _BASE58[rest] + text
        ones = len(payload) - len(payload.lstrip(b"\0"))
        return f"wallet: \0{'1' * ones}{text}"

    def makers(self) -> dict[str, Callable[[], str]]:
        """By class, a text with a zero byte before the personal value, which goes to the end."""
        pick = self.draw.choice
        return {
            "birth_date": self.birth_date,
            "national_id": self.national_id,
            "crypto_wallet": self.wallet,
            "passport": lambda: pick(("passport no. ", "Passport: ", "passport_number=", "Reisepass ")) + f"\0{pick('ABCLP')}{self.digits(7)}",
            "driving_licence": lambda: pick(("driver's license: ", "driving licence no ", "driver_license=")) + f"\0{pick('DBS')}{self.digits(pick((7, 12)))}",
            "name": lambda: pick(("first_name=", "full name: ", '"lastName":"', "customer_name=", "Vorname: ")) + f"\0{pick(_FIRST)}",
            "bank_account": lambda: pick(("account number: ", "bank account ", "Kontonummer=", "acct no ")) + f"\0{self.digits(pick((8, 10, 12)))}",
            "geo": lambda: pick(("lat=", '"latitude": "', "lon: ", "longitude=")) + f"\0{self.draw.uniform(-80, 80):.6f}",
            "address": lambda: f"at \0{self.draw.randrange(1, 9999)} {pick(('Oak', 'Main', 'Lake'))} {pick(('Street', 'Road', 'Avenue'))}",
            "cookie": lambda: pick(("Cookie: ", "Set-Cookie: ", "PHPSESSID=", "JSESSIONID=")) + "\0sid=" + self.text(_LETTERS, 24),
            "secret": lambda: pick(("key \0sk-proj-", "key \0dop_v1_", "use \0shpat_", "pat \0hvs.")) + self.text("0123456789abcdef", 64)[:64],
        }  # fmt: skip

    def positives(self, data_class: str) -> list[tuple[str, str]]:
        """Lines, and the same with the value masked."""
        maker, lines = self.makers()[data_class], []
        for _ in range(COUNT):
            before, _, value = maker().partition("\0")
            if "shpat_" in value:
                value = value[:38]
            tail = '"' if before.endswith('"') else ""
            lines.append((f"{before}{value}{tail}, done", f"{before}[{data_class}]{tail}, done"))
        return lines

    def near_misses(self) -> list[str]:
        """Order numbers, versions, times, digests, and labels without a value."""
        makers = (
            lambda: f"order {self.digits(11)} of {self.digits(9)}",
            lambda: f"build {self.digits(8)}-{self.digits(4)} v{self.digits(1)}.{self.digits(2)}.{self.digits(2)}",
            lambda: f"at 20{self.digits(2)}-11-30T10:{self.digits(2)}:00Z took {self.digits(2)}.{self.digits(5)} ms",
            lambda: f"commit {self.text('0123456789abcdef', 40)}",
            lambda: f"tx 0x{self.text('0123456789abcdef', 64)} ptr 0x7ffe{self.text('0123456789abcdef', 8)}",
            lambda: "passport check failed; born again; first name is required; cookies enabled",
            lambda: f"latency={self.digits(2)}.{self.digits(4)} platform: {self.digits(3)} setting: {self.digits(9)}",
            lambda: f"span_id={self.text('0123456789abcdef', 16)} filename=report{self.digits(4)}.txt hostname: db{self.digits(2)}",
            lambda: f"part {self.text(string.ascii_uppercase, 6)}{self.digits(2)} lot {self.text(string.ascii_uppercase, 2)}{self.digits(7)}",
            lambda: f"{self.digits(3)}.{self.digits(3)}.{self.digits(3)} bytes, {self.digits(2)} Server Road map ids",
            lambda: f"account {self.digits(3)} disabled; account number missing; driver license plate; pesel invalid",
            lambda: f"token ring {self.text(_LETTERS, 34)} dict-{self.digits(6)}",
        )  # fmt: skip
        return [makers[number % len(makers)]() for number in range(COUNT)]


CLASSES = tuple(LabelledCorpus(0).makers())


def scores(seed: int = 11) -> dict[str, Score]:
    """Detect everything in a corpus: by class, with the near misses that were taken for its values."""
    corpus = LabelledCorpus(seed)
    near = corpus.near_misses() + Corpus(seed).near_misses(COUNT)
    positives = {data_class: corpus.positives(data_class) for data_class in CLASSES}
    lines = [line for pairs in positives.values() for line, _ in pairs] + near
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    masked: list[str] = protector.protect(batch_of([{"body": line} for line in lines])).batch["body"].to_pylist()
    start, found = 0, {}
    for data_class, pairs in positives.items():
        answers = masked[start : start + len(pairs)]
        found[data_class] = sum(answer == expected for answer, (_, expected) in zip(answers, pairs, strict=True))
        start += len(pairs)
    wrong = {
        data_class: sum(
            f"[{data_class}]" in answer and answer != line for answer, line in zip(masked[start:], near, strict=True)
        )
        for data_class in CLASSES
    }
    return {name: Score(len(positives[name]), len(near), found[name], wrong[name]) for name in CLASSES}


def table(found: dict[str, Score]) -> str:
    """Scores as a table for people."""
    rows = [f"{'class':16} {'positives':>9} {'near':>6} {'recall':>7} {'precision':>9}"]
    for name, score in found.items():
        rows.append(f"{name:16} {score.positives:9} {score.near_misses:6} {score.recall:7.4f} {score.precision:9.4f}")
    return "\n".join(rows)
