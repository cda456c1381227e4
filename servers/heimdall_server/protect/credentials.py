r"""Rules for what opens doors: keys, tokens, passwords. Class `secret`, and `jwt`.

A secret that a name gives away (`password=`, `"token": "…"`) is masked as far as its quotes or its word
go. The patterns never eat a quote or half an escape, so JSON text stays JSON.
"""

from __future__ import annotations

from typing import Final

from heimdall_server.protect.checks import unless_literal, unless_result
from heimdall_server.protect.rules import SPARSE, START, Rule
from heimdall_server.protect.stems import folded

_HASH: Final = r"(?:[_-]?hash)?"
_STRONG: Final = (
    rf"pass(?:(?:word|wd){_HASH}|wort|phrase)|pwd{_HASH}|kennwort|mot[_-]?de[_-]?passe|contrase(?:n|ñ)a|has(?:l|ł)o"
    r"|clave[_-](?:de[_-])?acceso"
)
_WEAK: Final = r"secret|token|(?:api|access|secret|private|signing|encryption)[_-]?key|credentials?"
_ANY: Final = rf"{_STRONG}|{_WEAK}"
ANY_SECRET_GATE: Final = rf"(?i:{_ANY})"
_SIGN: Final = r"[ \t]{0,3}(?:=>|:=|[:=])[ \t]{0,3}"

_QUOTED_GATE: Final = rf"""(?i:(?:{_ANY})s?|authorization)(?:{_SIGN})?\\*["']"""

# A word: masks that stand in it, escapes (not of white space: those end it), and what isn't punctuation.
_PIECE: Final = r"""\[[a-z0-9]+\]|\\{1,7}u[0-9A-Fa-f]{4}|\\[^nrtu"'\[ \t\r\n]"""
_STOPS: Final = r""" \t\r\n"',;&)\]}\\<>"""
_FIRST: Final = rf"(?:{_PIECE}|[^{_STOPS}:=])"
_REST: Final = rf"(?:{_PIECE}|[^{_STOPS}])*"
_WORD: Final = _FIRST + _REST
_JSON_WORD: Final = rf"(?:\[[a-z0-9]+\]|[^{_STOPS}:=\[{{]){_REST}"
_WORD_WITH_DIGIT: Final = rf"(?:[0-9]|[^{_STOPS}:=0-9\[][^{_STOPS}0-9\[]*[0-9]){_REST}"

# In JSON text a bare quote behind `password=` closes the string, so a value doesn't begin with what may follow there.
_AFTER_STRING: Final = r",}\]: \t\r\n"

_MEMBER_PIECE: Final = r'[^{}"\\]|"(?:[^"\\]|\\.)*"'
_MEMBERS: Final = rf"\{{(?:{_MEMBER_PIECE}|\{{(?:{_MEMBER_PIECE})*\}})*\}}"
_ITEMS: Final = r"""\[(?:[0-9.eE+, \t\r\n-]|null|true|false|"(?:[^"\\]|\\.)*")*\]"""
_ALONE: Final = r"(?:(?:^|[^A-Za-z0-9]|\\{1,7}[bfnrt])(?i:pass)|[a-z0-9]Pass)"
"""Not the end of `bypass`."""

