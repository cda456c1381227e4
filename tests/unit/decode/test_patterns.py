from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from heimdall_server.decode import text
from heimdall_server.decode.patterns import CATALOGUE, PLAIN
from heimdall_server.decode.text_sniff import choose_pattern
from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import FormatError
from tests.support.decode_streams import attributes, context, shown

# Of each kind a line (or record), and what must be read from it: UTC time, severity, core columns and attributes.
SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "access_combined": (
        '203.0.113.9 - frank [10/Oct/2000:13:55:36 -0700] "GET /a.gif?x=1 HTTP/1.1" 503 2326 "http://e.example/" "Agent \\"x\\" 1.0"',
        {
            "time": "2000-10-10 20:55:36",
            "severity": 17,
            "body": "GET /a.gif?x=1 HTTP/1.1",
            "remote_addr": "203.0.113.9",
            "remote_user": "frank",
            "method": "GET",
            "path": "/a.gif?x=1",
            "protocol": "HTTP/1.1",
            "status": 503,
            "bytes": 2326,
            "referrer": "http://e.example/",
            "user_agent": 'Agent \\"x\\" 1.0',
        },
    ),
    "access_common": (
        'h.example - - [10/Oct/2000:13:55:36 +0000] "-" 404 -',
        {"time": "2000-10-10 13:55:36", "severity": 13, "body": "-", "remote_addr": "h.example", "status": 404},
    ),
    "apache_error": (
        "[Fri Sep 09 10:42:29.902022 2011] [core:error] [pid 35708:tid 4328636416] [client 72.15.99.187] File does not exist",
        {
            "time": "2011-09-09 10:42:29.902022",
            "severity": 17,
            "severity_text": "error",
            "body": "[client 72.15.99.187] File does not exist",
            "module": "core",
            "pid": 35708,
            "client": "72.15.99.187",
        },
    ),
    "nginx_error": (
        "2024/03/01 10:20:30 [crit] 1234#5678: *99 connect() failed",
        {"time": "2024-03-01 10:20:30", "severity": 18, "pid": 1234, "connection": 99, "body": "connect() failed"},
    ),
    "cri": (
        "2016-10-06T00:17:09.669794202Z stderr F it said so",
        {"time": "2016-10-06 00:17:09.669794202", "stream": "stderr", "tag": "F", "body": "it said so"},
    ),
    "bgl": (
        "- 1117838570 2005.06.03 R02-M1-N0-C:J12-U11 2005-06-03-15.42.50.675872 R02-M1-N0-C:J12-U11 RAS KERNEL INFO parity error",
        {
            "time": "2005-06-03 22:42:50.675872",
            "severity": 9,
            "host": "R02-M1-N0-C:J12-U11",
            "component": "KERNEL",
            "type": "RAS",
            "body": "parity error",
        },
    ),
    "logcat": (
        "03-17 16:13:38.811  1702  2395 D WindowManager: printFreezing: on",
        {
            "time": "2026-03-17 16:13:38.811",
            "severity": 5,
            "pid": 1702,
            "tid": 2395,
            "component": "WindowManager",
            "body": "printFreezing: on",
        },
    ),
    "logcat_time": (
        "03-17 16:13:38.811 E/AndroidRuntime( 1702): boom",
        {"time": "2026-03-17 16:13:38.811", "severity": 17, "pid": 1702, "component": "AndroidRuntime", "body": "boom"},
    ),
    "klog": (
        "W0524 12:03:04.123456   12345 reflector.go:123] watch ended",
        {
            "time": "2026-05-24 12:03:04.123456",
            "severity": 13,
            "tid": 12345,
            "file": "reflector.go",
            "line": 123,
            "body": "watch ended",
        },
    ),
    "glog": (
        "E20240524 12:03:04.123456   12345 a.cc:1] bad",
        {"time": "2024-05-24 12:03:04.123456", "severity": 17, "body": "bad"},
    ),
    "java_util_logging": (
        "May 24, 2024 1:02:03 PM com.example.Main run\nSEVERE: it broke",
        {
            "time": "2024-05-24 13:02:03",
            "severity": 17,
            "logger": "com.example.Main",
            "method": "run",
            "body": "it broke",
        },
    ),
    "spring": (
        "2024-03-01T10:00:00.123+01:00  WARN 12345 --- [app] [  main] c.e.Demo  : slow",
        {
            "time": "2024-03-01 09:00:00.123",
            "severity": 13,
            "pid": 12345,
            "application": "app",
            "thread": "main",
            "logger": "c.e.Demo",
            "body": "slow",
        },
    ),
    "zookeeper": (
        "2015-07-29 17:41:44,747 - WARN  [QuorumPeer[myid=1]/0:0:0:0:0:0:0:0:2181:FastLeaderElection@774] - time out: 3200",
        {
            "time": "2015-07-29 17:41:44.747",
            "severity": 13,
            "component": "FastLeaderElection",
            "line": 774,
            "body": "time out: 3200",
        },
    ),
    "hdfs": (
        "081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1: ok",
        {
            "time": "2008-11-09 20:36:15",
            "severity": 9,
            "pid": 148,
            "component": "dfs.DataNode$PacketResponder",
            "body": "PacketResponder 1: ok",
        },
    ),
    "spark": (
        "17/06/09 20:10:40 INFO executor.Backend: Registered",
        {"time": "2017-06-09 20:10:40", "severity": 9, "component": "executor.Backend", "body": "Registered"},
    ),
    "mysql_error": (
        "2024-03-01T10:00:00.123456Z 0 [System] [MY-010116] [Server] starting",
        {
            "time": "2024-03-01 10:00:00.123456",
            "severity": 9,
            "code": "MY-010116",
            "component": "Server",
            "body": "starting",
        },
    ),
    "postgres": (
        "2024-03-01 10:00:00.123 UTC [77] bob@shop FATAL:  no such database",
        {
            "time": "2024-03-01 10:00:00.123",
            "severity": 21,
            "pid": 77,
            "user": "bob",
            "database": "shop",
            "body": "no such database",
        },
    ),
    "redis": (
        "1234:M 01 Mar 2024 10:00:00.123 # out of memory",
        {"time": "2024-03-01 10:00:00.123", "severity": 13, "pid": 1234, "role": "M", "body": "out of memory"},
    ),
    "oslo": (
        "2017-05-16 00:00:00.008 25746 INFO nova.osapi [req-38 1 2] GET",
        {
            "time": "2017-05-16 00:00:00.008",
            "severity": 9,
            "pid": 25746,
            "logger": "nova.osapi",
            "request_id": "req-38 1 2",
            "body": "GET",
        },
    ),
    "python": (
        "2024-03-01 10:00:00,123 - my.app - ERROR - failed - twice",
        {"time": "2024-03-01 10:00:00.123", "severity": 17, "logger": "my.app", "body": "failed - twice"},
    ),
    "logback": (
        "2024-03-01 10:00:00.123 [main] INFO  com.example.Bar - up",
        {
            "time": "2024-03-01 10:00:00.123",
            "severity": 9,
            "thread": "main",
            "logger": "com.example.Bar",
            "body": "up",
        },
    ),
    "log4j": (
        "2015-10-18 18:01:47,978 ERROR [main] org.apache.App: Created",
        {
            "time": "2015-10-18 18:01:47.978",
            "severity": 17,
            "thread": "main",
            "logger": "org.apache.App",
            "body": "Created",
        },
    ),
    "python_basic": ("WARNING:root:careful", {"severity": 13, "logger": "root", "body": "careful"}),
    "syslog": (
        "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure; uid=0 ",
        {
            "time": "2026-06-14 15:16:01",
            "host": "combo",
            "service": "sshd(pam_unix)",
            "pid": 19939,
            "body": "authentication failure; uid=0 ",
        },
    ),
    "iso_level": (
        "2024-03-01T10:00:00+02:00 [Warning] disk: 91 %",
        {"time": "2024-03-01 08:00:00", "severity": 13, "body": "disk: 91 %"},
    ),
    "syslog_iso": (
        "2024-03-01T10:00:00.5+02:00 web-1 cron[7]: ran",
        {"time": "2024-03-01 08:00:00.500", "host": "web-1", "service": "cron", "pid": 7, "body": "ran"},
    ),
    "slash_stamp": (
        "2024/03/01 10:00:00 ERROR gone",
        {"time": "2024-03-01 10:00:00", "severity": 17, "body": "gone"},
    ),
    "iso": ("2024-03-01 10:00:00 hello there", {"time": "2024-03-01 10:00:00", "body": "hello there"}),
    "epoch": ("1709287200.25 info hello", {"time": "2024-03-01 10:00:00.250", "severity": 9, "body": "hello"}),
    "dmesg": ("[   12.345678] usb 1-1: new device", {"uptime": 12.345678, "body": "usb 1-1: new device"}),
    "logfmt": (
        'time=2024-03-01T10:00:00Z level=warn msg="a \\"b\\"" app=shop took=1.5 ok=true id="7" order=00123',
        {
            "time": "2024-03-01 10:00:00",
            "severity": 13,
            "body": 'a "b"',
            "service": "shop",
            "took": 1.5,
            "ok": True,
            "id": "7",
            "order": "00123",
        },
    ),
    PLAIN: ("once upon a time", {"body": "once upon a time"}),
}
CORE = ("severity", "severity_text", "body", "service", "host")


