"""Rules for cookies and session ids: class `cookie`. Who holds one is who it was given to."""

from __future__ import annotations

from typing import Final

from heimdall_server.protect.rules import SPARSE, Rule
from heimdall_server.protect.stems import folded

_PIECE: Final = r"[!#$%&*+.^_`|~0-9A-Za-z-]+=[^ \t\r\n;,\"'\\<>{}]+"
_FLAG: Final = r"(?i:HttpOnly|Secure|Partitioned)"
_PAIRS: Final = rf"{_PIECE}(?:; ?(?:{_PIECE}|{_FLAG}))*"
_HEADER: Final = r"""(?i:cookie2?)(?:\\*["'])?(?:[ \t]{0,3}(?:=>|[:=])[ \t]{0,3}|>)\[?(?:\\*["'])?"""
_SESSIONS: Final = (
    r"phpsessid|jsessionid|asp\.net_sessionid|aspsessionid[a-z]{8}|connect\.sid|laravel_session|wordpress_logged_in_[0-9a-f]{4,64}"
    r"|ci_session|session_?id|session_?cookie|csrftoken|xsrf-token"
)
_SESSION_STEMS: Final = (
    "sessid", "session_id", "connect.sid", "laravel_session", "wordpress_logged", "ci_session", "session_cookie", "csrftoken", "xsrf-token",
)  # fmt: skip

COOKIE_RULES: Final = (
    Rule("cookie_header", "cookie", folded(("cookie",)), rf"({_HEADER}){_PAIRS}", group=SPARSE, stems=("cookie",)),
    Rule(
        "session_cookie",
        "cookie",
        folded(_SESSION_STEMS),
        rf"""((?i:{_SESSIONS})(?:\\*["'])?(?:[ \t]{{0,2}}(?:=>|[:=])[ \t]{{0,2}}|>)(?:\\*["'])?)"""
        # A number in hexadecimal names a session of something else than a browser.
        r"(?:[A-Za-z1-9%!*~+/=._:-][A-Za-z0-9%!*~+/=._:-]|0[A-WYZa-wyz0-9%!*~+/=._:-])[A-Za-z0-9%!*~+/=._:-]{6,}",
        group=SPARSE,
        stems=_SESSION_STEMS,
    ),
)
