"""From what a connection sends to whole messages: octet counting and line ends (RFC 6587), told apart as they come.

A state machine without I/O. Each message says by its first bytes how it is framed:

    begins with             is
    `MSG-LEN SP <PRI>`      octet-counted (RFC 6587, section 3.4.1; the only framing of RFC 5425)
    `MSG-LEN SP`            the same, behind an octet-counted one: the chain says where it begins
    `<`                     a line, ended by LF or NUL (section 3.4.2)
    anything else           behind an octet-counted message garbage, passed over to the next one that can be told;
                            else a line (some devices send no PRI)

Lines are cut before the last one that begins with `<`, because lines without a PRI may join the record before them
(stack traces); `flush` gives up that hope. Messages are never looked at one by one but for the chain of octet counts,
where each length says where the next one begins (0.3 µs a message).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from heimdall_server.decode.lines import OVERSIZE_REASON as OVERSIZE_LINE_REASON
from heimdall_server.decode.octets import CUT_REASON, NO_FRAME_REASON, OVERSIZE_REASON
from heimdall_server.decode.syslog import NEWLINE, OCTET
from heimdall_server.domain.records import RECORD_BYTES_MAX

_LENGTH: Final = re.compile(rb"([1-9][0-9]{0,8}) ")
_START: Final = re.compile(rb"[1-9][0-9]{0,8} <[0-9]{1,3}>")
_START_BEGUN: Final = re.compile(rb"[1-9][0-9]{0,8}(?: (?:<(?:[0-9]{1,3})?)?)?\Z")
"""What may become a start with the next bytes."""
_SWITCH: Final = re.compile(rb"\n[1-9][0-9]{0,8} <[0-9]{1,3}>")
_RESYNC: Final = re.compile(rb"[1-9][0-9]{0,8} <[0-9]{1,3}>|\n<[0-9]{1,3}>")
_START_BYTES_MAX: Final = 15
_LINE_ENDS: Final = b"\r\n\0"
_NEWLINE: Final = 10
_PRI: Final = 60
_HELD_LINES_BYTES_MAX: Final = 256 * 1024
"""Lines of which none has a PRI are held no further than this."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole messages of one framing, or bytes that are none."""

    framing: str
    """`octet` or `newline`; as bytes they are as they came, but that lines always end with LF."""
    payload: bytes
    problem: str = ""
    """Why they can't be read; empty: they can."""


