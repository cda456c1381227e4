"""Lines of the kinds that logs and dumps hold, around one value; where real lines are at hand, behind one of those."""

from __future__ import annotations

import json
import os
import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

_WORDS = (
    "request", "served", "order", "cache", "miss", "timeout", "connection", "retry", "payment", "completed", "worker", "queue", "job",
    "path", "update", "profile", "failed", "batch", "step", "import", "export", "check", "sent", "received",
)  # fmt: skip
_NEUTRAL = ("value", "detail", "arg", "input", "field", "subject", "data")
_SERVICES = ("checkout", "billing", "auth", "crm", "mailer", "gateway")
PLAIN = frozenset(string.ascii_letters + string.digits + "-_.~:@+/")
"""Characters that need no quotes in `key=value`."""


@dataclass(frozen=True, slots=True)
class Item:
    """A value and what it may be called."""

    value: str
    keys: tuple[str, ...] = ()
    """Names of fields; empty: its form tells, whatever it is called."""
    prose: tuple[str, ...] = ()
    """Pieces of sentences, `{}` for the value; empty: any."""
    accepted: frozenset[str] = frozenset()
    """Classes that would be right, too."""
    bare: bool = False
    """Only in prose: it isn't what a field holds."""


def digits(draw: random.Random, count: int) -> str:
    """So many digits."""
    return "".join(draw.choices(string.digits, k=count))


def text(draw: random.Random, alphabet: str, count: int) -> str:
    """So many characters."""
    return "".join(draw.choices(alphabet, k=count))


@cache
def real_lines() -> tuple[str, ...]:
    """Lines of real systems; empty where `HEIMDALL_TEST_DATA` doesn't say where they are."""
    folder = os.environ.get("HEIMDALL_TEST_DATA")
    files = sorted(Path(folder, "loghub").glob("*_2k.log")) if folder else []
    lines = (line for path in files for line in path.read_text(errors="replace").splitlines()[::40])
    return tuple(line for line in lines if len(line) < 400)


def _stamp(draw: random.Random) -> str:
    day, hour, minute = draw.randrange(1, 29), draw.randrange(24), draw.randrange(60)
    return f"2025-{draw.randrange(1, 13):02}-{day:02}T{hour:02}:{minute:02}:{draw.randrange(60):02}.{digits(draw, 3)}Z"


def _sentence(draw: random.Random, item: Item) -> str:
    piece = draw.choice(item.prose or ("{}", "for {}", "value {}", "<{}>", "'{}'", "({})"))
    before, behind = draw.choice(_WORDS), draw.choice(_WORDS)
    return f"{before} {piece.replace('{}', item.value)}{draw.choice((', ', ' ', '; '))}{behind}"


def _access(draw: random.Random, item: Item) -> str:
    key = draw.choice(item.keys or _NEUTRAL)
    query = f"{key}={quote(item.value, safe='@:+.-_~/')}" if item.value.isascii() else f"{key}={item.value}"
    return f'web-1 - - [11/Oct/2025:13:55:36 +0000] "GET /v1/{draw.choice(_WORDS)}?{query} HTTP/1.1" 200 {digits(draw, 4)} "-" "curl/8.5"'


def _json(draw: random.Random, item: Item) -> str:
    row = {
        "ts": _stamp(draw),
        "level": "info",
        "msg": draw.choice(_WORDS),
        draw.choice(item.keys or _NEUTRAL): item.value,
    }
    return json.dumps(row, ensure_ascii=False, separators=draw.choice(((",", ":"), (", ", ": "))))


def _json_message(draw: random.Random, item: Item) -> str:
    return json.dumps({"ts": _stamp(draw), "level": "warn", "msg": _sentence(draw, item)}, ensure_ascii=False)