def test_every_entry_has_a_sample() -> None:
    assert set(SAMPLES) == set(CATALOGUE)


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_detected_as_its_own_kind(name: str) -> None:
    line, _ = SAMPLES[name]
    assert choose_pattern((line + "\n").encode() * 3, final=False)[0] == name


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_pieces_of_the_sample_are_read(name: str, line_end: str) -> None:
    line, expected = SAMPLES[name]
    data = (line.replace("\n", line_end) + line_end).encode() * 2
    decoded = text.decode(data, Format(FormatKind.TEXT, {"pattern": name}), context(), at_start=True)
    decoded.batch.validate(full=True)
    assert decoded.batch.num_rows == 2
    found = {**attributes(decoded)[1], **dict(zip(CORE, shown(decoded, *CORE)[1], strict=True))}
    found["time"] = (
        str(shown(decoded, "time")[1]).removesuffix("+00:00").rstrip("0" if "." in expected.get("time", "") else "")
    )
    wanted = dict(expected)
    if "." in wanted.get("time", ""):
        wanted["time"] = wanted["time"].rstrip("0")
    assert {key: found.get(key) for key in wanted} == wanted


def test_no_entry_matches_the_empty_line() -> None:
    for name, pattern in CATALOGUE.items():
        if name != PLAIN:
            assert not pl.Series([""]).str.contains(pattern.start_regex).any(), name


@pytest.mark.parametrize(
    ("regex", "problem"),
    [
        ("(?P<time", "doesn't compile"),
        (r"(?P<a>x)(?=y)", "doesn't compile"),
        (r"(\d+) (.*)", "no named group"),
        ("(?P<a>" + "x" * 5000 + ")", "longer than"),
        ("", "no named group"),
    ],
)
def test_regex_that_cannot_be_used_is_refused(regex: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        text.pattern_of(Format(FormatKind.TEXT, {"pattern": "custom", "regex": regex}))


def test_unknown_pattern_is_refused() -> None:
    with pytest.raises(FormatError, match="no line pattern is named 'nope'"):
        text.pattern_of(Format(FormatKind.TEXT, {"pattern": "nope"}))
