"""The catalogue of line patterns: how a line of a known kind of text log begins.

An entry's regex matches the *head* of a record's first line; what remains is the body. Named groups say
what the pieces are: `time` (with `time_year` put before it and `time_fraction` behind it), `level`, `host`,
`service`, `pri`, `body` (instead of what remains), and any other name is an attribute. A dash alone means
"none". Regexes are those of Rust's `regex` crate (linear in time, no look-around).

What isn't here: choosing an entry (`detect`), cutting and reading lines with one (`text`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PLAIN: Final = "plain"
"""Each line is a record, all of it body."""
CUSTOM: Final = "custom"
"""A regex that the user gave (option `regex`)."""
LOGFMT: Final = "logfmt"
"""`key=value` pairs."""

_LEVEL: Final = (
    r"(?i-u:TRACE|VERBOSE|DEBUG|FINEST|FINER|FINE|CONFIG|INFORMATION|INFO|NOTICE|WARNING|WARN|ERROR|ERR|SEVERE"
    r"|CRITICAL|CRIT|ALERT|EMERGENCY|EMERG|FATAL|PANIC)"
)
_CLOCK: Final = r"\d\d:\d\d:\d\d"
_FRACTION: Final = r"(?:[.,]\d{1,9})?"
_ZONE: Final = r"(?: ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"
_ISO: Final = rf"\d{{4}}-\d\d-\d\d[T ]{_CLOCK}{_FRACTION}{_ZONE}"
_SYSLOG_STAMP: Final = rf"[A-Z][a-z]{{2}} [ \d]?\d {_CLOCK}"
_PRI: Final = r"(?:<(?P<pri>\d{1,3})>)?"
_PROGRAM: Final = r"(?:-- )?(?P<service>[^\s:\[]+)(?: (?P<version>\d[\w.]*))?(?:\[(?P<pid>\d+)\])?: ?"
_QUOTED: Final = r'(?:[^"\\]|\\.)*'

CONTINUATION: Final = (
    r"^(?:\s|$|Caused by: |Suppressed: |at \S+\(|\.\.\. \d+ |Traceback \(most recent|"
    r"During handling of the above|The above exception was|[\w$]+(?:\.[\w$]+)*(?:Error|Exception|Interrupt|Exit)(?::|\s*$))"
)
"""Lines that never begin a record: indented, blank, or a piece of a stack trace."""

ISO_LAYOUT: Final = "yyyy-MM-dd HH:mm:ss~"
SYSLOG_LAYOUT: Final = "MMM dd HH:mm:ss"
EPOCH_LAYOUT: Final = "epoch"
AUTO_LAYOUT: Final = "auto"


RFC5424_REGEX: Final = (
    r"^<(?P<pri>\d{1,3})>[1-9]\d? (?P<time>\S+) (?P<host>\S+) (?P<service>\S+) (?P<pid>\S+) (?P<message_id>\S+) "
    r'(?P<structured_data>-|(?:\[[^\s\]="]+(?: +[^\s\]="]+="(?:[^"\\]|\\.)*")* *\])+)(?: \x{FEFF}?|$)'
)
"""Header and structured data of RFC 5424, section 6."""
RFC3164_REGEX: Final = (
    rf"^{_PRI}(?:\d+: )?(?:[*.]?(?P<time>[A-Z][a-z]{{2}} [ \d]?\d (?:\d{{4}} )?{_CLOCK}{_FRACTION}(?: [A-Z]{{3,4}}\b)?|{_ISO}):? "
    rf"(?:(?P<host>[^\s:\[%]+|[0-9a-fA-F:.]+) )?(?:{_PROGRAM})?)?"
)
"""What goes for RFC 3164: any part may lack, network devices put a counter in front, a host may be IPv6."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of line."""

    name: str
    regex: str
    """Head of a record's first line."""
    layout: str = ""
    """How `time` is written (see `stamps`); empty: the lines carry none."""
    multiline: bool = False
    """Whether any line that doesn't match belongs to the record before. Else only those that look like
    a continuation do, and the others are records of their own."""
    start: str = ""
    """Tells the first line of a record, where `regex` needs more than that line; empty: `regex`."""
    levels: dict[str, int] = field(default_factory=dict)
    """Severity words of this kind only, lower case, beside the usual ones."""
    numbers: frozenset[str] = frozenset()
    """Attributes that are numbers."""
    status_severity: bool = False
    """Severity comes from the attribute `status` (HTTP)."""

    @property
    def start_regex(self) -> str:
        """What a record's first line matches."""
        return self.start or self.regex


