"""Whether a record holds an entity of a set, in SQL: exactly what `language/holding.py` finds, without a round through this process.

A text's runs are found by the patterns that `canonical.observables` has, and what is left of a run is looked up in the set. So the size of a set
costs its way to the engine and nothing a row. Texts of a record are joined by line breaks, which no run has in it.

Only the words of tokens are in an index: a name or an address may stand right beside a letter that isn't ASCII, and is then a part of another word.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from heimdall_server.canonical.observables import gate_pattern, run_pattern
from heimdall_server.domain.entity_sets import DIGEST_CHARACTERS_MIN, INDEXED_WORDS_MAX, EntitySet
from heimdall_server.domain.personal import WORD_LENGTH

SOUGHT_VALUES_MAX: Final = 32
"""Values that are looked for one by one before runs are: of ten it costs a third of a pattern, of a hundred twice as much."""
_PIECE_CHARACTERS: Final = 100_000
"""Of one parameter: a server refuses fields of a form above 128 KiB."""
_JOINED: Final = "arrayStringConcat({maps}, '\\n')"
_WORD_RUN: Final = rf"[0-9a-z\x{{80}}-\x{{10ffff}}]{{{WORD_LENGTH},}}"
_DIGEST_GATE: Final = f"[0-9A-Fa-f]{{{DIGEST_CHARACTERS_MIN}}}"
_DIGEST_RUN: Final = rf"[\w-]*[0-9A-Fa-f]{{{DIGEST_CHARACTERS_MIN}}}[\w-]*"
_ENDS: Final = ".:"
"""What of `observables.ENDS` can be at the end of a run of an address or a name."""


class Values(Protocol):
    """Takes the values of a statement in."""

    def text(self, value: str) -> str:
        """A String; returns its placeholder."""
        ...


def holds(entities: EntitySet, parameters: Values) -> str:
    """A boolean, never null."""
    parts: list[str] = []
    parts += _of_words(entities.words, parameters)
    if entities.holds_plain:
        tests = _Tests(entities, parameters)
        parts.append(f"({tests.of('body')})")
        parts.append(f"(host != '' AND ({tests.of('host')}))")
        for scope in ("attributes", "resource"):
            joined = _JOINED.format(maps=f"mapValues({scope})")
            parts.append(f"(notEmpty({scope}) AND ({tests.of(joined)}))")
    return " OR ".join(parts) if parts else "false"


def _of_words(words: Collection[str], parameters: Values) -> list[str]:
    """Words of tokens, which the indexes know; of very many it is cheaper to go through the words of the texts."""
    columns = ("lower(body)", "lower(tokens)") if words else ()
    if len(words) <= INDEXED_WORDS_MAX:
        return [f"hasAnyTokens({column}, {piece})" for column in columns for piece in _pieces(words, parameters)]
    gate, run = parameters.text(f"[0-9a-z]{{{WORD_LENGTH}}}"), parameters.text(_WORD_RUN)
    wanted = f"(SELECT arrayJoin({_list(words, parameters)}))"
    return [
        f"(match({text}, {gate}) AND arrayExists(r -> r IN {wanted}, extractAll({text}, {run})))" for text in columns
    ]


class _Tests:
    """The tests of one set, over any text."""

    def __init__(self, entities: EntitySet, parameters: Values) -> None:
        self._entities = entities
        self._parameters = parameters

    def of(self, text: str) -> str:
        """Whether a text holds a value of the set."""
        entities = self._entities
        tests: list[str] = []
        if entities.ipv4:
            test = f"trim(BOTH '.' FROM r) IN {self._in(entities.ipv4)}"
            tests.append(self._found(text, "ipv4", test, as_written=entities.ipv4))
        if entities.ipv6:
            tests.append(self._found(text, "ipv6", self._ipv6()))
        if entities.hosts:
            tests.append(self._found(text, "domain", self._domain(), as_written=entities.hosts))
        if entities.cves:
            tests.append(self._found(text, "cve", self._cve()))
        if digests := entities.digests:
            gate = self._gate(text, _DIGEST_GATE, digests)
            tests.append(self._any(text, gate, _DIGEST_RUN, f"lower(r) IN {self._in(digests)}"))
        return " OR ".join(tests)

    def _found(self, text: str, type_name: str, test: str, *, as_written: Collection[str] = ()) -> str:
        gate = self._gate(text, gate_pattern(type_name), as_written)
        return self._any(text, gate, run_pattern(type_name), test)

    def _gate(self, text: str, pattern: str, as_written: Collection[str]) -> str:
        """What is cheap to see of a text that may hold a value; few values are looked for themselves, if case is all that spellings differ by."""
        if 0 < len(as_written) <= SOUGHT_VALUES_MAX:
            return f"multiSearchAnyCaseInsensitive({text}, {_list(as_written, self._parameters)})"
        return f"match({text}, {self._parameters.text(pattern)})"

    def _any(self, text: str, gate: str, run: str, test: str) -> str:
        return f"({gate} AND arrayExists(r -> {test}, extractAll({text}, {self._parameters.text(run)})))"

    def _in(self, values: Collection[str]) -> str:
        # A query of its own: the engine makes a set of it once. A list within a lambda it would put together for each row.
        return f"(SELECT arrayJoin({_list(values, self._parameters)}))"

    def _ipv6(self) -> str:
        bare = f"trim(BOTH '{_ENDS}' FROM r)"
        zero_led = self._parameters.text(r":0[0-9]+\.|\.0[0-9]")
        wanted = f"(SELECT toIPv6(arrayJoin({_list(self._entities.ipv6, self._parameters)})))"
        # The engine reads IPv4 as mapped, and octets with a zero in front.
        return f"position({bare}, ':') > 0 AND NOT match({bare}, {zero_led}) AND toIPv6OrDefault({bare}) IN {wanted}"

    def _domain(self) -> str:
        entities, bare = self._entities, "trim(BOTH '.' FROM r)"
        host = self._parameters.text(r"^//([^/\\]+)(?:/|$)")
        of_url = f"trim(TRAILING '.' FROM lower(extract({bare}, {host})))"
        tests = [f"(startsWith({bare}, '//') AND {of_url} IN {self._in(entities.hosts)})"]
        if entities.names:
            tests.append(f"{bare} IN {self._in(entities.names)}")
        return " OR ".join(tests)

    def _cve(self) -> str:
        digits = r"replaceRegexpOne(substring(r, 10), '^0+([0-9]{4,})$', '\\1')"
        shape = self._parameters.text(r"^(?i)cve-[0-9]{4}-[0-9]{4,19}$")
        return f"match(r, {shape}) AND concat('CVE-', substring(r, 5, 4), '-', {digits}) IN {self._in(self._entities.cves)}"


def _list(values: Collection[str], parameters: Values) -> str:
    """Values as an array."""
    pieces = _pieces(values, parameters)
    return pieces[0] if len(pieces) == 1 else f"arrayConcat({', '.join(pieces)})"


def _pieces(values: Collection[str], parameters: Values) -> list[str]:
    """Values as arrays. They travel as few parameters: there may be a hundred thousand."""
    pieces: list[list[str]] = [[]]
    size = 0
    for value in sorted(values):
        if size + len(value) > _PIECE_CHARACTERS:
            pieces.append([])
            size = 0
        pieces[-1].append(value)
        size += len(value) + 1
    return [f"splitByChar(' ', {parameters.text(' '.join(piece))})" for piece in pieces]
