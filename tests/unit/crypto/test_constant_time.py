"""What tells a right MAC from a wrong one takes the same time whatever they have in common."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import heimdall_server

SECRET = re.compile(r"\b_?(?:h?mac|tag|signature)\b|\bhmac\.|_mac\(")
FILES = {"rpc/tls_files.py", "edge/http/tokens.py", "projections/graph/warninglists/files.py"}
"""A `signature` there is when a file was written, and how long it is."""
ROOT = Path(heimdall_server.__file__).parent


def compared(tree: ast.AST) -> Iterator[str]:
    """Comparisons that end at the first byte that differs, as texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
            text = ast.unparse(node)
            if not text.startswith("len("):
                yield text


def test_no_mac_is_compared_byte_by_byte() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in ROOT.rglob("*.py")
        if str(path.relative_to(ROOT)) not in FILES
        for text in compared(ast.parse(path.read_text()))
        if SECRET.search(text)
    }
    assert not found


def test_what_opens_tokens_and_keyrings_compares_in_constant_time() -> None:
    for name in (
        "crypto/keyring_document.py",
        "edge/http/tokens.py",
        "services/graph/logic/watching.py",
        "services/query/logic/tokens.py",
    ):
        assert "hmac.compare_digest(" in (ROOT / name).read_text(), name