_IDS: Final = frozenset({"pid", "tid"})
_ACCESS: Final = (
    r"^(?:(?P<vhost>\S+:\d+) )?(?P<remote_addr>\S+) (?P<ident>\S+) (?P<remote_user>[^\[]*?) "
    rf"\[(?P<time>\d\d/[A-Z][a-z]{{2}}/\d{{4}}:{_CLOCK} [+-]\d{{4}})\] "
    rf'"(?P<body>(?P<method>[A-Z]+) (?P<path>[^ "]+) (?P<protocol>HTTP/[\d.]+)|{_QUOTED})" '
    r"(?P<status>\d{3}) (?P<bytes>\d+|-)"
)
_ACCESS_NUMBERS: Final = frozenset({"status", "bytes"})
_POSTGRES_LEVELS: Final = {
    "log": 9, "statement": 9, "detail": 9, "hint": 9, "context": 9, "query": 9,
    "debug1": 5, "debug2": 5, "debug3": 5, "debug4": 5, "debug5": 5,
}  # fmt: skip

_CATALOGUE: Final = (
    Pattern(
        "access_combined",
        rf'{_ACCESS} "(?P<referrer>{_QUOTED})" "(?P<user_agent>{_QUOTED})"(?: (?P<extra>.+))?$',
        "dd/MMM/yyyy:HH:mm:ss~",
        numbers=_ACCESS_NUMBERS,
        status_severity=True,
    ),
    Pattern(
        "access_common",
        rf"{_ACCESS}(?: (?P<extra>.+))?$",
        "dd/MMM/yyyy:HH:mm:ss~",
        numbers=_ACCESS_NUMBERS,
        status_severity=True,
    ),
    Pattern(
        "apache_error",
        rf"^\[[A-Z][a-z]{{2}} (?P<time>{_SYSLOG_STAMP}{_FRACTION}) (?P<time_year>\d{{4}})\] "
        r"\[(?:(?P<module>[\w-]+):)?(?P<level>\w+)\] (?:\[pid (?P<pid>\d+)(?::tid (?P<tid>\d+))?\] )?"
        # The client stays in the message, too: people search for it there.
        r"(?P<body>(?:\[client (?P<client>[^\]]+)\] )?.*)$",
        "yyyy MMM dd HH:mm:ss~",
        levels={f"trace{number}": 1 for number in range(1, 9)},
        numbers=_IDS,
    ),
    Pattern(
        "nginx_error",
        rf"^(?P<time>\d{{4}}/\d\d/\d\d {_CLOCK}) \[(?P<level>\w+)\] (?P<pid>\d+)#(?P<tid>\d+): "
        r"(?:\*(?P<connection>\d+) )?",
        ISO_LAYOUT,
        multiline=True,
        numbers=_IDS | {"connection"},
    ),
    Pattern(
        "cri",
        rf"^(?P<time>\d{{4}}-\d\d-\d\dT{_CLOCK}{_FRACTION}{_ZONE}) (?P<stream>stdout|stderr) (?P<tag>[FP]) ",
        ISO_LAYOUT,
    ),
    Pattern(
        "bgl",
        r"^(?P<label>\S+) (?P<time>\d{9,10}) \d{4}\.\d\d\.\d\d (?P<host>\S+) "
        r"(?P<local_time>\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d(?P<time_fraction>\.\d{1,9})) "
        r"\S+ (?P<type>\S+) (?P<component>\S+) (?P<level>\S+) ?",
        EPOCH_LAYOUT,
    ),
    Pattern(
        "logcat",
        rf"^(?P<time>\d\d-\d\d {_CLOCK}\.\d{{3,9}}) +(?P<pid>\d+) +(?P<tid>\d+) (?P<level>[VDIWEFAS]) "
        r"(?P<component>[^:]*?) *: ?",
        "MM-dd HH:mm:ss~",
        levels={"a": 21, "s": 0},
        numbers=_IDS,
    ),
    Pattern(
        "logcat_time",
        rf"^(?P<time>\d\d-\d\d {_CLOCK}\.\d{{3,9}}) +(?P<level>[VDIWEFAS])/(?P<component>[^(:]*?) *"
        r"\( *(?P<pid>\d+)\): ?",
        "MM-dd HH:mm:ss~",
        levels={"a": 21, "s": 0},
        numbers=_IDS,
    ),
    Pattern(
        "klog",
        rf"^(?P<level>[IWEF])(?P<time>\d{{4}} {_CLOCK}\.\d{{1,9}}) +(?P<tid>\d+) (?P<file>[^\s:]+):(?P<line>\d+)\] ",
        "MMdd HH:mm:ss~",
        multiline=True,
        numbers=frozenset({"tid", "line"}),
    ),
    Pattern(
        "glog",
        rf"^(?P<level>[IWEF])(?P<time>\d{{8}} {_CLOCK}\.\d{{1,9}}) +(?P<tid>\d+) (?P<file>[^\s:]+):(?P<line>\d+)\] ",
        "yyyyMMdd HH:mm:ss~",
        multiline=True,
        numbers=frozenset({"tid", "line"}),
    ),
    Pattern(
        "java_util_logging",
        rf"^(?P<time>[A-Z][a-z]{{2}} \d{{1,2}}, \d{{4}},? \d{{1,2}}:\d\d:\d\d [AP]M) (?P<logger>\S+)(?: (?P<method>\S+))?"
        rf"\r?\n(?P<level>{_LEVEL}): ?",
        "MMM d, yyyy h:mm:ss a",
        multiline=True,
        start=r"^[A-Z][a-z]{2} \d{1,2}, \d{4},? \d{1,2}:\d\d:\d\d [AP]M \S+",
    ),
    Pattern(
        "spring",
        rf"^(?P<time>{_ISO}) +(?P<level>{_LEVEL}) +(?P<pid>\d+) --- (?:\[(?P<application>[^\]]*)\] )?"
        r"\[ *(?P<thread>[^\]]*?)\] (?P<logger>\S+) *: ",
        ISO_LAYOUT,
        multiline=True,
        numbers=_IDS,
    ),
    Pattern(
        "zookeeper",
        rf"^(?P<time>{_ISO}) (?:\[myid:(?P<myid>[^\]]*)\] )?- (?P<level>{_LEVEL}) +"
        r"\[(?P<thread>.*?):(?P<component>[^:@\[\]]+)@(?P<line>\d+)\] - ",
        ISO_LAYOUT,
        multiline=True,
        numbers=frozenset({"line"}),
    ),
    Pattern(
        "hdfs",
        rf"^(?P<time>\d{{6}} \d{{6}}) (?P<pid>\d+) (?P<level>{_LEVEL}) +(?P<component>[^\s:]+): ",
        "yyMMdd HHmmss",
        multiline=True,
        numbers=_IDS,
    ),
    Pattern(
        "spark",
        rf"^(?P<time>\d\d/\d\d/\d\d {_CLOCK}) (?P<level>{_LEVEL}) +(?P<component>[^\s:]+): ",
        "yy/MM/dd HH:mm:ss",
        multiline=True,
    ),
    Pattern(
        "mysql_error",
        rf"^(?P<time>{_ISO}) (?P<tid>\d+) \[(?P<level>\w+)\] (?:\[(?P<code>MY-\d+)\] )?(?:\[(?P<component>\w+)\] )?",
        ISO_LAYOUT,
        multiline=True,
        levels={"note": 9, "system": 9},
        numbers=_IDS,
    ),
    Pattern(
        "postgres",
        rf"^(?P<time>\d{{4}}-\d\d-\d\d {_CLOCK}{_FRACTION}{_ZONE}) (?:[A-Z]{{3,4}} )?\[(?P<pid>\d+)(?:-\d+)?\] "
        r"(?:(?P<user>[^\s@]+)@(?P<database>\S+) )?"
        r"(?P<level>LOG|STATEMENT|DETAIL|HINT|CONTEXT|QUERY|DEBUG[1-5]|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC): +",
        ISO_LAYOUT,
        multiline=True,
        levels=_POSTGRES_LEVELS,
        numbers=_IDS,
    ),
    Pattern(
        "redis",
        rf"^(?P<pid>\d+):(?P<role>[XCSM]) (?P<time>\d\d [A-Z][a-z]{{2}} \d{{4}} {_CLOCK}\.\d{{3}}) (?P<level>[.*#-]) ",
        "dd MMM yyyy HH:mm:ss~",
        levels={".": 5, "-": 1, "*": 10, "#": 13},
        numbers=_IDS,
    ),
    Pattern(
        "oslo",
        rf"^(?P<time>{_ISO}) (?P<pid>\d+) (?P<level>{_LEVEL}) (?P<logger>\S+) \[(?P<request_id>[^\]]*)\] ",
        ISO_LAYOUT,
        multiline=True,
        numbers=_IDS,
    ),
    Pattern(
        "python",
        rf"^(?P<time>{_ISO}) - (?P<logger>\S+) - (?P<level>{_LEVEL}) - ",
        ISO_LAYOUT,
        multiline=True,
    ),
    Pattern(
        "logback",
        rf"^(?P<time>{_ISO}) +\[(?P<thread>[^\]]*)\] +(?P<level>{_LEVEL}) +(?P<logger>[\w.$/\[\]-]+) *(?:-|:) ",
        ISO_LAYOUT,
        multiline=True,
    ),
    Pattern(
        "log4j",
        rf"^(?P<time>{_ISO}) +(?P<level>{_LEVEL}) +(?:\[(?P<thread>[^\]]*)\]:? +)?(?P<logger>[A-Za-z_$][\w.$/-]*)"
        r"(?:[:@(](?P<line>\d+)\)?)? *(?:-|:) ",
        ISO_LAYOUT,
        multiline=True,
        numbers=frozenset({"line"}),
    ),
    Pattern(
        "python_basic",
        r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):(?P<logger>[\w.]+):",
        multiline=True,
    ),
    Pattern(
        "syslog",
        rf"^{_PRI}(?P<time>{_SYSLOG_STAMP}) (?P<host>\S+) (?:{_PROGRAM})?",
        SYSLOG_LAYOUT,
        numbers=_IDS,
    ),
    Pattern(
        "iso_level",
        rf"^\[?(?P<time>{_ISO})\]?[ \t|-]+[\[<(]?(?P<level>{_LEVEL})(?:[\])>]|\b):?[ \t|-]*",
        ISO_LAYOUT,
        multiline=True,
    ),
    Pattern(
        "syslog_iso",
        rf"^{_PRI}(?P<time>\d{{4}}-\d\d-\d\dT{_CLOCK}{_FRACTION}(?:Z|[+-]\d\d:?\d\d)) (?P<host>\S+) {_PROGRAM}",
        ISO_LAYOUT,
        numbers=_IDS,
    ),
    Pattern(
        "slash_stamp",
        rf"^\[?(?P<time>\d{{4}}/\d\d/\d\d {_CLOCK}{_FRACTION}{_ZONE})\]?[ \t|-]+(?:[\[<(]?(?P<level>{_LEVEL})(?:[\])>]|\b):?[ \t|-]*)?",
        ISO_LAYOUT,
        multiline=True,
    ),
    Pattern("iso", rf"^\[?(?P<time>{_ISO})\]?(?::?[ \t]+|[ \t]*[|-] ?)", ISO_LAYOUT, multiline=True),
    Pattern(
        "epoch",
        r"^\[?(?P<time>\d{10}(?:\.\d{1,9}|\d{3}|\d{6}|\d{9})?)\]?:?[ \t]+"
        rf"(?:[\[<(]?(?P<level>{_LEVEL})(?:[\])>]|\b):?[ \t|-]*)?",
        EPOCH_LAYOUT,
        multiline=True,
    ),
    Pattern(
        "dmesg",
        rf"^{_PRI}\[ *(?P<uptime>\d+\.\d{{6}})\] ",
        numbers=frozenset({"uptime"}),
    ),
    Pattern(LOGFMT, r'^[A-Za-z_][\w.@/-]*=(?:"[^"]*"|[^\s"]*) +[A-Za-z_][\w.@/-]*=', AUTO_LAYOUT),
    Pattern(PLAIN, r"^"),
)

CATALOGUE: Final[dict[str, Pattern]] = {pattern.name: pattern for pattern in _CATALOGUE}
"""By name, the most specific first: where two fit equally well, the first is taken."""
