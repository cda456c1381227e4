"""A small generated corpus: lines that hold personal data, and lines that only look as if they did."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable

_WORDS = [
    "request",
    "served",
    "order",
    "cache",
    "miss",
    "timeout",
    "connection",
    "retry",
    "payment",
    "completed",
    "worker",
    "queue",
    "job",
    "path",
]
_BASE36 = string.digits + string.ascii_lowercase
_LETTERS = string.ascii_letters + string.digits


class Corpus:
    """Lines by seed, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def personal(self, count: int) -> list[tuple[str, str, str]]:
        """Lines with one personal value each: class, value, line."""
        makers: dict[str, list[Callable[[], str]]] = {
            "email": [self._email],
            "card": [self._card, lambda: self._grouped(self._card(), " "), lambda: self._grouped(self._card(), "-")],
            "iban": [self._iban, lambda: self._grouped(self._iban(), " ")],
            "phone": [
                lambda: f"+4915{self._digits(9)}",
                lambda: f"+1 ({self._nanp()}) {self._nanp()}-{self._digits(4)}",
                lambda: f"{self._nanp()}-{self._nanp()}-{self._digits(4)}",
            ],
            "ssn": [
                lambda: f"{self._chance.randrange(1, 600):03}-{self._chance.randrange(1, 99):02}-1{self._digits(3)}"
            ],
            "jwt": [self._jwt],
            "secret": [
                lambda: f"AKIA{self._text(string.ascii_uppercase + string.digits, 16)}",
                lambda: f"ghp_{self._text(_LETTERS, 36)}",
                lambda: f"glpat-{self._text(_LETTERS, 20)}",
                lambda: f"xoxb-{self._digits(12)}-{self._text(_LETTERS, 24)}",
                lambda: f"sk_live_{self._text(_LETTERS, 24)}",
                lambda: f"AIza{self._text(_LETTERS, 35)}",
            ],
        }
        lines = []
        for number in range(count):
            data_class = list(makers)[number % len(makers)]
            value = self._chance.choice(makers[data_class])()
            lines.append((data_class, value, self._line(value)))
        return lines

    def near_misses(self, count: int) -> list[str]:
        """Lines without personal data."""
        makers: list[Callable[[], str]] = [
            lambda: f"order 10{self._digits(14)}",
            lambda: f"{self._hex(32)}",
            lambda: f"{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}",
            lambda: f"ts=17{self._digits(8)} ms=17{self._digits(11)} ns=17{self._digits(17)}",
            lambda: f"2024-0{self._chance.randrange(1, 9)}-1{self._digits(1)}T12:34:56.{self._digits(6)}+02:00",
            lambda: f"version {self._digits(1)}.{self._digits(2)}.{self._digits(1)}-rc.{self._digits(1)}",
            lambda: f"ratio 0.{self._digits(16)} took {self._digits(2)}.{self._digits(6)} ms",
            lambda: f"status 200 {self._digits(3)} {self._digits(4)} bytes",
            lambda: f"icon@{self._chance.randrange(2, 4)}x.png from pkg@1.{self._digits(1)}.0",
            lambda: f"com.example.Job@{self._hex(8)} at Main.java:{self._digits(3)}",
            lambda: f"commit {self._hex(40)} on release/{self._digits(4)}-{self._digits(2)}-{self._digits(2)}",
            lambda: "unexpected token: comma; password must be changed; max_tokens=100; secretary: Kim",
            lambda: f"part 555-{self._digits(3)}-{self._digits(2)}-{self._digits(4)}-{self._digits(2)}",
            lambda: f"[email] and password=[secret] by {self._text(_BASE36, 12)}",
            lambda: f"offset +0{self._digits(3)} delta +{self._digits(3)} range 1000-{self._digits(4)}",
        ]
        return [self._line(makers[number % len(makers)]()) for number in range(count)]

    def _line(self, value: str) -> str:
        words = self._chance.choices(_WORDS, k=4)
        return f"{words[0]} {words[1]} {value} {words[2]} {words[3]}"

    def _text(self, alphabet: str, length: int) -> str:
        return "".join(self._chance.choices(alphabet, k=length))

    def _digits(self, length: int) -> str:
        return self._text(string.digits, length)

    def _hex(self, length: int) -> str:
        return self._text("0123456789abcdef", length)

    def _nanp(self) -> str:
        return f"{self._chance.randrange(200, 1000)}"

    def _email(self) -> str:
        name = self._text(_BASE36, 6) + self._chance.choice(["", ".x", "+tag", "_y"])
        return f"{name}@{self._text(_BASE36, 5)}.{self._chance.choice(['com', 'co.uk', 'example.org'])}"

    def _card(self) -> str:
        body = self._chance.choice(["4", "51", "37", "6011"])
        body += self._digits((14 if body == "37" else 15) - len(body))
        doubled = [int(digit) * (2 - index % 2) for index, digit in enumerate(reversed(body))]
        return f"{body}{-sum(digit - 9 * (digit > 9) for digit in doubled) % 10}"

    def _iban(self) -> str:
        country, bank = self._chance.choice([("DE", self._digits(18)), ("GB", f"WEST{self._digits(14)}")])
        number = int("".join(str(int(character, 36)) for character in f"{bank}{country}00"))
        return f"{country}{98 - number % 97:02}{bank}"

    def _grouped(self, value: str, separator: str) -> str:
        sizes = (4, 6, 5) if len(value) == 15 else (4,) * 9
        groups: list[str] = []
        rest = value
        for size in sizes:
            groups, rest = [*groups, rest[:size]], rest[size:]
        return separator.join(filter(None, groups))

    def _jwt(self) -> str:
        parts = ['{"alg":"HS256"}', f'{{"sub":"{self._digits(6)}"}}']
        head, body = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
        return f"{head}.{body}.{self._text(_LETTERS, 43)}"