SECRET_RULES: Final = (
    Rule(
        "private_key",
        "secret",
        r"PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
        r'(?:[^"\\-]|\\[^"]|-{1,4}[^"\\-])*(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?',
        group="words",
    ),
    Rule(
        "url_password",
        "secret",
        "://",
        r"""(://[^ \t\r\n:/@"'<>\\\]]*:)[^ \t\r\n/@"'<>\\\]]+@""",
        closing="@",
        group="words",
    ),
    Rule(
        "json_secret",
        "secret",
        _QUOTED_GATE,
        rf'((?i:{_ANY}|authorization)"[ \t\r\n]*:[ \t\r\n]*)'
        rf"(?:{_JSON_WORD}|{_ITEMS})"
        rf'|((?i:{_STRONG}|credential)s?"[ \t\r\n]*:[ \t\r\n]*)(?:{_MEMBERS}|{_ITEMS})',
        opening='"',
        closing='"',
        check=unless_literal,
        doubt=r":[ \t\r\n]*(?:null|true|false)",
        group="words",
    ),
    Rule(
        "single_quoted_secret",
        "secret",
        _QUOTED_GATE,
        rf"""((?i:{_ANY})(?:\\*')?{_SIGN}')[^'\\{_AFTER_STRING}](?:[^'\\\r\n]|\\.)*'""",
        closing="'",
        group="words",
    ),
    Rule(
        "quoted_secret",
        "secret",
        _QUOTED_GATE,
        rf"""((?i:{_ANY})"{_SIGN}")(?:[^"\\]|\\.)+"""
        rf"""|((?i:{_ANY})(?:\\*["'])?{_SIGN}\\(?:\\\\)*["'])(?:[^"'\\]|\\{{1,7}}u[0-9A-Fa-f]{{4}})+"""
        rf"""|((?i:{_ANY})(?:\\*')?{_SIGN}")[^"\\{_AFTER_STRING}](?:[^"\\]|\\.)*"""
        rf"""|((?i:{_ANY})(?:\\*')?{_SIGN}')[^'"\\{_AFTER_STRING}](?:[^'"\\\r\n]|\\.)*""",
        group="words",
    ),
    Rule(
        "plain_secret",
        "secret",
        ANY_SECRET_GATE,
        rf"((?i:{_STRONG}){_SIGN}){_WORD}"
        rf"|((?i:{_WEAK})(?:[ \t]{{0,3}}(?:=>|:=|=)[ \t]{{0,3}}|:)){_WORD}"
        rf"|((?i:{_WEAK})[ \t]{{0,3}}:[ \t]{{0,3}}){_WORD_WITH_DIGIT}",
        group="words",
    ),
    Rule(
        "pass",
        "secret",
        folded(("pass=",)),
        rf"""({_ALONE}"{_SIGN}")(?:[^"\\]|\\.)+|({_ALONE}(?:\\*["'])?{_SIGN}\\*["'])(?:{_PIECE}|[^"'\\\[{_AFTER_STRING}])(?:{_PIECE}|[^"'\\])*"""
        rf"|({_ALONE}[ \t]{{0,3}}(?:=>|:=|=)[ \t]{{0,3}}){_WORD}|({_ALONE}[ \t]{{0,3}}:[ \t]{{0,3}}){_WORD_WITH_DIGIT}",
        check=unless_result,
        group=SPARSE,
        stems=("pass=",),
    ),
    Rule(
        "xml_secret",
        "secret",
        rf"(?i:{_ANY})>",
        rf"""((?i:{_ANY})>)[^<>"\\\r\n]{{1,200}}</""",
        closing="</",
        group="words",
    ),
    Rule(
        "authorization",
        "secret",
        r"(?i:authorization)",
        r"""((?i:authorization)(?:\\*["'])?[ \t]{0,3}[:=][ \t]{0,3}(?:\\*["'])?"""
        rf"(?i:bearer|basic|digest|token|negotiate|apikey)[ \t]{{1,3}})(?:{_PIECE}|[^{_STOPS}])+"
        rf"""|((?i:authorization)(?:\\*["'])?[ \t]{{0,3}}[:=][ \t]{{0,3}}(?:\\*["'])?){_WORD_WITH_DIGIT}""",
        group="words",
    ),
    Rule(
        "bearer",
        "secret",
        r"(?i:bearer)[ \t]",
        r"(\b(?i:bearer)[ \t]{1,3})[A-Za-z0-9._~+/=-]{16,}",
        group="words",
    ),
    Rule(
        "known_token",
        "secret",
        r"A(?:KIA|SIA|GPA|IDA|ROA|BIA|CCA)[A-Z0-9]{8}|gh[pousr]_[A-Za-z0-9]{8}|github_pat_|gl[a-z]{1,5}-[A-Za-z0-9_-]{8}"
        r"|xox[a-z]-|xapp-|hooks\.slack\.com|[rs]k_(?:live|test)_|whsec_|SG\.[A-Za-z0-9_-]{22}\.|AIza|ya29\.|GOCSPX-|npm_[A-Za-z0-9]{8}",
        START + r"(?:A(?:KIA|SIA|GPA|IDA|ROA|BIA|CCA)[A-Z0-9]{16}\b"  # AWS access key ids
        r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"  # GitHub
        r"|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat)-[A-Za-z0-9_-]{20,}"  # GitLab
        r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"  # Slack
        r"|hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/-]{20,}"
        r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{24,}"  # Stripe
        r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43,}"  # SendGrid
        r"|AIza[A-Za-z0-9_-]{35,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}"  # Google
        r"|npm_[A-Za-z0-9]{36,})",
        group="words",
    ),
    Rule(
        "jwt",
        "jwt",
        r"eyJ[A-Za-z0-9_-]{8}",
        START + r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+){0,2}",
        group="words",
    ),
)
"""In the order in which they apply: what a name gives away before what a shape does."""