def _logfmt(draw: random.Random, item: Item) -> str:
    value = item.value if set(item.value) <= PLAIN else f'"{item.value}"'
    return f"ts={_stamp(draw)} level=info svc={draw.choice(_SERVICES)} {draw.choice(item.keys or _NEUTRAL)}={value} n={digits(draw, 2)}"


def _logfmt_message(draw: random.Random, item: Item) -> str:
    return f'ts={_stamp(draw)} level=error msg="{_sentence(draw, item)}" dur={digits(draw, 3)}ms'


def _syslog(draw: random.Random, item: Item) -> str:
    return f"<134>Oct 11 22:14:{draw.randrange(10, 60)} db01 {draw.choice(_SERVICES)}[{digits(draw, 4)}]: {_sentence(draw, item)}"


def _trace(draw: random.Random, item: Item) -> str:
    return f"java.lang.IllegalStateException: {_sentence(draw, item)}\n\tat org.example.Job.run(Job.java:{digits(draw, 3)})"


def _python(draw: random.Random, item: Item) -> str:
    return f"ERROR {draw.choice(_SERVICES)}.views: payload={{'{draw.choice(item.keys or _NEUTRAL)}': '{item.value}', 'ok': False}}"


def _java(draw: random.Random, item: Item) -> str:
    return f"Saved User(id={digits(draw, 5)}, {draw.choice(item.keys or _NEUTRAL)}={item.value}, active=true)"


def _ruby(draw: random.Random, item: Item) -> str:
    return f'Parameters: {{"{draw.choice(item.keys or _NEUTRAL)}"=>"{item.value}", "commit"=>"Save"}}'


def _yaml(draw: random.Random, item: Item) -> str:
    return f"id: {digits(draw, 5)}\n{draw.choice(item.keys or _NEUTRAL)}: {item.value}\nactive: true"


def _nested(draw: random.Random, item: Item) -> str:
    inner = json.dumps({draw.choice(item.keys or _NEUTRAL): item.value, "ok": True}, ensure_ascii=False)
    return json.dumps({"ts": _stamp(draw), "payload": inner}, ensure_ascii=False)


def _number(draw: random.Random, item: Item) -> str:
    return f'{{"id":{digits(draw, 4)},"{draw.choice(item.keys or _NEUTRAL)}":{item.value},"ok":true}}'


def _xml(draw: random.Random, item: Item) -> str:
    key = draw.choice(item.keys or _NEUTRAL).replace(" ", "_")
    return f"<row><id>{digits(draw, 4)}</id><{key}>{item.value}</{key}><ok>1</ok></row>"


def _columns(draw: random.Random, item: Item) -> str:
    key = draw.choice(item.keys or _NEUTRAL)
    return f"insert {draw.choice(_SERVICES)} {key}='{item.value}', updated={digits(draw, 10)}"


def _behind_real(draw: random.Random, item: Item) -> str:
    lines = real_lines()
    return f"{draw.choice(lines)} {_sentence(draw, item)}" if lines else _sentence(draw, item)


_Carrier = Callable[[random.Random, Item], str]
_IN_PROSE: tuple[_Carrier, ...] = (_sentence, _json_message, _logfmt_message, _syslog, _trace, _behind_real)
_AS_FIELD: tuple[_Carrier, ...] = (_json, _logfmt, _python, _access, _java, _ruby, _yaml, _nested, _columns, _xml)


def line(draw: random.Random, item: Item) -> str:
    """A line of any kind that can hold the value as it is written."""
    clean = not set(item.value) & set("\"'\\\n")
    if item.bare or not clean:
        return (_sentence if not clean else draw.choice(_IN_PROSE))(draw, item)
    kinds = _AS_FIELD if item.keys and not item.prose else _AS_FIELD + _IN_PROSE
    if not set(item.value) <= PLAIN:
        kinds = tuple(kind for kind in kinds if kind is not _access)
    if re.fullmatch("[1-9][0-9]{0,17}", item.value):
        kinds = (*kinds, _number)
    return draw.choice(kinds)(draw, item)
