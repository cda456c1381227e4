"""What the lines of a source look like: constant text with values between, remembered per source.

A program writes its records with few statements, and each statement writes the same keys in the same order with the
same white space. Such a line needs no parser: `json_flat` compares the constant text and takes what stands between.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

SOURCES_MAX: Final = 4096
"""Sources remembered; the one that wasn't used for longest goes."""
LAYOUTS_MAX: Final = 64
"""Layouts of a source, likewise."""
SIZE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Constant text of all."""
_LAYOUT_BYTES_MAX: Final = 2048
"""Constant text of one."""
_LINE_BYTES_MIN: Final = 16
_PAUSE_MAX: Final = 64
_MEMBER: Final = re.compile(
    rb'([ \t\r]*"([^"\\\x00-\x1f]*)"[ \t\r]*:[ \t\r]*)'
    rb'(?:(")(?:[^"\\]|\\.)*"|[^"\s,{}\[\]]+)([ \t\r]*[,}])'
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A flat object: `literals[0] value literals[1] value … literals[-1]`. Quotes around values are constant text."""

    literals: tuple[bytes, ...]
    names: tuple[str, ...]
    quoted: tuple[bool, ...]
    """Of each value: it is a string, else a number or literal."""

    @property
    def quote_count(self) -> int:
        """Unescaped quotes of a line."""
        return sum(literal.count(b'"') for literal in self.literals)

    @property
    def size_bytes(self) -> int:
        """Constant text."""
        return sum(map(len, self.literals))


def layout_of(line: bytes) -> Layout | None:
    """The layout of a line.

    Args:
        line: One JSON object, well-formed, without its newline.

    Returns:
        None if the object isn't flat, repeats a key, or is too small or large to be worth it.
    """
    at = line.find(b"{") + 1
    literal = line[:at]
    literals, names, quoted = list[bytes](), list[str](), list[bool]()
    while not literal.rstrip(b" \t\r").endswith(b"}"):
        member = _MEMBER.match(line, at)
        if member is None:
            return None
        quote = member[3] or b""
        literals.append(literal + member[1] + quote)
        names.append(member[2].decode())
        quoted.append(member[3] is not None)
        literal, at = quote + member[4], member.end()
    literals.append(literal + line[at:])
    if len(line) < _LINE_BYTES_MIN or sum(map(len, literals)) > _LAYOUT_BYTES_MAX or len(set(names)) < len(names):
        return None
    return Layout(tuple(literals), tuple(names), tuple(quoted)) if names else None


@dataclass(slots=True)
class _Memory:
    layouts: OrderedDict[Layout, None] = field(default_factory=OrderedDict)
    """The last one was used most in the last chunk."""
    pause: int = 0
    """Chunks for which layouts aren't tried: they failed lately."""
    next_pause: int = 1


class Layouts:
    """Bounded memory of layouts. Thread-safe."""

    def __init__(self, sources_max: int = SOURCES_MAX) -> None:
        self._sources_max = sources_max
        self._memories: OrderedDict[tuple[str, str], _Memory] = OrderedDict()
        self._lock = threading.Lock()
        self._size_bytes = 0

    def recall(self, key: tuple[str, str]) -> list[Layout] | None:
        """The layouts to try for a source's next chunk, most used first; None: neither try nor learn.

        Args:
            key: (dataset, source).
        """
        with self._lock:
            memory = self._memories.get(key)
            if memory is None:
                return []
            self._memories.move_to_end(key)
            if memory.pause:
                memory.pause -= 1
                return None
            return list(reversed(memory.layouts))

    def learn(self, key: tuple[str, str], found: Iterable[Layout], *, used: Sequence[Layout], failed: bool) -> None:
        """Remember what a chunk looked like.

        Args:
            key: (dataset, source).
            found: Layouts of lines that no remembered layout fitted.
            used: Remembered ones that fitted, most used first.
            failed: Those fitted few lines: wait before the next try, longer each time.
        """
        with self._lock:
            memory = self._memories.setdefault(key, _Memory())
            self._memories.move_to_end(key)
            for layout in (*found, *reversed(used)):
                if layout not in memory.layouts:
                    self._size_bytes += layout.size_bytes
                memory.layouts[layout] = None
                memory.layouts.move_to_end(layout)
            while len(memory.layouts) > LAYOUTS_MAX:
                self._forget(memory)
            if failed:
                memory.pause, memory.next_pause = memory.next_pause, min(2 * memory.next_pause, _PAUSE_MAX)
            elif used:
                memory.next_pause = 1
            while len(self._memories) > self._sources_max or self._size_bytes > SIZE_BYTES_MAX:
                _, memory = self._memories.popitem(last=False)
                while memory.layouts:
                    self._forget(memory)

    def _forget(self, memory: _Memory) -> None:
        layout, _ = memory.layouts.popitem(last=False)
        self._size_bytes -= layout.size_bytes
