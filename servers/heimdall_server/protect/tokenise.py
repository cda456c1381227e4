"""The action `tokenise`: a value becomes its token, and is sealed once for each frame in which it is new.

What a batch costs is one look-up for each distinct spelling; only what wasn't seen lately is brought to its canonical form,
named by the index key, and, unless a durable frame carries a copy, sealed by the data key of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.domain.personal import EPOCHS, WORD_LENGTH
from heimdall_server.domain.sealed_values import SealedRun
from heimdall_server.ports.keys import Sealer, Tokeniser
from heimdall_server.protect.actions import Effects, Forms, Origin
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.policy import DEFAULT_PREFIXES
from heimdall_server.protect.sealed_lately import Pending, SealedLately


@dataclass(eq=False, slots=True)
class Tokenise:
    """See the module. Thread-safe."""

    tokeniser: Tokeniser
    sealer: Sealer
    lately: SealedLately = field(default_factory=SealedLately)
    """Shared with whoever erases."""
    blocklist: Blocklist = field(default_factory=Blocklist)
    """What is never sealed; shared, too."""
    ip_prefixes: tuple[int, int] = DEFAULT_PREFIXES
    """Bits of the networks by which addresses are found, IPv4 and IPv6; 0: by none."""
    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = True
    classes: frozenset[str] | None = None

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The tokens of values; what is new is sealed for the frame."""
        del origins
        epoch = self.tokeniser.live_epochs[-1]
        words: list[str | None] = self.lately.words(data_class, epoch, values)
        # Of a value that was seen before, but isn't sealed, the canonical form is needed once more.
        plain: dict[str, str] = {}
        if None in words:
            new = [index for index, word in enumerate(words) if word is None]
            plain = self._name(data_class, epoch, [values[index] for index in new], new, words)
        known = cast("list[str]", words)
        alone = [word[:WORD_LENGTH] for word in known] if data_class in self._network_classes() else known
        self._seal(data_class, alone, values, plain, effects)
        networks = [word[WORD_LENGTH + 1 :] or None for word in known] if alone is not known else ()
        return Forms(*_tokens(data_class, alone), networks)

    def _name(
        self, data_class: str, epoch: int, spellings: Sequence[str], indices: Sequence[int], words: list[str | None]
    ) -> dict[str, str]:
        """Find the words of new spellings and put them in; returns canonical values by word."""
        canonical = personal_form(data_class, pa.array(spellings, pa.string()))
        texts: list[str] = canonical.to_pylist()
        named = self.tokeniser.words(data_class, texts)
        plain = dict(zip(named, texts, strict=True))
        entries = named
        network = self._network_classes().get(data_class)
        if network:
            of_networks = self.tokeniser.words(network, personal_form(network, canonical).to_pylist())
            entries = [f"{word} {of_network}" for word, of_network in zip(named, of_networks, strict=True)]
        for index, entry in zip(indices, entries, strict=True):
            words[index] = entry
        # A new index key may have come meanwhile; then nothing is kept, and all is well with the next batch.
        if all(entry[0] == EPOCHS[epoch] for entry in entries):
            self.lately.learn(data_class, epoch, dict(zip(spellings, entries, strict=True)))
        return plain

    def _seal(
        self, data_class: str, words: Sequence[str], values: Sequence[str], plain: Mapping[str, str], effects: Effects
    ) -> None:
        generation = self.sealer.generation(data_class)
        pending = self._pending(effects)
        noted = {word for (name, _), some in pending.words.items() if name == data_class for word in some}
        unsealed = [word for word in self.lately.unsealed(data_class, generation, words) if word not in noted]
        if not unsealed:
            return
        missing = set(unsealed).difference(plain)
        if missing:
            spelt = {word: value for word, value in zip(words, values, strict=True) if word in missing}
            forms = personal_form(data_class, pa.array(spelt.values(), pa.string())).to_pylist()
            plain = {**plain, **dict(zip(spelt, forms, strict=True))}
        allowed = self._allowed(data_class, unsealed, plain)
        if allowed:
            generation, sealed = self.sealer.seal_bytes(data_class, allowed, [plain[word] for word in allowed])
            effects.sealed.append(SealedRun.of(data_class, generation, allowed, sealed))
        # What is blocked counts as sealed: it needn't be looked at again.
        pending.words.setdefault((data_class, generation), []).extend(unsealed)

    def _allowed(self, data_class: str, words: list[str], plain: Mapping[str, str]) -> list[str]:
        """Those of some words whose values aren't blocked."""
        blocked = self.blocklist.of(data_class)
        if not blocked:
            return words
        digests = self.tokeniser.digests(data_class, [plain[word] for word in words])
        return [word for word, digest in zip(words, digests, strict=True) if digest not in blocked]

    def _pending(self, effects: Effects) -> Pending:
        """What the frame will carry; made with the first value of a batch, before anything is looked up as sealed."""
        for settle in effects.settlers:
            if isinstance(settle, _Promotion) and settle.lately is self.lately:
                return settle.pending
        promotion = _Promotion(self.lately, self.lately.pending())
        effects.settlers.append(promotion)
        return promotion.pending

    def _network_classes(self) -> dict[str, str]:
        four, six = self.ip_prefixes
        classes = {"ipv4": f"ipv4_{four}" if four else "", "ipv6": f"ipv6_{six}" if six else ""}
        return {data_class: network for data_class, network in classes.items() if network}


def _tokens(data_class: str, words: Sequence[str]) -> tuple[pa.LargeStringArray, pa.LargeStringArray]:
    """`personal.token` of each word, and the words, all of which have the same length."""
    table = np.frombuffer("".join(words).encode(), np.uint8).reshape(len(words), WORD_LENGTH)
    before, behind = (np.frombuffer(piece.encode(), np.uint8) for piece in (f"[{data_class}:", "]"))
    tokens = np.empty((len(words), len(before) + WORD_LENGTH + len(behind)), np.uint8)
    tokens[:, : len(before)] = before
    tokens[:, len(before) : -len(behind)] = table
    tokens[:, -len(behind) :] = behind
    return _strings(tokens), _strings(table)


def _strings(table: npt.NDArray[np.uint8]) -> pa.LargeStringArray:
    """The lines of a table of characters."""
    count, length = table.shape
    offsets = np.arange(count + 1, dtype=np.int64) * length
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(table))


@dataclass(frozen=True, slots=True)
class _Promotion:
    """Tells the cache, once a frame is durable, what it carries."""

    lately: SealedLately
    pending: Pending

    def __call__(self) -> None:
        self.lately.promote(self.pending)
