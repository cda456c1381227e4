"""A filter without what it asks for: nothing of a literal is left."""

from __future__ import annotations

import pytest

from heimdall_server.language.parser import parse
from heimdall_server.language.shapes import shape_text

WORD = f"0{'a' * 26}"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('"Zebra77horse"', 'body:"…"'),
        ('service:api AND NOT "open sesame"', 'service:"…" AND NOT body:"…"'),
        ("user:bob OR user:eve OR host:web-1", 'user:"…" OR host:"…"'),
        ("pin:4711", 'pin:"…"'),
        ("pin:>4711", 'pin:>"…"'),
        ("service:ap*", 'service:"…"'),
        ("service:/ap.*7/", 'service:"…"'),
        ("ip:10.1.2.0/24", 'ip:"…"'),
        ("_exists_:user", "_exists_:user"),
        ("severity:>=13", "severity:>=13"),
        ("*:*", "*:*"),
        (f"{WORD} OR tokens:{WORD}", f"{WORD} OR tokens:{WORD}"),
        (f'user:"[email:{WORD}]"', f'user:"[email:{WORD}]"'),
    ],
)
def test_literals_are_left_out(text: str, shape: str) -> None:
    assert shape_text(parse(text, now_ns=0).filter) == shape
