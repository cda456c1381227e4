"""Sample logs: a made-up shop's services, distinct rows, reproducible by seed.

For a first look (`make up`) and for measurements: services, hosts, levels and templates follow a realistic mix,
about 40 % of the rows hold personal data (made up: documentation domains and test card numbers), every row differs.
Plain Python on purpose: it runs once, before anything is measured.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

LINE_BATCH: Final = 10_000
"""Lines joined per piece that `sample_ndjson` yields."""

_SERVICES: Final = {
    "checkout": 14,
    "payments": 10,
    "catalog": 18,
    "search": 14,
    "auth": 12,
    "cart": 10,
    "gateway": 16,
    "mailer": 3,
    "inventory": 5,
    "recommendations": 4,
    "billing": 2,
    "scheduler": 1,
}
_LEVELS: Final = {"DEBUG": 14, "INFO": 72, "WARN": 9, "ERROR": 4.5, "FATAL": 0.1}
_FIRST: Final = ("ada", "alan", "barbara", "dennis", "edsger", "frances", "grace", "john", "ken", "margaret", "niklaus")
_LAST: Final = (
    "allen",
    "dijkstra",
    "hamilton",
    "hopper",
    "kernighan",
    "liskov",
    "lovelace",
    "ritchie",
    "turing",
    "wirth",
)
_CARDS: Final = ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117")
_REGIONS: Final = ("eu-central-1", "eu-west-1", "us-east-1")
_PATHS: Final = ("/api/cart", "/api/items", "/api/orders", "/api/search", "/login", "/health", "/api/users/me")

_Template = Callable[[random.Random], str]


def _email(r: random.Random) -> str:
    return f"{r.choice(_FIRST)}.{r.choice(_LAST)}{r.randrange(10_000)}@example.com"


def _ip(r: random.Random) -> str:
    return f"{r.choice((10, 172, 192, 203))}.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"


def _phone(r: random.Random) -> str:
    return f"+1 202 555 01{r.randrange(100):02d}"


_PERSONAL: Final[tuple[_Template, ...]] = (
    lambda r: f"user {_email(r)} signed in from {_ip(r)} after {r.randrange(1, 4)} attempts",
    lambda r: f"confirmation for order {r.randrange(10**8)} sent to {_email(r)}",
    lambda r: f"card {r.choice(_CARDS)} accepted for order {r.randrange(10**8)}",
    lambda r: f"password reset asked for {_email(r)}, token expires in {r.randrange(5, 60)} min",
    lambda r: f"callback to {_phone(r)} scheduled by agent {r.randrange(1000)}",
    lambda r: f"blocked {_ip(r)}: {r.randrange(20, 900)} requests in 10 s on {r.choice(_PATHS)}",
)
_PLAIN: Final[tuple[_Template, ...]] = (
    lambda r: f"GET {r.choice(_PATHS)} 200 in {r.randrange(1, 900)} ms, {r.randrange(200, 90_000)} bytes",
    lambda r: f"cache miss for key item:{r.randrange(10**6)}, fetched in {r.randrange(1, 80)} ms",
    lambda r: f"job {r.randrange(10**7):07d} finished, {r.randrange(1, 5000)} rows written",
    lambda r: f"connection pool at {r.randrange(1, 100)} of 100, waited {r.randrange(0, 50)} ms",
    lambda r: f"stock of item {r.randrange(10**6)} is {r.randrange(0, 500)} after order {r.randrange(10**8)}",
    lambda r: f"query plan {r.randrange(16**8):08x} took {r.randrange(1, 3000)} ms over {r.randrange(1, 10**6)} rows",
    lambda r: f"retry {r.randrange(1, 5)} of 5 for upstream {r.choice(list(_SERVICES))}",
)
_TROUBLE: Final[tuple[_Template, ...]] = (
    lambda r: f"timeout after {r.randrange(1000, 30_000)} ms calling {r.choice(list(_SERVICES))}",
    lambda r: f"connection refused by db-{r.randrange(1, 9)}.internal:5432, attempt {r.randrange(1, 6)}",
    lambda r: f"payment declined for {_email(r)}: insufficient funds, order {r.randrange(10**8)}",
    lambda r: f"unhandled error in handler for {r.choice(_PATHS)}: index {r.randrange(1000)} out of range",
    lambda r: f"disk /var/lib/data at {r.randrange(85, 100)} %, {r.randrange(1, 40)} GiB left",
)


def sample_ndjson(count: int, *, seed: int, end_time_ns: int, span_s: float) -> Iterator[bytes]:
    """Lines of NDJSON, oldest first.

    Args:
        count: Lines in all.
        seed: The same seed gives the same lines.
        end_time_ns: Time of the newest line, nanoseconds since 1970 UTC.
        span_s: How far back the oldest one lies.

    Yields:
        Whole lines, `LINE_BATCH` of them at a time.
    """
    lines: list[str] = []
    for line in _lines(count, random.Random(seed), end_time_ns, span_s):  # noqa: S311 - samples need no secrecy
        lines.append(line)
        if len(lines) == LINE_BATCH:
            yield "".join(lines).encode()
            lines.clear()
    if lines:
        yield "".join(lines).encode()


def _lines(count: int, r: random.Random, end_time_ns: int, span_s: float) -> Iterator[str]:
    services, service_weights = list(_SERVICES), list(_SERVICES.values())
    levels, level_weights = list(_LEVELS), list(_LEVELS.values())
    step_ns = int(span_s * 1e9) // max(count, 1)
    start_ns = end_time_ns - step_ns * count
    chunk = 1_000
    for first in range(0, count, chunk):
        size = min(chunk, count - first)
        picked_services = r.choices(services, service_weights, k=size)
        picked_levels = r.choices(levels, level_weights, k=size)
        for index in range(size):
            service, level = picked_services[index], picked_levels[index]
            if level in ("ERROR", "FATAL", "WARN"):
                body = r.choice(_TROUBLE)(r)
            else:
                body = r.choice(_PERSONAL if r.random() < 0.4 else _PLAIN)(r)
            time_ns = start_ns + (first + index + 1) * step_ns
            seconds, nanos = divmod(time_ns, 1_000_000_000)
            yield (
                json.dumps(
                    {
                        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z",
                        "level": level,
                        "service": service,
                        "host": f"{service}-{r.randrange(8)}",
                        "message": body,
                        "trace_id": f"{r.getrandbits(128):032x}",
                        "region": r.choice(_REGIONS),
                        "duration_ms": r.randrange(1, 3000),
                        "cached": r.random() < 0.3,
                    },
                    separators=(",", ":"),
                )
                + "\n"
            )
