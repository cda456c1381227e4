"""What canonical form costs: rows a core-second of each type, over columns of mostly plain values.

`python -m tests.bench.canonical` prints the table. Every column is measured twice: each value once, which no column of logs is, and as
logs repeat them.
"""

from __future__ import annotations

import ipaddress
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from heimdall_server.canonical.catalogue import CANONICALISERS, personal_form

ROWS: Final = 200_000
REPEATED_VALUES: Final = 10_000
"""Distinct values of a column that repeats them."""
ODD_SHARE: Final = 0.01
"""Of values in another spelling, which only the exact rule reads."""
ROUNDS: Final = 3
BATCH_VALUES: Final = 4_000
"""Distinct personal values of one batch of logs."""
MUST_ROWS_PER_CORE_S: Final[Mapping[str, float]] = {
    "ip": 1e6,
    "ipv4": 1e6,
    "ipv6": 1e6,
    "domain": 1e6,
    "sha256": 1e6,
    "hash": 1e6,
}

_SUFFIXES: Final = ("com", "com", "com", "net", "org", "de", "co.uk", "io", "local")
_WORDS: Final = ("api", "mail", "shop", "cdn", "static", "login", "edge", "data", "news", "auth")


@dataclass(frozen=True)
class CanonicalFigure:
    """One type's speed."""

    type_name: str
    distinct_rows_per_core_s: float
    """Each value once."""
    repeated_rows_per_core_s: float
    accepted_share: float

    @property
    def must_rows_per_core_s(self) -> float:
        """For columns of distinct values; 0: nothing is promised."""
        return MUST_ROWS_PER_CORE_S.get(self.type_name, 0.0)


def measure_canonical(rows: int = ROWS, *, seed: int = 7) -> list[CanonicalFigure]:
    """Bring columns of `rows` values into canonical form; each figure is the best of some rounds."""
    return [_figure(name, make, rows, random.Random(f"{seed} {name}")) for name, make in _MAKERS.items()]


def measure_personal_forms(*, seed: int = 7) -> dict[str, float]:
    """Values a core-second of `personal_form`, by class, for batches of `BATCH_VALUES`."""
    out = {}
    for name in ("email", "phone", "ipv4", "card", "iban", "ssn"):
        rng = random.Random(f"{seed} {name}")
        make = _MAKERS.get(name) or _ssn
        values = pa.array([make(rng) for _ in range(BATCH_VALUES)], pa.string())
        out[name] = BATCH_VALUES / _best_cpu_s(lambda name=name, values=values: personal_form(name, values))  # type: ignore[misc]
    return out


def table_of(figures: list[CanonicalFigure]) -> Table:
    """The figures for people."""
    table = Table("type", "krows/core-s, distinct", f"of {REPEATED_VALUES:,} values", "must", "accepted")
    for one in figures:
        must = f"{one.must_rows_per_core_s / 1e3:,.0f}" if one.must_rows_per_core_s else ""
        speeds = (f"{speed / 1e3:,.0f}" for speed in (one.distinct_rows_per_core_s, one.repeated_rows_per_core_s))
        table.add_row(one.type_name, *speeds, must, f"{one.accepted_share:.1%}")
    return table


def _figure(name: str, make: Callable[[random.Random], str], rows: int, rng: random.Random) -> CanonicalFigure:
    canonicalise = CANONICALISERS[name]
    distinct = pa.array([make(rng) for _ in range(rows)], pa.string())
    few = distinct.slice(0, REPEATED_VALUES).to_pylist()
    repeated = pa.array(rng.choices(few, k=rows), pa.string())
    accepted = canonicalise(distinct).values
    return CanonicalFigure(
        name,
        rows / _best_cpu_s(lambda: canonicalise(distinct)),
        rows / _best_cpu_s(lambda: canonicalise(repeated)),
        1 - accepted.null_count / rows,
    )


def _best_cpu_s(act: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started_s = time.process_time()
        act()
        best = min(best, time.process_time() - started_s)
    return best


def _ipv4(rng: random.Random) -> str:
    address = str(ipaddress.IPv4Address(rng.getrandbits(32)))
    return address.replace(".", "[.]") if rng.random() < ODD_SHARE else address


def _ipv6(rng: random.Random) -> str:
    address = ipaddress.IPv6Address(0x20010DB8 << 96 | rng.getrandbits(32) << 64 | rng.getrandbits(64))
    return address.exploded.upper() if rng.random() < ODD_SHARE else str(address)


def _ip(rng: random.Random) -> str:
    return _ipv6(rng) if rng.random() < 0.1 else _ipv4(rng)


def _domain(rng: random.Random) -> str:
    name = (
        f"{rng.choice(_WORDS)}-{rng.randrange(10**6)}.{rng.choice(_WORDS)}{rng.randrange(1000)}.{rng.choice(_SUFFIXES)}"
    )
    odd = rng.random()
    if odd < ODD_SHARE:
        return f"münchen-{name}"
    return name.title() if odd < 10 * ODD_SHARE else name


def _url(rng: random.Random) -> str:
    url = f"https://{_domain(rng)}/{rng.choice(_WORDS)}/{rng.randrange(10**6)}?id={rng.randrange(10**6)}"
    return url.replace("https", "hxxps") if rng.random() < ODD_SHARE else url


def _email(rng: random.Random) -> str:
    return f"{rng.choice(_WORDS)}.{rng.randrange(10**7)}@{_domain(rng)}"


def _phone(rng: random.Random) -> str:
    number = f"30{rng.randrange(10**6, 10**8)}"
    return f"+49 (0){number[:2]} {number[2:]}" if rng.random() < ODD_SHARE else f"+49{number}"


def _digits(count: int) -> Callable[[random.Random], str]:
    def make(rng: random.Random) -> str:
        digits = f"{rng.getrandbits(4 * count):0{count}x}"
        return digits.upper() if rng.random() < 10 * ODD_SHARE else digits

    return make


def _mac(rng: random.Random) -> str:
    return "-".join(f"{octet:02X}" for octet in rng.randbytes(6))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128)))


def _iban(rng: random.Random) -> str:
    account = f"37040044{rng.randrange(10**10):010d}"
    check = 98 - int(f"{account}131400") % 97
    iban = f"DE{check:02d}{account}"
    return " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))


def _card(rng: random.Random) -> str:
    digits = f"4{rng.randrange(10**14):014d}"
    total = sum(sum(divmod(int(digit) * (2 - at % 2), 10)) for at, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def _ssn(rng: random.Random) -> str:
    return f"{rng.randrange(100, 900)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"


def _timestamp(rng: random.Random) -> str:
    at = rng.randrange(28 * 86_400)
    return f"2024-02-{1 + at // 86_400:02d}T{at // 3600 % 24:02d}:{at // 60 % 60:02d}:{at % 60:02d}.{rng.randrange(1000):03d}+01:00"


_MAKERS: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "ip": _ip,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "domain": _domain,
    "sha256": _digits(64),
    "hash": _digits(64),
    "url": _url,
    "email": _email,
    "phone": _phone,
    "uuid": _uuid,
    "mac": _mac,
    "card": _card,
    "iban": _iban,
    "timestamp": _timestamp,
}


def main() -> None:
    """Print the table."""
    console = Console()
    console.print(table_of(measure_canonical()))
    for name, speed in measure_personal_forms().items():
        console.print(f"personal form of {BATCH_VALUES:,} values of {name}: {speed / 1e3:,.0f} k values/core-s")


if __name__ == "__main__":
    main()