class Framer:
    """See the module. One a connection."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._pieces: list[Piece] = []
        self._octets = False
        """The last message was octet-counted."""
        self._lost = False
        """In garbage behind such a message."""
        self._wanted = 0
        """Bytes that must be held before it is worth looking again."""
        self._seen = 0
        """Held bytes in which no line with a PRI begins but the first."""
        self._skip = 0
        """Bytes of an over-long frame that are still to come; -1: all up to the next line end."""

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for more. Never over `RECORD_BYTES_MAX`, but for what came last."""
        return len(self._held)

    @property
    def holds_lines(self) -> bool:
        """Whether `flush` would give something."""
        return not self._octets and self._held.rfind(b"\n") >= 0

    def feed(self, data: bytes) -> list[Piece]:
        """Take what was read; returns what is whole."""
        if self._skip:
            data = self._pass_over(data)
        self._held += data
        if len(self._held) >= self._wanted:
            self._wanted = 0
            self._cut()
        return self._taken()

    def flush(self) -> list[Piece]:
        """Give up whole lines that were held for a continuation."""
        end = 0 if self._octets else self._held.rfind(b"\n") + 1
        if end:
            self._emit(NEWLINE, self._held[:end])
            del self._held[:end]
            self._seen = 0
        return self._taken()

    def finish(self) -> list[Piece]:
        """The connection is over: what is left is a cut frame, or a line without its end."""
        rest, self._held = self._held, bytearray()
        if rest.strip(_LINE_ENDS):
            if self._octets or _START.match(rest):
                self._emit(OCTET, rest, NO_FRAME_REASON if self._lost else CUT_REASON)
            else:
                self._emit(NEWLINE, rest if rest.endswith(b"\n") else rest + b"\n")
        self._octets = self._lost = False
        self._wanted = self._seen = self._skip = 0
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _emit(self, framing: str, payload: bytearray, problem: str = "") -> None:
        if payload:
            self._pieces.append(Piece(framing, bytes(payload), problem))

    def _pass_over(self, data: bytes) -> bytes:
        """Drop what belongs to a message that was too long."""
        if self._skip > 0:
            size = min(self._skip, len(data))
            self._skip -= size
            return data[size:]
        end = data.find(b"\n") + 1
        if end:
            self._skip = 0
        return data[end:] if end else b""

    def _cut(self) -> None:
        """Take all that is whole from the front of what is held."""
        data, position, more = self._held, 0, True
        while more and position < len(data):
            if self._lost:
                position, more = self._garbage(data, position)
            elif self._octets:
                position, more = self._octet_run(data, position)
            elif _START.match(data, position):
                self._octets = True
            elif _START_BEGUN.match(data, position):
                more = False
            else:
                position, more = self._line_run(data, position)
        del data[:position]

    def _octet_run(self, data: bytearray, begin: int) -> tuple[int, bool]:
        """Take octet-counted messages; returns where they end and whether to look at what follows."""
        while begin < len(data) and data[begin] in _LINE_ENDS:
            begin += 1
        size, position = len(data), begin
        while (match := _LENGTH.match(data, position)) is not None:
            end = match.end() + int(match[1])
            if end - position > RECORD_BYTES_MAX:
                self._emit(OCTET, data[begin:position])
                self._emit(OCTET, data[position : min(end, position + RECORD_BYTES_MAX)], OVERSIZE_REASON)
                self._skip = max(0, end - size)
                return min(end, size), True
            if end > size:
                self._emit(OCTET, data[begin:position])
                self._wanted = end - position
                return position, False
            position = end
            while position < size and data[position] in _LINE_ENDS:
                position += 1
        self._emit(OCTET, data[begin:position])
        if position == size or _START_BEGUN.match(data, position):
            return position, False
        self._lost = data[position] != _PRI
        self._octets = self._lost
        return position, True

    def _garbage(self, data: bytearray, begin: int) -> tuple[int, bool]:
        """Pass over what can't be told to be a message."""
        found = _RESYNC.search(data, begin)
        if found is None:
            end = max(begin, len(data) - _START_BYTES_MAX)
            self._emit(OCTET, data[begin : min(end, begin + RECORD_BYTES_MAX)], NO_FRAME_REASON)
            return end, False
        line = data[found.start()] == _NEWLINE
        end = found.start() + line
        self._emit(OCTET, data[begin : min(end, begin + RECORD_BYTES_MAX)], NO_FRAME_REASON)
        self._lost = False
        self._octets = not line
        return end, True

    def _line_run(self, data: bytearray, begin: int) -> tuple[int, bool]:
        """Take lines up to a message that is octet-counted, or to the last one that may go on."""
        if data.find(b"\0", begin) >= 0:
            data[begin:] = data[begin:].replace(b"\0", b"\n")
        look_from = max(begin, self._seen - _START_BYTES_MAX)
        self._seen = 0
        switch = _SWITCH.search(data, look_from)
        if switch is not None:
            self._emit(NEWLINE, data[begin : switch.start() + 1])
            return switch.start() + 1, True
        end = data.rfind(b"\n<", look_from) + 1
        if not end and len(data) - begin > _HELD_LINES_BYTES_MAX:
            end = data.rfind(b"\n", begin) + 1
        if end:
            self._emit(NEWLINE, data[begin:end])
            begin = end
        if len(data) - begin > RECORD_BYTES_MAX:
            # Lines would have been given away by now, so it is one line.
            self._emit(NEWLINE, data[begin : begin + RECORD_BYTES_MAX], OVERSIZE_LINE_REASON)
            self._skip = -1
            return len(data), False
        self._seen = len(data) - begin
        return begin, False
