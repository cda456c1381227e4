"""One pass over a query's tree: terms with personal values become terms with what names them.

The same pass serves twice: with the words of tokens it makes what is asked, with digests what resume tokens are bound to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from heimdall_server.domain.expression.columns import Columns
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import words_of
from heimdall_server.domain.expression.tree import (
    All,
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Extract,
    Holds,
    Not,
    Operator,
    Or,
    Query,
    Regex,
    Stage,
    Where,
    Wildcard,
    Words,
)
from heimdall_server.domain.personal import TokenName, token
from heimdall_server.planner.erased_values import FOREVER
from heimdall_server.planner.personal_knowledge import Knowledge, Span, refuse
from heimdall_server.planner.personal_patterns import check_exists, check_extract, check_order, check_pattern, spans_of
from heimdall_server.planner.personal_shapes import all_same, any_of, fields_of, literal_text, operands_of, spelt_number
from heimdall_server.planner.personal_texts import guesses, mixtures, outside, replaced
from heimdall_server.planner.personal_values import NETWORKS_MAX, Names, Network, Reading

BODY: Final = FieldRef(Scope.CORE, "body")
TOKENS: Final = FieldRef(Scope.CORE, "tokens")
_POSITION: Final = FieldRef(Scope.CORE, "position")
_TEXT_VALUED: Final = (FieldKind.KEYWORD, FieldKind.ATTRIBUTE)


@dataclass(frozen=True, slots=True)
class Matched:
    """A value (or a network) that a query asks for."""

    data_class: str
    words: tuple[str, ...]
    """Of its tokens, under each live epoch and in each of its forms: what it may be counted and remembered by."""


class TermPass:
    """Rewrites a tree. Not thread-safe."""

    def __init__(self, known: Knowledge, names: Names, *, keep: bool) -> None:
        """Begin a pass.

        Args:
            known: Fields, texts, the policy.
            names: What values become.
            keep: Whether what may be stored in plain is asked for in plain, too.
        """
        self._known = known
        self._names = names
        self._keep = keep
        self._columns = Columns()
        self._matched: dict[Matched, None] = {}

    @property
    def matched(self) -> tuple[Matched, ...]:
        """Values that were named so far, each once."""
        return tuple(self._matched)

    def query(self, query: Query) -> Query:
        """Rewrite a query; the same object if nothing in it is personal.

        Raises:
            QuerySyntaxError: It can't be asked.
        """
        filter_ = self.expression(query.filter)
        stages: list[Stage] = []
        for stage in query.stages:
            stages.append(self._stage(stage))
            self._columns = self._columns.after(stage)
        same = filter_ is query.filter and all(a is b for a, b in zip(stages, query.stages, strict=True))
        return query if same else Query(filter_, tuple(stages))

    def expression(self, node: Expression) -> Expression:
        """Rewrite an expression; the same object if nothing in it is personal."""
        if isinstance(node, All):
            return node
        if isinstance(node, Not):
            operand = self.expression(node.operand)
            return node if operand is node.operand else Not(operand)
        if isinstance(node, And):
            operands = tuple(map(self.expression, node.operands))
            return node if all_same(operands, node.operands) else And(operands)
        if isinstance(node, Or):
            return self._or(node)
        self._known.check_name(node.field)
        return self._leaf(node)

    def _leaf(self, leaf: Words | Compare | Wildcard | Regex | Cidr | Exists | Holds) -> Expression:
        if isinstance(leaf, Words):
            return self._words(leaf)
        if isinstance(leaf, Exists):
            # Behind `stats` and `fields` it is a column, which is there or not.
            if self._columns.holds(BODY) and self._columns.holds(TOKENS):
                check_exists(self._known, leaf)
            return leaf
        if isinstance(leaf, Holds) or not self._known.protected(leaf.field):
            return leaf
        if isinstance(leaf, Cidr):
            return self._cidr(leaf)
        if isinstance(leaf, Compare):
            if leaf.operator is Operator.EQ:
                return self._equal(leaf, leaf)
            if self._columns.kind(leaf.field) in _TEXT_VALUED:
                check_order(self._known, leaf)
        else:
            check_pattern(self._known, leaf)
        return leaf

    def _or(self, node: Or) -> Expression:
        operands: list[Expression] = []
        at = 0
        while at < len(node.operands):
            pair = node.operands[at : at + 2]
            if spelt := spelt_number(pair):
                self._known.check_name(spelt.field)
                plain: Expression = Or(pair)
                done = self._equal(spelt, plain) if self._known.protected(spelt.field) else plain
                operands += operands_of(done)
                at += 2
                continue
            done = self.expression(pair[0])
            operands += (done,) if done is pair[0] else operands_of(done)
            at += 1
        return node if all_same(operands, node.operands) else any_of(operands)

    def _equal(self, leaf: Compare, plain: Expression) -> Expression:
        """EQ; `plain` is the whole term, of which the leaf may be a part."""
        text = literal_text(leaf.value)
        if text is None:
            return plain
        classes = self._known.field_classes(leaf.field)
        if classes and self._columns.holds(BODY) and self._columns.holds(TOKENS):
            name = self._known.token_name(classes[0], text)
            if name is not None:
                return Or((Words(BODY, (name.word,)), Words(TOKENS, (name.word,))))
            readings = self._known.readings(leaf.field, classes, text) if self._known.is_value(text) else ()
            if readings:
                return self._anywhere(readings, (BODY, TOKENS), self._plain_anywhere(text, plain))
        return self._in_field(leaf, text, classes, plain)

    def _plain_anywhere(self, text: str, plain: Expression) -> Expression:
        """A value of a class field where it may be kept: a field of that name has it, or a body, as in a phrase that was typed."""
        words = words_of(text)
        return any_of((*operands_of(plain), Words(BODY, words, text))) if words else plain

    def _anywhere(self, readings: Sequence[Reading], columns: Sequence[FieldRef], plain: Expression) -> Expression:
        """A value in any field of a record."""
        words = [word for reading in readings for word in self._names.by_epoch(reading).values()]
        self._note(readings[0].data_class, words)
        through = max(map(self._names.erased_through, readings), default=0)
        found = self._since(through, [Words(column, (word,)) for column in columns for word in words])
        if self._keep and any(self._known.kept(reading.data_class) for reading in readings):
            found += operands_of(plain)
        return any_of(found)

    def _in_field(self, leaf: Compare, text: str, classes: Sequence[str], plain: Expression) -> Expression:
        """A text that a field has as a whole."""
        ref = leaf.field
        if self._columns.kind(ref) not in _TEXT_VALUED or not self._known.is_value(text):
            return plain
        whole: tuple[Reading, ...] = ()
        if named := self._known.named_class(ref):
            whole = self._known.readings_of(named, text)
        elif classes:
            whole = self._known.readings(ref, classes, text)
        named_readings = [(each, word) for each in whole for word in self._names.by_epoch(each).values()]
        through = max(map(self._names.erased_through, whole), default=0)
        texts = dict.fromkeys((token(reading.data_class, word) for reading, word in named_readings), through)
        if whole:
            self._note(whole[0].data_class, (word for _, word in named_readings))
        spans: tuple[Span, ...] = ()
        kept = [self._known.kept(reading.data_class) for reading in whole]
        if not whole or any(kept) or ref.scope is Scope.COMPUTED:
            spans = spans_of(self._known, leaf, text)
        for mixed, erased in self._mixed(text, spans).items():
            texts[mixed] = max(erased, texts.get(mixed, 0))
        if not texts:
            return plain
        found = self._living((Compare(ref, Operator.EQ, each), erased) for each, erased in texts.items())
        if self._keep and all(kept) and all(self._known.kept(span.data_class) for span in spans):
            found += operands_of(plain)
        return any_of(found)

    def _mixed(self, text: str, spans: Sequence[Span]) -> dict[str, int]:
        """Every text with tokens that a record may have in place of this one, and through which position values in it were erased."""
        if not spans:
            return {}
        texts: dict[str, int] = {}
        named = {span: self._names_in(text, span) for span in spans}
        kept = (
            frozenset(filter(self._known.kept, (span.data_class for span in spans))) if self._keep else frozenset[str]()
        )
        erased = {span: self._names.erased_through(self._known.reading_in(text, span)) for span in spans}
        epochs = [epoch for epoch in named[spans[0]] if all(epoch in each for each in named.values())]
        for plain in mixtures(spans, kept):
            through = max(erased[span] for span in spans if span.data_class not in plain)
            for epoch in epochs:
                texts[replaced(text, spans, {span: named[span][epoch] for span in spans}, plain)] = through
        return texts

    def _living(self, found: Iterable[tuple[Expression, int]]) -> list[Expression]:
        """Alternatives without the records from before their values were erased; those of one position together."""
        by_position: dict[int, list[Expression]] = {}
        for term, through in found:
            by_position.setdefault(through, []).append(term)
        return [term for through, terms in by_position.items() for term in self._since(through, terms)]

    def _since(self, through: int, found: Sequence[Expression]) -> list[Expression]:
        """Alternatives, of records that came in after a position; 0: of all."""
        if not through:
            return list(found)
        if through >= FOREVER or not self._columns.holds(_POSITION):
            # Behind `stats` and `fields` nothing tells the old from the new. To say so would tell of the erasure whoever may not ask.
            return []
        return [And((any_of(found), Compare(_POSITION, Operator.GT, float(through))))]

    def _names_in(self, text: str, span: Span) -> Mapping[str, str]:
        named = self._names.by_epoch(self._known.reading_in(text, span))
        self._note(span.data_class, named.values())
        return named

    def _words(self, leaf: Words) -> Expression:
        if leaf.field not in (BODY, TOKENS):
            return leaf
        columns = [BODY, TOKENS] if leaf.field == BODY and self._columns.holds(TOKENS) else [leaf.field]
        if not leaf.text:
            return self._guessed(leaf, columns)
        text = leaf.text.strip()
        if text.startswith("[") and (name := TokenName.parse(text)) is not None:
            return any_of([Words(column, (name.word,)) for column in columns])
        spans = self._known.spans(text)
        if not spans:
            return leaf
        if not outside(text, spans):
            span = spans[0]
            readings = self._known.readings_of(span.data_class, text[span.start : span.end])
            return self._anywhere(readings, columns, leaf)
        if leaf.field == TOKENS:
            refuse(TOKENS, "tokens holds single words of tokens, and no phrases", "ask for the value alone")
        found = self._living((Words(BODY, words_of(each)), erased) for each, erased in self._mixed(text, spans).items())
        if self._keep and all(self._known.kept(span.data_class) for span in spans):
            found.append(leaf)
        return any_of(list(dict.fromkeys(found)))

    def _guessed(self, leaf: Words, columns: Sequence[FieldRef]) -> Expression:
        """A leaf that a program made, without the text: a personal value only if all its words make one."""
        for text in guesses(leaf):
            spans = self._known.spans(text)
            if len(spans) == 1 and not outside(text, spans):
                span = spans[0]
                return self._anywhere(
                    self._known.readings_of(span.data_class, text[span.start : span.end]), columns, leaf
                )
        return leaf

    def _cidr(self, leaf: Cidr) -> Expression:
        network = Network.parse(leaf.network)
        version = network.version_class
        if network.is_address:
            return self._equal(Compare(leaf.field, Operator.EQ, str(network.address.network_address)), leaf)
        if not self._known.tokenised(version) or self._columns.kind(leaf.field) not in _TEXT_VALUED:
            return leaf
        if not self._known.field_classes(leaf.field):
            if self._known.kept(version):
                return leaf
            refuse(
                leaf.field,
                f"{version} addresses in {leaf.field} are tokens, which don't tell their networks",
                "ask ip:ADDRESS/BITS, which finds an address of the network in any field",
            )
        prefix = self._known.prefix(version)
        if not prefix:
            refuse(leaf.field, f"{version} addresses are tokens, and no networks are kept of them", "ask for addresses")
        widest = max(prefix - NETWORKS_MAX.bit_length() + 1, 0)
        if not widest <= network.bits <= prefix:
            refuse(
                leaf.field,
                f"{version} addresses are tokens, by which networks of /{widest} to /{prefix} are found, and not /{network.bits}",
                "ask for such a network, or for addresses",
            )
        if not self._columns.holds(TOKENS):
            refuse(
                leaf.field,
                "networks are found by the field tokens, which an earlier stage left out",
                "filter before it",
            )
        words = self._names.words(f"{version}_{prefix}", network.within(prefix))
        self._note(f"{version}_{prefix}", words)
        found: list[Expression] = [Words(TOKENS, (word,)) for word in words]
        if self._keep and self._known.kept(version):
            found.append(leaf)
        return any_of(found)

    def _stage(self, stage: Stage) -> Stage:
        for ref in fields_of(stage):
            self._known.check_name(ref)
        if isinstance(stage, Where):
            done = self.expression(stage.expression)
            return stage if done is stage.expression else replace(stage, expression=done)
        if isinstance(stage, Extract):
            check_extract(self._known, stage)
        return stage

    def _note(self, data_class: str, words: Iterable[str]) -> None:
        self._matched[Matched(data_class, tuple(words))] = None
